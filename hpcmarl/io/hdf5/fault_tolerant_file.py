"""A file for HDF5 to write whose disk may fail: HDF5 is never told, we are.

All HDF5 files are written through here (schema.new_file, shard.ShardFile). HDF5 2.0 ends the process with a
segmentation fault when it has to close a file after a write that failed, and on a full disk that would end a
whole run for the sake of a log. So after the first error nothing more reaches the disk, what HDF5 still
writes is kept in memory as far as it may read it again, `check` raises the error, and the file can be closed.
Its repr is the path, which h5py reports as the file's name. Knows no format.
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

KEPT = 1 << 20  # bytes: larger writes are data, which HDF5 does not read again


class FaultTolerantFile(io.RawIOBase):
    """A new file, open for reading and writing; an old one of that name is removed, never written through.

    With `fresh` an old one stays, and FileExistsError is raised. Raises OSError."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        super().__init__()
        self.path = path
        self.error: OSError | None = None
        self._place = self._size = 0
        self._after: list[tuple[int, bytes]] = []  # what was written after the error
        if not fresh:
            path.unlink(missing_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        # tells salvage that the writer lives; some file systems have no locks
        with contextlib.suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def __repr__(self) -> str:
        return str(self.path)

    def check(self) -> None:
        """Raises the first error of the disk, if there was one."""
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
        """Nothing is buffered here."""

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)


class Closable(Protocol):
    """What close_at_exit takes."""

    def close(self) -> None:
        """May be called more than once."""


_ended = False
_writers: weakref.WeakSet[Closable] = weakref.WeakSet()
_open_files: weakref.WeakSet[h5py.File] = weakref.WeakSet()


def create(path: Path, *, fresh: bool = False, **options: Any) -> tuple[h5py.File, FaultTolerantFile]:
    """A new HDF5 file and the disk's side of it: ask that one with `check` after writing; `fresh`: as of
    SturdyFile. Raises OSError."""
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
    """Closes both; a failed disk is no error here."""
    try:
        file.close()
    except (OSError, RuntimeError, ValueError):
        if sink.error is None:
            raise
    finally:
        sink.close()


def close_at_exit(writer: Closable) -> None:
    """Has a writer with a thread of its own closed before Python ends, if nobody has: a thread that is cut
    off inside HDF5 hangs the exit."""
    _writers.add(writer)


@atexit.register
def _close_all() -> None:
    """HDF5 itself would close files after Python's end and call into it, which hangs or crashes."""
    global _ended
    for writer in list(_writers):
        with contextlib.suppress(Exception):
            writer.close()
    with phil:  # h5py's lock: nobody is inside HDF5 now
        _ended = True
        for file in list(_open_files):
            with contextlib.suppress(Exception):
                file.close()
