"""HDF5 files that can be closed after a write error, and closing of all files at exit.

After a failed write, HDF5 2.0 crashes with a segmentation fault when it closes the file. A full disk would
then end the whole run. `FaultTolerantFile` therefore hides I/O errors from HDF5 and raises them in `check()`.
After the first error nothing more is written to the disk. Writes that HDF5 may read again are kept in memory,
so that the file can be closed.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import io
import os
import weakref
from pathlib import Path
from typing import Any, Protocol

import h5py
from h5py._objects import phil

# Bytes. After an error, larger writes are dropped: they are data, which HDF5 does not read again.
KEPT = 1 << 20


class FaultTolerantFile(io.RawIOBase):
    """A new file for HDF5, open for reading and writing, that hides I/O errors until `check()`.

    An existing file of that name is removed, never overwritten in place. The repr is the path, which h5py
    reports as the name of the file.

    Args:
        path: The file.
        fresh: Raise FileExistsError instead of removing an existing file.

    Attributes:
        error: First error of the disk; None if there was none.

    Raises:
        OSError: If the file cannot be created.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        super().__init__()
        self.path = path
        self.error: OSError | None = None
        self._place = self._size = 0
        self._after: list[tuple[int, bytes]] = []  # (offset, data) of the writes after the error
        if not fresh:
            path.unlink(missing_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # The lock shows salvage that the writer is running. Some file systems have no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __repr__(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Raise the first error of the disk, if there was one."""
        if self.error is not None:
            raise self.error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._place))
        done = 0
        with contextlib.suppress(OSError):
            while done < count and (
                piece := os.preadv(self._descriptor, [view[done:count]], self._place + done)
            ):
                done += piece
        view[done:count] = bytes(count - done)
        for offset, data in self._after:
            first, last = max(offset, self._place), min(offset + len(data), self._place + count)
            if first < last:
                view[first - self._place : last - self._place] = data[first - offset : last - offset]
        self._place += count
        return count

    def write(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self.error is None:
            try:
                done += os.pwrite(self._descriptor, view[done:], self._place + done)
            except OSError as error:
                self.error = error
        if self.error is not None and len(view) <= KEPT:
            self._after.append((self._place, bytes(view)))
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._place if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._descriptor, self._size)
            except OSError as error:
                self.error = error
        return self._size

    def flush(self) -> None:
        """Do nothing, since nothing is buffered here."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class Closable(Protocol):
    """An object that `close_at_exit` accepts."""

    def close(self) -> None:
        """Close it. It may be called more than once."""


_ended = False
_writers: weakref.WeakSet[Closable] = weakref.WeakSet()
_open_files: weakref.WeakSet[h5py.File] = weakref.WeakSet()


def create(path: Path, *, fresh: bool = False, **options: Any) -> tuple[h5py.File, FaultTolerantFile]:
    """Create an HDF5 file on a FaultTolerantFile.

    Args:
        path: The file; an existing one is replaced.
        fresh: Raise FileExistsError instead of replacing an existing file.
        **options: Options of h5py.File.

    Returns:
        The HDF5 file and the FaultTolerantFile below it. Call `check()` of the latter after writing.

    Raises:
        OSError: If the file cannot be created.
    """
    with phil:
        if _ended:
            raise OSError(errno.ESHUTDOWN, "the process is ending")
        sink = FaultTolerantFile(path, fresh=fresh)
        try:
            file = h5py.File(sink, "w", **options)
        except BaseException:
            sink.close()
            raise
        _open_files.add(file)
    return file, sink


def close(file: h5py.File, sink: FaultTolerantFile) -> None:
    """Close an HDF5 file and the FaultTolerantFile below it.

    After an error of the disk nothing is raised here; `sink.check()` raises that error.
    """
    try:
        file.close()
    except (OSError, RuntimeError, ValueError):
        if sink.error is None:
            raise
    finally:
        sink.close()


def close_at_exit(writer: Closable) -> None:
    """Close a writer with a background thread before Python exits, if it is still open then.

    A thread that is interrupted inside HDF5 would hang the exit.
    """
    _writers.add(writer)


@atexit.register
def _close_all() -> None:
    """Close all writers and HDF5 files.

    Otherwise HDF5 would close the files after Python has ended and call into it, which hangs or crashes.
    """
    global _ended
    for writer in list(_writers):
        with contextlib.suppress(Exception):
            writer.close()
    with phil:  # h5py's lock: no thread is inside HDF5 now
        _ended = True
        for file in list(_open_files):
            with contextlib.suppress(Exception):
                file.close()
