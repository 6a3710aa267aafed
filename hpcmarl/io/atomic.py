"""Files that are whole or absent: temporary name, flush, fsync, verify, rename, fsync of the directory.

All of io/ publishes files through here. Knows nothing of what the files hold. A temporary file has the final
name plus ".partial", in the same directory, so that the rename is atomic; a stale one is overwritten by the
next attempt.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hpcmarl.errors import FormatError, StorageError

PARTIAL = ".partial"
NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
# 524 is the kernel's ENOTSUPP, which NFS and Lustre answer where locks are off
LOCK_ERRORS = (
    errno.EAGAIN,
    errno.ENOLCK,
    524,
)

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or put the run on another disk with --run-dir",
    errno.EDQUOT: "the disk quota is used up: delete old runs, or use --run-dir on another file system",
    errno.EFBIG: (
        "the file size limit is reached: raise `ulimit -f`, or set a smaller trajectories.shard_megabytes"
    ),
    errno.EROFS: "the file system is read-only: use --run-dir on a writable one",
    errno.EACCES: "permission is denied: use --run-dir where you may write, or change the directory's mode",
    errno.EPERM: "the operation is not permitted: use --run-dir where you may write",
    errno.ENOENT: (
        "the directory does not exist (was it deleted or unmounted during the run?): create it, or "
        "use another --run-dir"
    ),
    errno.ENOTDIR: "a part of the path is a file: use another --run-dir",
    errno.ENAMETOOLONG: "the path is too long: use a shorter --run-dir",
    errno.EIO: "the disk or its network reports an input/output error: check the file system",
    errno.ESTALE: (
        "the network file system lost the file: check that the directory was not replaced during the run"
    ),
}
_LOCK_REMEDY = (
    "another process has the file open, or the file system has no locks; in the second case set "
    "HDF5_USE_FILE_LOCKING=FALSE"
)


def errno_of(error: BaseException) -> int | None:
    """The system's error number, also where HDF5 only quotes it in its text."""
    number = getattr(error, "errno", None)
    quoted = re.search(r"errno = (\d+)", str(error))
    return int(quoted[1]) if quoted else number


def remedy(error: BaseException) -> str:
    """What to do about a system error, as half a sentence."""
    number = errno_of(error)
    if number in LOCK_ERRORS:
        return _LOCK_REMEDY
    return _REMEDIES.get(number or 0, "check the path and the file system")


def storage_error(path: str | os.PathLike[str], action: str, error: BaseException) -> StorageError:
    """One line: the path, what failed, the system's words and the remedy."""
    number = errno_of(error)
    words = os.strerror(number) if number and number != 524 else " ".join(str(error).split())[:200]
    return StorageError(f"{os.fspath(path)}: cannot {action}: {words}; {remedy(error)}")


def partial_path(path: Path) -> Path:
    """Where the file is written until it is whole."""
    return path.with_name(path.name + PARTIAL)


def fsync_path(path: Path) -> None:
    """Forces a file, or a directory's names, to the disk. File systems that cannot sync a directory are
    forgiven."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def publish(partial: Path, path: Path, verify: Callable[[Path], object] | None = None) -> None:
    """Gives a finished temporary file its final name: fsync, verify, rename, fsync of the directory.

    Raises OSError where the disk fails and whatever `verify` raises; then the final name is untouched.
    """
    fsync_path(partial)
    if verify is not None:
        verify(partial)
    os.replace(partial, path)
    fsync_path(path.parent)


def publish_new(partial: Path, path: Path, verify: Callable[[Path], object] | None = None) -> None:
    """Give a finished temporary file a final name that nobody has; an existing file is never replaced.

    A hard link takes the name or fails, on network file systems too. Where there are no hard links an empty
    file reserves the name, and a rename replaces that.

    Args:
        partial: the finished temporary file; gone afterwards.
        path: the final name.
        verify: called with the temporary file before it is published.

    Raises:
        FileExistsError: the name is taken; the temporary file is still there.
        OSError: the disk fails. Whatever `verify` raises is passed on.
    """
    fsync_path(partial)
    if verify is not None:
        verify(partial)
    try:
        os.link(partial, path)
    except FileExistsError:
        # a repeated request of NFS reports its own success as a failure
        if not os.path.samefile(partial, path):
            raise
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(partial, path)
    partial.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_atomically(
    path: Path, write: Callable[[Path], object], verify: Callable[[Path], object] | None = None
) -> None:
    """Calls write(temporary path), then publishes it as `path`. Nothing is left behind on failure. Raises
    StorageError."""
    partial = partial_path(path)
    try:
        partial.unlink(missing_ok=True)  # a stale one; were it a link, writing would go through it
        write(partial)
        publish(partial, path, verify)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise storage_error(path, "write", error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """A small text file, whole or absent. Raises StorageError."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading that must be one: a pipe would wait for ever, a device never end. Raises
    FormatError, OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise FormatError(f"{path}: {'a directory, ' if stat.S_ISDIR(mode) else ''}not a regular file")


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole of a file of at most `limit` bytes. Raises FormatError for a larger one and for what is no
    regular file, OSError."""
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size <= limit:
            content = stream.read(limit + 1)
            if len(content) <= limit:
                return content
    raise FormatError(
        f"{path}: larger than {limit >> 20} MiB, which hpcmarl does not write; the file is damaged or foreign"
    )
