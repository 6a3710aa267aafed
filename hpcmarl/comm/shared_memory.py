"""Memory that an actor shares with its workers on the same host, and the waits for changes in it.

The memory is a file in /dev/shm without a name: the actor creates it, and its workers open it through
/proc/PID/fd. So nothing is left behind after any end of the processes, SIGKILL included. Its pages are
allocated when it is created, since a process that touches a page for which there is no room dies of a bus
error.

A process that waits sleeps in the kernel (futex) until the other process wakes it. Where there is no futex,
it sleeps for short times instead.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import LaunchError

SHARED_DIRECTORY = Path("/dev/shm")
ALIGNMENT = 64  # a cache line, so that two processes do not write to the same one
# number of the system call futex, by machine
FUTEX_CALLS = {"x86_64": 202, "aarch64": 98, "ppc64le": 221, "riscv64": 98, "s390x": 238}
FUTEX_WAIT, FUTEX_WAKE = 0, 1
NAP_SECONDS, LONGEST_NAP_SECONDS = 50e-6, 1e-3


@dataclass(frozen=True)
class SegmentAddress:
    """Place at which another process of the host finds a shared segment.

    Attributes:
        process: Number of the process that created it.
        descriptor: Its file descriptor in that process.
        device: Device of the file, to recognize it.
        inode: Inode of the file.
        size: Length in bytes.
    """

    process: int
    descriptor: int
    device: int
    inode: int
    size: int


def free_shared_bytes() -> int | None:
    """Return the free space of /dev/shm in bytes; None if it does not exist."""
    try:
        status = os.statvfs(SHARED_DIRECTORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


class SharedSegment:
    """A piece of memory that processes of one host share.

    Attributes:
        buffer: The memory, uint8. It stays valid as long as arrays refer to it.
        address: Where other processes find it.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        """Map an open file; use `create` or `attach` instead."""
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, size)
        self.buffer: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        status = os.fstat(descriptor)
        self.address = SegmentAddress(os.getpid(), descriptor, status.st_dev, status.st_ino, size)

    @classmethod
    def create(cls, size: int) -> SharedSegment:
        """Create a segment, filled with zeros.

        Raises:
            LaunchError: If /dev/shm does not exist or has no room for it.
        """
        size = max(size, mmap.PAGESIZE)
        try:
            descriptor = os.open(SHARED_DIRECTORY, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LaunchError(
                f"workers share memory through {SHARED_DIRECTORY}, which cannot be used: {error.strerror}; "
                "set topology.workers_per_actor: 0"
            ) from error
        try:
            os.posix_fallocate(descriptor, 0, size)
            return cls(descriptor, size)
        except OSError as error:
            os.close(descriptor)
            raise LaunchError(too_small(size, free_shared_bytes())) from error

    @classmethod
    def attach(cls, address: SegmentAddress) -> SharedSegment:
        """Map a segment that another process has created and still holds.

        Raises:
            LaunchError: If this process cannot open it.
        """
        place = f"/proc/{address.process}/fd/{address.descriptor}"
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise LaunchError(
                f"a worker cannot open the memory of its actor at {place}: {error.strerror}; start the ranks "
                "of a host in one container, or set topology.workers_per_actor: 0"
            ) from error
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != (address.device, address.inode):
            os.close(descriptor)
            raise LaunchError(
                f"a worker finds another file than the memory of its actor at {place}; start the ranks of a "
                "host in one container, or set topology.workers_per_actor: 0"
            )
        return cls(descriptor, address.size)

    def close(self) -> None:
        """Close the file. The memory itself is freed when no array refers to it any more."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1


def too_small(size: int, free: int | None) -> str:
    """Return the line about memory of `size` bytes that does not fit into `free` bytes of /dev/shm."""
    there = "which does not exist" if free is None else f"{free / 1e6:.1f} MB are free"
    return (
        f"workers need {size / 1e6:.1f} MB of {SHARED_DIRECTORY} ({there}); enlarge it (mount -o "
        "remount,size=..., or --shm-size of a container), lower topology.environments_per_actor, or set "
        "topology.workers_per_actor: 0"
    )


class Allocator:
    """Assign arrays to places in a buffer, one after another.

    Two processes that ask for the same arrays in the same order get the same places.

    Attributes:
        size: Bytes assigned so far.
    """

    def __init__(self, buffer: NDArray[np.uint8] | None) -> None:
        """Begin at the start of the buffer; without one, only the size is determined."""
        self._buffer = buffer
        self.size = 0

    def take(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return the next array: a view of the buffer, or without a buffer an array of its own."""
        kind = np.dtype(dtype)
        length = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        start, self.size = self.size, self.size + -(-length // ALIGNMENT) * ALIGNMENT
        if self._buffer is None:
            return np.zeros(0, kind)
        array: NDArray[Any] = self._buffer[start : start + length].view(kind).reshape(shape)
        return array

    def skip(self, length: int) -> None:
        """Leave out some bytes. Used to determine sizes."""
        self.size += -(-length // ALIGNMENT) * ALIGNMENT


_lock = threading.Lock()
_acquire, _release = _lock.acquire, _lock.release


def fence() -> None:
    """Make all earlier writes visible to other processes before any later read or write takes place.

    Processors with a weak memory order could otherwise show a flag before the data that it announces. Two
    turns of a lock order everything before the first against everything after the second.
    """
    _acquire()
    _release()
    _acquire()
    _release()


class _Timeout(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class Futex:
    """Waits for 32-bit words of a shared array, and wakes for them.

    Args:
        words: int32 array in shared memory.

    Attributes:
        exists: Whether the kernel's futex is used; otherwise waits are short sleeps.
    """

    def __init__(self, words: NDArray[np.int32]) -> None:
        self._words = memoryview(words)  # type: ignore[arg-type]
        self._address = words.ctypes.data
        self._timeout = _Timeout()
        self._timeout_address = ctypes.addressof(self._timeout)
        self._number = FUTEX_CALLS.get(platform.machine()) if platform.system() == "Linux" else None
        self._call: Any = None
        if self._number is not None and ctypes.sizeof(ctypes.c_long) == 8:
            self._call = ctypes.CDLL(None, use_errno=False).syscall
            self._call.argtypes = [
                ctypes.c_long,
                ctypes.c_void_p,
                ctypes.c_int,
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_int,
            ]
        self.exists = self._call is not None

    def wait(self, index: int, value: int, seconds: float) -> None:
        """Sleep while a word has a value, at most for some time; may return early.

        Args:
            index: Number of the word.
            value: Value at which to sleep.
            seconds: Longest sleep, less than a second.
        """
        if self._call is None:
            self._nap(index, value, seconds)
            return
        self._timeout.nanoseconds = int(seconds * 1e9)
        self._call(self._number, self._address + 4 * index, FUTEX_WAIT, value, self._timeout_address, None, 0)

    def wake(self, index: int) -> None:
        """Wake the process that waits for a word."""
        if self._call is not None:
            self._call(self._number, self._address + 4 * index, FUTEX_WAKE, 1, None, None, 0)

    def _nap(self, index: int, value: int, seconds: float) -> None:
        nap, end = NAP_SECONDS, time.monotonic() + seconds
        while self._words[index] == value and time.monotonic() < end:
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP_SECONDS)
