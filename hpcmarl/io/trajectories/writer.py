"""Writing of trajectories: an actor appends rollouts, and a background thread writes them to shards.

`append` is on the hot path of the actor: it copies the arrays of the rollout and returns. The thread cuts
segments, does all HDF5 work and handles every error. If the disk is too slow, rollouts are dropped and
counted, so memory is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.errors import HpcmarlError, StorageError
from hpcmarl.io.atomic import PARTIAL, storage_error
from hpcmarl.io.hdf5.fault_tolerant_file import close_at_exit
from hpcmarl.io.hdf5.schema import TRAJECTORIES, root_attributes
from hpcmarl.io.trajectories.layout import ENVIRONMENT, INDEX, columns_of, format_version, layout_of_spec
from hpcmarl.io.trajectories.salvage import salvage_file
from hpcmarl.io.trajectories.segments import cut_segments, slot_major
from hpcmarl.io.trajectories.shard import ShardFile, filter_options
from hpcmarl.types import Array, EnvironmentSpec, PolicyRollout, Rollout

LOGGER = logging.getLogger(__name__)
QUEUE_BYTES = 64 << 20  # rollouts that may wait for the disk
WAKE_BYTES = 1 << 20  # the thread is woken early if so many bytes wait
WAKE_SECONDS = 0.25
TOGETHER_BYTES = 1 << 20  # waiting rollouts of so many bytes are converted together
RETRY_SECONDS = 30.0  # after an error of the disk
# After salvage of its open shard, a killed process has lost at most the steps of so many seconds.
FLUSH_SECONDS = 10.0
FLUSHES_PER_SHARD = 6  # at least
# With more actors than this the number of files a day stays the same: file systems of clusters limit it.
MANY_ACTORS = 128
GOLDEN = 0.6180339887498949  # fractional parts of its multiples are spread evenly
_SHARD = re.compile(r"shard-(\d+)\.h5")


def copy_rollout(rollout: Rollout) -> Rollout:
    """Return a copy of a rollout that shares no array with it.

    Memory is left out, because it is not stored.
    """
    policies = {
        name: PolicyRollout(
            policy.obs.copy(),
            policy.alive.copy(),
            policy.action.copy(),
            policy.logp.copy(),
            policy.reward.copy(),
            policy.terminated.copy(),
            policy.truncated.copy(),
            policy.final_obs.copy(),
            None if policy.action_mask is None else policy.action_mask.copy(),
        )
        for name, policy in rollout.policies.items()
    }
    return Rollout(
        policies,
        rollout.episode_start.copy(),
        rollout.episode_end.copy(),
        rollout.final_index.copy(),
        rollout.first_step.copy(),
        rollout.episode.copy(),
        rollout.slots.copy(),
        rollout.workers.copy(),
        rollout.version,
        rollout.actor,
        None if rollout.state is None else rollout.state.copy(),
        None if rollout.final_state is None else rollout.final_state.copy(),
        list(rollout.episodes),
    )


def rollout_bytes(rollout: Rollout) -> int:
    """Return the approximate size of a rollout in bytes."""
    size = 0 if rollout.state is None else rollout.state.nbytes
    for policy in rollout.policies.values():
        size += policy.obs.nbytes + policy.action.nbytes + 4 * policy.reward.nbytes
        size += 0 if policy.action_mask is None else policy.action_mask.nbytes
    return size


def shard_seconds(config: TrajectoriesConfig, ranks: int) -> float:
    """Return the seconds after which a shard is closed that has not reached its size.

    This is trajectories.shard_seconds, and proportionally longer for more than MANY_ACTORS actors.

    Args:
        config: Section trajectories.
        ranks: Number of ranks that write shards.
    """
    return config.shard_seconds * max(1.0, ranks / MANY_ACTORS)


def files_a_day(config: TrajectoriesConfig, ranks: int) -> float:
    """Return the number of shards that `ranks` actors together close in a day because of their age."""
    return ranks * 86400.0 / shard_seconds(config, ranks)


def shard_rows(
    rollouts: Sequence[Rollout], numbers: Sequence[int], first_row: int, origin: Mapping[str, int]
) -> tuple[dict[str, dict[str, Array]], int]:
    """Convert rollouts to rows of a shard.

    Args:
        rollouts: The rollouts, which have the same policies.
        numbers: Their numbers, for the column "rollout".
        first_row: Rows that the shard already has.
        origin: Values of the other columns of layout.ORIGIN.

    Returns:
        Group -> column -> array, and the number of segments.
    """
    segments = cut_segments(rollouts)
    rows: dict[str, dict[str, Array]] = {}
    for name in rollouts[0].policies:
        policies = [rollout.policies[name] for rollout in rollouts]
        arrays: dict[str, list[Array]] = {
            "action": [policy.action for policy in policies],
            "reward": [policy.reward for policy in policies],
            "alive": [policy.alive[:-1] for policy in policies],
            "logp": [policy.logp for policy in policies],
            "terminated": [policy.terminated for policy in policies],
            "truncated": [policy.truncated for policy in policies],
        }
        seen = [columns_of(policy.obs[:-1]) for policy in policies]
        arrays |= {key: [each[key] for each in seen] for key in seen[0]}
        masks = [policy.action_mask[:-1] for policy in policies if policy.action_mask is not None]
        if masks:
            arrays["action_mask"] = list(masks)
        rows[f"steps/{name}"] = {key: slot_major(parts) for key, parts in arrays.items()}
        rows[f"final/{name}"] = {
            **columns_of(segments.final_obs[name]),
            "episode_return": segments.episode_return[name],
        }
    environment = {
        "episode_start": slot_major([rollout.episode_start[:-1] for rollout in rollouts]),
        "episode_end": slot_major([rollout.episode_end for rollout in rollouts]),
    }
    if segments.final_state is not None:
        environment["state"] = slot_major(
            [rollout.state[:-1] for rollout in rollouts if rollout.state is not None]
        )
        rows[f"final/{ENVIRONMENT}"] = {"state": segments.final_state}
    rows[f"steps/{ENVIRONMENT}"] = environment
    count = len(segments.source)
    origins = {name: np.full(count, value) for name, value in origin.items()}
    rows[INDEX] = {
        **segments.index,
        "start": segments.index["start"] + first_row,
        **origins,
        "rollout": np.array(numbers)[segments.source],
    }
    return rows, count


class TrajectoryWriter:
    """Writes the rollouts of one rank to `directory`/rank-NNNN/shard-NNNNNN.h5.

    New shards continue the numbers of existing ones. Every appended rollout gets a number, even if it is
    dropped. With the rank and the start of the run, the number identifies the segments of the rollout. Shards
    that a killed writer of this rank left open are recovered first, in the background.

    Attributes:
        error: Text of the error that interrupts the writing; None while writing works. Training continues.
        rollouts: Number of the next rollout. Set it before the first rollout if another process has used some
            numbers.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        spec: EnvironmentSpec,
        config: TrajectoriesConfig,
        *,
        rank: int,
        role: str,
        host: str,
        attributes: Mapping[str, Any],
        ranks: int = 1,
    ) -> None:
        """Open the directory. No shard is written before the first rollout.

        Args:
            directory: trajectories/ of the run.
            spec: Specification of the environment.
            config: Section trajectories.
            rank: This rank.
            role: Role of this rank.
            host: Host of this rank.
            attributes: Root attributes of every shard: config as YAML text, seeds, run, start and others.
            ranks: Number of ranks that write shards at the same time.

        Raises:
            MissingPackageError: If the compression needs a package that is not installed.
            ConfigError: If a policy has a name that the layout reserves.
            StorageError: If the directory cannot be created.
        """
        self.directory, self.config = Path(directory) / f"rank-{rank:04d}", config
        self.error: str | None = None
        self._layout = layout_of_spec(spec)
        self._attributes = {
            **attributes,
            "env": spec.id,
            "rank": rank,
            "role": role,
            "host": host,
            "runs": [str(attributes.get("run", ""))],
        }
        self._origin = {"rank": rank, "run": 0, "start_number": int(attributes.get("start", 0))}
        self._lifetime = shard_seconds(config, ranks)
        # Different first lifetimes keep ranks from closing their shards all at once.
        self._first_lifetime = self._lifetime * (0.5 + 0.5 * (rank * GOLDEN % 1.0))
        filter_options(config.compression)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            existing = [
                (file, match) for file in self.directory.iterdir() if (match := _SHARD.match(file.name))
            ]
            self._number = 1 + max((int(match[1]) for _, match in existing), default=-1)
            self._closed_bytes = sum(file.stat().st_size for file, _ in existing)
        except OSError as error:
            raise storage_error(self.directory, "write trajectories", error) from error
        self._shard: ShardFile | None = None
        self._opened = self._flushed = 0.0
        self.rollouts = 0
        self._seen = self._dropped = self._lost = self._steps = self._shards = 0
        self._bytes = self._closed_bytes
        # Bytes. Like _dropped and _lost, each counter is written by one thread only.
        self._put = self._taken = 0
        self._queue: deque[tuple[Rollout, int, int]] = deque()
        self._stopped = self._closing = False
        self._retry_at: float | None = None
        # Shards left open by a kill or an error, which are to be salvaged.
        self._left = [file for file, _ in existing if file.name.endswith(PARTIAL)]
        self._check_budget()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="trajectory-writer", daemon=True)
        self._thread.start()
        close_at_exit(self)

    def append(self, rollout: Rollout) -> None:
        """Queue a copy of the rollout; never wait for the disk.

        Raises:
            StorageError: If writing failed earlier and trajectories.on_error is stop.
        """
        if self.error is not None and self.config.on_error == "stop":
            raise StorageError(self.error)
        number, self.rollouts = self.rollouts, self.rollouts + 1
        self._seen += 1
        if (self._seen - 1) % self.config.every:
            return
        waiting = self._put - self._taken
        if self._stopped or waiting >= QUEUE_BYTES:
            self._dropped += 1
            return
        size = rollout_bytes(rollout)
        self._queue.append((copy_rollout(rollout), size, number))
        self._put += size
        if waiting + size > WAKE_BYTES:
            self._wake.set()

    @property
    def statistics(self) -> dict[str, int]:
        """Bytes on disk, environment steps, shards written, and rollouts dropped.

        Steps include those of the open shard.
        """
        return {
            "bytes": self._bytes,
            "steps": self._steps,
            "shards": self._shards,
            "dropped": self._dropped + self._lost,
        }

    def check(self) -> None:
        """Raise StorageError if an error has stopped the writing."""
        if self.error is not None:
            raise StorageError(self.error)

    def close(self) -> None:
        """Write all queued rollouts, close the shard and end the thread. Check `error` afterwards."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._stopped = True

    def _work(self) -> None:
        if self._left:
            try:
                self._salvage_left()
            except Exception as error:
                self._fail(error)
        while True:
            self._wake.wait(WAKE_SECONDS)
            self._wake.clear()
            closing = self._closing
            try:
                self._try_again(closing)
                while self._queue:
                    self._take(self._next())
                    self._tend(False)  # keeps flushes and shards on time even if the queue never empties
                self._tend(closing)
            except Exception as error:
                # The thread must survive to count dropped rollouts. The caller reads self.error.
                self._fail(error)
            if closing:
                return

    def _next(self) -> list[tuple[Rollout, int, int]]:
        """Take rollouts from the queue that belong into the same shard, at least one."""
        first = self._queue.popleft()
        taken, size = [first], first[1]
        room = min(TOGETHER_BYTES, self._room())
        while self._queue and size < room:
            taken.append(self._queue.popleft())
            size += taken[-1][1]
        return taken

    def _room(self) -> float:
        """Return the bytes that the open shard may still get. The first rollout of a shard is alone."""
        if self._shard is None:
            return 0.0
        limit, size = self.config.max_gigabytes, self._shard.size
        budget = math.inf if limit is None else limit * 1e9 - self._closed_bytes - size
        return min(self.config.shard_megabytes * 1e6 - size, budget)

    def _take(self, rollouts: Sequence[tuple[Rollout, int, int]]) -> None:
        stored = False
        try:
            if not self._stopped:
                self._store([rollout for rollout, _, _ in rollouts], [number for *_, number in rollouts])
                stored = True
        finally:
            self._taken += sum(size for _, size, _ in rollouts)
            self._lost += 0 if stored else len(rollouts)

    def _store(self, rollouts: Sequence[Rollout], numbers: Sequence[int]) -> None:
        if self._shard is None:
            self._shard = self._new_shard()
            self._opened = self._flushed = time.monotonic()
        rows, segments = shard_rows(rollouts, numbers, self._shard.steps, self._origin)
        steps = sum(rollout.steps * rollout.count for rollout in rollouts)
        self._shard.append(rows, steps, segments)
        if self._shard.segments == segments:
            # Write all other parts of the file before its rows, so that a truncated file loses rows only.
            self._shard.flush()
        self._steps += steps
        size = self._shard.size
        self._bytes = self._closed_bytes + size
        self._check_budget()
        if self._stopped or size >= self.config.shard_megabytes * 1e6:
            self._close_shard()

    def _new_shard(self) -> ShardFile:
        """Open the next shard.

        On a network file system a listing of the directory may be outdated, so numbers may be taken.
        """
        attributes = root_attributes(TRAJECTORIES, self._attributes)
        attributes["format_version"] = format_version(self._layout)
        while True:
            path = self.directory / f"shard-{self._number:06d}.h5"
            self._number += 1
            with contextlib.suppress(FileExistsError):
                return ShardFile(path, self._layout, attributes, self.config.compression)

    def _check_budget(self) -> None:
        limit = self.config.max_gigabytes
        if limit is not None and self._bytes >= limit * 1e9:
            self._stopped = True
            LOGGER.warning(
                "%s: trajectories.max_gigabytes %g is reached, no more trajectories are written",
                self.directory,
                limit,
            )

    def _tend(self, closing: bool) -> None:
        if self._shard is None:
            return
        now = time.monotonic()
        if closing or now - self._opened >= self._first_lifetime:
            self._first_lifetime = self._lifetime
            self._close_shard()
        elif now - self._flushed >= min(FLUSH_SECONDS, self._lifetime / FLUSHES_PER_SHARD):
            self._shard.flush()
            self._flushed = now
            self._on_success()

    def _close_shard(self) -> None:
        assert self._shard is not None
        self._shard.close()
        self._on_success()
        self._closed_bytes += os.path.getsize(self._shard.path)
        self._bytes, self._shards, self._shard = self._closed_bytes, self._shards + 1, None

    def _fail(self, error: Exception) -> None:
        """Abandon the open shard. Rollouts are dropped and counted until the next attempt."""
        self._stopped = True
        self._retry_at = (
            time.monotonic() + RETRY_SECONDS if isinstance(error, (OSError, HpcmarlError)) else None
        )
        text = (
            str(error)
            if isinstance(error, HpcmarlError)
            else str(storage_error(self.directory, "write trajectories", error))
        )
        if self.error is None:
            then = (
                f"writing is tried again every {RETRY_SECONDS:g} s"
                if self._retry_at is not None
                else "no more trajectories are written"
            )
            LOGGER.error("%s; rollouts are dropped, earlier shards are complete; %s", text, then)
        self.error = text
        if self._shard is not None:
            shard, self._shard = self._shard, None
            self._left.append(shard.partial)
            shard.abandon()

    def _try_again(self, closing: bool) -> None:
        """Resume after an error of the disk.

        Create the directories, salvage the open shards, then allow new ones. This happens after
        RETRY_SECONDS, or at once when the writer closes.
        """
        if self._retry_at is None or (time.monotonic() < self._retry_at and not closing):
            return
        self._retry_at = None
        for place in (self.directory.parent, self.directory):
            # Do not create the run directory: if it is missing, its disk may be unmounted.
            place.mkdir(exist_ok=True)
        self._salvage_left()
        if not closing:
            self._stopped = False

    def _salvage_left(self) -> None:
        """Recover the shards that were left open.

        A shard stays as it is if its writer is running or it cannot be recovered.
        """
        results = [salvage_file(partial, remove=True) for partial in self._left if partial.exists()]
        for item in results:
            LOGGER.info("%s: %s, %d steps %s", item.path, item.status, item.steps, item.note)
        self._left = [Path(item.path) for item in results if item.status == "failed"]
        self._bytes = self._closed_bytes = sum(
            file.stat().st_size for file in self.directory.iterdir() if _SHARD.match(file.name)
        )

    def _on_success(self) -> None:
        if self.error is not None:
            LOGGER.info("%s: trajectories are written again", self.directory)
            self.error = None
