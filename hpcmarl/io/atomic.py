"""Atomic writing of files, and remedies for errors of the file system.

A published file is complete or absent: it is written under a temporary name, flushed, fsynced, verified and
renamed, and then its directory is fsynced. The temporary file has the final name plus ".partial", in the same
directory, so that the rename is atomic. The next attempt overwrites a stale temporary file.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from hpcmarl.errors import FormatError, StorageError

PARTIAL = ".partial"
NO_HARD_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
# 524 is the kernel's ENOTSUPP, which NFS and Lustre return if locks are turned off.
LOCK_ERRORS = (errno.EAGAIN, errno.ENOLCK, 524)

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
    """Return the error number of the system; HDF5 may give it only as part of its message."""
    number = getattr(error, "errno", None)
    quoted = re.search(r"errno = (\d+)", str(error))
    return int(quoted[1]) if quoted else number


def remedy(error: BaseException) -> str:
    """Return the remedy for a system error, as half a sentence."""
    number = errno_of(error)
    if number in LOCK_ERRORS:
        return _LOCK_REMEDY
    return _REMEDIES.get(number or 0, "check the path and the file system")


def storage_error(path: str | os.PathLike[str], action: str, error: BaseException) -> StorageError:
    """Build an error of one line: the path, the failed action, the message of the system and the remedy."""
    number = errno_of(error)
    words = os.strerror(number) if number and number != 524 else " ".join(str(error).split())[:200]
    return StorageError(f"{os.fspath(path)}: cannot {action}: {words}; {remedy(error)}")


def partial_path(path: Path) -> Path:
    """Return the temporary name of a file, under which it is written until it is complete."""
    return path.with_name(path.name + PARTIAL)


def fsync_path(path: Path) -> None:
    """Force the content of a file, or the entries of a directory, to the disk.

    A file system that cannot sync directories is accepted.

    Raises:
        OSError: If the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def publish(partial: Path, path: Path, verify: Callable[[Path], object] | None = None) -> None:
    """Give a finished temporary file its final name: fsync, verify, rename, fsync of the directory.

    Args:
        partial: The finished temporary file.
        path: The final name; an existing file is replaced.
        verify: Called with the temporary file before the rename. Its exceptions are passed on; then the final
            name is unchanged.

    Raises:
        OSError: If the disk fails.
    """
    fsync_path(partial)
    if verify is not None:
        verify(partial)
    os.replace(partial, path)
    fsync_path(path.parent)


def publish_new(partial: Path, path: Path, verify: Callable[[Path], object] | None = None) -> None:
    """Give a finished temporary file a final name that is free; never replace an existing file.

    A hard link takes the name or fails, on network file systems too. If the file system has no hard links, an
    empty file reserves the name, and the rename replaces that file.

    Args:
        partial: The finished temporary file. It is removed on success.
        path: The final name.
        verify: Called with the temporary file before it is published. Its exceptions are passed on.

    Raises:
        FileExistsError: If the name is taken. The temporary file still exists.
        OSError: If the disk fails.
    """
    fsync_path(partial)
    if verify is not None:
        verify(partial)
    try:
        os.link(partial, path)
    except FileExistsError:
        # NFS may repeat a request that has already succeeded; the repetition then fails.
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
    """Write a file with `write`, called with the temporary path, and publish it as `path`.

    After a failure no temporary file is left.

    Args:
        path: The final name; an existing file is replaced.
        write: Writes the file of the path that it is given.
        verify: Called with the temporary file before it is published. Its exceptions are passed on.

    Raises:
        StorageError: If the disk fails.
    """
    partial = partial_path(path)
    try:
        # Remove a stale file. If it were a link, writing would change the file behind it.
        partial.unlink(missing_ok=True)
        write(partial)
        publish(partial, path, verify)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise storage_error(path, "write", error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_directory(path: Path, write: Callable[[Path], object]) -> None:
    """Write a new directory with `write`, called with a temporary directory, and publish it as `path`.

    After a failure no temporary directory is left. A stale one of a killed writer is removed first.

    Args:
        path: The final name, which must not exist.
        write: Writes files into the directory that it is given.

    Raises:
        StorageError: If the disk fails, or the name is taken.
    """
    partial = partial_path(path)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write(partial)
        for file in (each for each in partial.rglob("*") if each.is_file()):
            fsync_path(file)
        fsync_path(partial)
        os.rename(partial, path)
        fsync_path(path.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise storage_error(path, "write", error) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically.

    Raises:
        StorageError: If the disk fails.
    """
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Other kinds are refused: reading from a pipe could wait for ever, and reading from a device might never
    end.

    Raises:
        FormatError: If it is not a regular file.
        OSError: If it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise FormatError(f"{path}: {'a directory, ' if stat.S_ISDIR(mode) else ''}not a regular file")


def read_bytes(path: Path, limit: int) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Raises:
        FormatError: If it is larger, or not a regular file.
        OSError: If it cannot be read.
    """
    with open_regular(path) as stream:
        if os.fstat(stream.fileno()).st_size <= limit:
            content = stream.read(limit + 1)
            if len(content) <= limit:
                return content
    raise FormatError(
        f"{path}: larger than {limit >> 20} MiB, which hpcmarl does not write; the file is damaged or foreign"
    )
