"""The exclusive lock on a run directory: only one job at a time writes there.

The lock is a file that only one process can create, on NFS and Lustre too. It names its owner. A thread
renews its time of modification. A lock is taken over if its owner is provably gone, or has not renewed it for
STALE_SECONDS. Ages are measured by the clock of the file system, because the clocks of hosts differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpcmarl.errors import ConfigError, StorageError
from hpcmarl.io.atomic import NO_HARD_LINKS, errno_of, remedy

NAME = "run.lock"
RENEWAL_SECONDS = 10.0
STALE_SECONDS = 120.0
RELEASE_SECONDS = 5.0
# In case clocks differ, a lock is only taken over after this process has seen so many renewals missed …
WATCHED_RENEWALS = 2.5
CERTAIN_SECONDS = 3600.0  # … or if the lock is that old.
# An owner that has not read its lock for so long was suspended, or its file system stalled.
LOOK_SECONDS = 1.5 * RENEWAL_SECONDS
LARGEST_LOCK = 1 << 16  # bytes
# Whether an owner has ended; None if nothing proves either.
Judge = Callable[[Mapping[str, Any]], bool | None]


class RunLock:
    """A lock on a run directory; get one from `acquire`.

    Args:
        directory: The run directory.
        owner: Facts about the owner, as plain values.

    Attributes:
        lost: Reason why the lock is no longer held, in one line; None while it is held.
    """

    def __init__(self, directory: Path, owner: Mapping[str, Any]) -> None:
        self.path = directory / NAME
        self.token = secrets.token_hex(8)
        self.lost: str | None = None
        self._own = directory / f".{NAME}.{self.token}"
        self._content = json.dumps({**owner, "token": self.token}) + "\n"
        self._looked = time.monotonic()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def check(self) -> None:
        """Renew the lock and check that it is still held.

        Call it before writing, so that this job does not overwrite the files of another one.

        Raises:
            StorageError: If another job has taken the lock.
        """
        self._renew()
        if self.lost is not None:
            raise StorageError(self.lost)

    def watch(self) -> None:
        """Check that the lock is still held, cheaply enough for every step.

        The file is read only after LOOK_SECONDS without a renewal, for instance after this process was
        suspended.

        Raises:
            StorageError: If another job has taken the lock.
        """
        if self.lost is None and time.monotonic() - self._looked > LOOK_SECONDS:
            self._renew()
        if self.lost is not None:
            raise StorageError(self.lost)

    def release(self) -> None:
        """Release the lock. It does no harm if the lock is not held."""
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(RELEASE_SECONDS)  # the thread may hang on a file system that stalls
        with contextlib.suppress(OSError):
            if _read(self.path).get("token") == self.token:
                self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._own.unlink(missing_ok=True)

    @property
    def held(self) -> bool:
        """Whether the lock file names this owner."""
        try:
            return _read(self.path).get("token") == self.token
        except FileNotFoundError:
            return False

    def _begin(self) -> None:
        self._thread = threading.Thread(
            target=_keep, args=(weakref.ref(self), self._end), name="run-lock", daemon=True
        )
        self._thread.start()

    def _renew(self) -> None:
        """Renew the lock if it still belongs to this owner.

        An error of the disk does not lose the lock: the next attempt may succeed.
        """
        self._looked = time.monotonic()
        try:
            holder = _read(self.path)
            if holder.get("token") == self.token:
                os.utime(self.path)
            elif not self._end.is_set():
                self.lost = (
                    f"{self.path}: taken over by {_text(holder)}, because this job did not renew it "
                    f"for {STALE_SECONDS:g} s; this job ends"
                )
        except FileNotFoundError:
            if not self._end.is_set():
                self._restore()
        except OSError:
            return

    def _restore(self) -> None:
        """Create the lock file again after another process has removed it."""
        with contextlib.suppress(OSError):
            if not self._create(self.path):
                self._renew()

    def _create(self, path: Path) -> bool:
        """Create a file that names this owner, atomically.

        Returns:
            False if the file exists.

        Raises:
            OSError: If the disk fails.
        """
        if not self._own.exists():
            _write_new(self._own, self._content)
        try:
            os.link(self._own, path)
        except FileExistsError:
            # NFS may repeat a request that has already succeeded; the repetition then fails.
            return path.exists() and os.path.samefile(self._own, path)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            try:
                _write_new(path, self._content)
            except FileExistsError:
                return False
        return True

    def _age(self) -> float:
        """Return the seconds since the lock was renewed, by the clock of the file system."""
        os.utime(self._own)
        return os.stat(self._own).st_mtime - os.stat(self.path).st_mtime

    def _take_over(self, holder: Mapping[str, Any]) -> None:
        """Replace the lock of an owner that is gone.

        A second file makes processes take turns. The process that owns it reads the lock again, so that it
        does not replace the lock of another process that was faster.
        """
        turn = self.path.with_name(f".{NAME}.takeover")
        if not self._create(turn):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._own).st_mtime - os.stat(turn).st_mtime > STALE_SECONDS:
                    turn.unlink()  # the process that created it has died
            time.sleep(RENEWAL_SECONDS / 100)
            os.utime(self._own)
            return
        try:
            if _read(self.path).get("token") == holder.get("token"):
                following = self._own.with_name(self._own.name + ".new")
                _write_new(following, self._content)
                os.replace(following, self.path)
        finally:
            turn.unlink(missing_ok=True)


def acquire(
    directory: str | os.PathLike[str],
    owner: Mapping[str, Any],
    is_gone: Judge,
    say: Callable[[str], None] = lambda line: None,
) -> RunLock:
    """Lock a run directory.

    Args:
        directory: The run directory, which must exist.
        owner: Facts about the owner, as plain values (host, process, job, …). They are stored in the file.
        is_gone: Judges the owner of an existing lock. True: it has ended. False: it is running. None: nothing
            proves either.
        say: Called with one line before waiting.

    Returns:
        The lock, which is held until `release` or the end of the process.

    Raises:
        ConfigError: If another job holds the lock, or the directory cannot be written.
    """
    lock = RunLock(Path(directory), owner)
    try:
        while not lock._create(lock.path) and not lock.held:
            _wait_or_take_over(lock, is_gone, say)
    except OSError as error:
        words = os.strerror(errno_of(error) or 0)
        raise ConfigError(
            f"--run-dir {lock.path.parent}: cannot be locked: {words}; {remedy(error)}"
        ) from error
    except BaseException:
        lock.release()
        raise
    lock._begin()
    return lock


def read_owner(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the facts about the owner of a lock; None if the run directory is not locked."""
    try:
        return _read(Path(directory) / NAME)
    except OSError:
        return None


def _wait_or_take_over(lock: RunLock, is_gone: Judge, say: Callable[[str], None]) -> None:
    """Return when the lock may be free.

    Raises:
        ConfigError: If its owner is running.
    """
    try:
        holder = _read(lock.path)
        first = os.stat(lock.path).st_mtime
        gone, said = is_gone(holder), False
        began = time.monotonic()
        while gone is None and _may_live(age := lock._age(), time.monotonic() - began):
            if not said:
                say(
                    f"{lock.path}: {_text(holder)} renewed it {age:.0f} s ago; waiting to see whether that "
                    "job is still running"
                )
                said = True
            time.sleep(min(1.0, RENEWAL_SECONDS / 5))
            if os.stat(lock.path).st_mtime != first:
                gone = False
        if gone is False:
            raise ConfigError(
                f"--run-dir {lock.path.parent}: in use by {_text(holder)}; stop that job or let it end, or "
                f"choose another --run-dir (the lock of a dead job is taken over {STALE_SECONDS:g} s after "
                "its last renewal)"
            )
        lock._take_over(holder)
    except FileNotFoundError:
        return  # released meanwhile


def _may_live(age: float, watched: float) -> bool:
    """Return whether the owner of a lock may still be running.

    Args:
        age: Seconds since the lock was last renewed.
        watched: Seconds for which this process has seen no renewal.
    """
    return age < STALE_SECONDS or (age < CERTAIN_SECONDS and watched < WATCHED_RENEWALS * RENEWAL_SECONDS)


def _write_new(path: Path, content: str) -> None:
    """Write a new file.

    Raises:
        OSError: If the file exists, or the disk fails.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)


def _read(path: Path) -> dict[str, Any]:
    """Return the owner in a lock file; an empty dictionary if the file does not parse.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as stream:
        content = stream.read(LARGEST_LOCK)
    try:
        holder = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _text(holder: Mapping[str, Any]) -> str:
    job = f"job {holder['job']}, " if holder.get("job") else ""
    return f"{job}process {holder.get('process', 'unknown')} on {holder.get('host', 'an unknown host')}"


def _keep(reference: weakref.ref[RunLock], end: threading.Event) -> None:
    """Renew the lock until it is released, lost or garbage-collected."""
    while not end.wait(RENEWAL_SECONDS):
        lock = reference()
        if lock is None:
            return
        lock._renew()
        if lock.lost is not None:
            return
        del lock
