"""Measure the files of a run: trajectories against bare h5py, and a report of long runs.

A few rollouts are really played and are written in turn until the data set has its size. Bare h5py
(io/hdf5/bare.py) writes and reads the same arrays with the same chunks, checksums and compression. The two
take turns, which spreads machine noise over both. Files are read from the page cache, so reading measures
no disk. Both sync written files to the disk.
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpcmarl.algos import make_algorithm
from hpcmarl.bench.learning import play
from hpcmarl.bench.long_runs import measure_report
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import TopologyConfig
from hpcmarl.config.file import load_config
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.envs import describe as describe_environment
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.io.describe import describe, verify_paths
from hpcmarl.io.hdf5 import bare as bare_hdf5
from hpcmarl.io.trajectories.merge import merge_shards
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.io.trajectories.writer import TrajectoryWriter, shard_rows
from hpcmarl.roles.base import Context
from hpcmarl.types import EnvironmentSpec, Rollout

REPEATS = 3
PLAYED = 16  # rollouts that are played
SHARDS = 4  # at least, so that merging has something to do
WAITING_BYTES = 16 << 20  # of rollouts that wait for the writer's thread; it drops rollouts beyond 64 MiB
CONFIG = "name: bench\nenv: {id: mpe2.simple_spread_v3}\neval: {episodes: 0}\nstop: {seconds: 3600}\n"


@dataclass
class Case:
    """A data set of trajectories that is written and read.

    Attributes:
        root: Directory for all files of the benchmark.
        spec: Specification of the environment.
        rollouts: Rollouts, used in turn.
        rollout_bytes: Mean bytes of the rows of a rollout.
        count: Number of rollouts in the data set.
        compression: Compression of trajectories.
    """

    root: Path
    spec: EnvironmentSpec
    rollouts: list[Rollout]
    rollout_bytes: int
    count: int
    compression: str

    @property
    def run(self) -> Path:
        """Run directory of the data set."""
        return self.root / "run"

    @property
    def shards(self) -> list[Path]:
        """Shards of the data set."""
        return list_shards(self.run)

    def write(self) -> float:
        """Write the data set with hpcmarl.

        Returns:
            Seconds until all shards are published.

        Raises:
            HpcmarlError: The disk fails, or the writer drops a rollout.
        """
        shutil.rmtree(self.run, ignore_errors=True)
        megabytes = min(TrajectoriesConfig().shard_megabytes, self.count * self.rollout_bytes / SHARDS / 1e6)
        config = TrajectoriesConfig.model_validate(
            {"compression": self.compression, "shard_megabytes": megabytes}
        )
        began = time.perf_counter()
        writer = TrajectoryWriter(
            self.run / "trajectories", self.spec, config, rank=0, role="actor", host="bench", attributes={}
        )
        steps, step_bytes = 0, self.rollout_bytes / (self.rollouts[0].steps * self.rollouts[0].count)
        with contextlib.closing(writer):
            for number in range(self.count):
                while (steps - writer.statistics["steps"]) * step_bytes > WAITING_BYTES and not writer.error:
                    time.sleep(0.001)
                rollout = self.rollouts[number % len(self.rollouts)]
                writer.append(rollout)
                steps += rollout.steps * rollout.count
        writer.check()
        if writer.statistics["dropped"]:
            raise HpcmarlError(f"the writer dropped {writer.statistics['dropped']} rollouts")
        return time.perf_counter() - began

    def write_bare(self) -> float:
        """Write the same arrays with bare h5py, and delete them.

        Returns:
            Seconds.
        """
        with self._place("bare") as place:
            place.mkdir()
            return bare_hdf5.write(self.shards, place, self.compression)

    def read_bare(self) -> float:
        """Read the data set with bare h5py and return the seconds."""
        return bare_hdf5.read(self.shards)

    def merge(self) -> float:
        """Merge the shards with hpcmarl, delete the result, and return the seconds."""
        with self._place("merged.h5") as place:
            return _seconds(lambda: merge_shards([self.run], place, self.compression))

    def merge_bare(self) -> float:
        """Merge the shards with bare h5py, delete the result, and return the seconds."""
        with self._place("merged-bare.h5") as place:
            return bare_hdf5.merge(self.shards, place, self.compression)

    def verify(self) -> float:
        """Do the work of `hpcmarl data verify` and return the seconds.

        Raises:
            HpcmarlError: A file is bad.
        """
        began = time.perf_counter()
        found, _ = verify_paths([self.run])
        took = time.perf_counter() - began
        bad = [item["reason"] for item in found if item["status"] != "good"]
        if bad or len(found) != len(self.shards):
            raise HpcmarlError(f"{self.run}: the data set does not verify: {bad}")
        return took

    def inspect(self) -> float:
        """Do the work of `hpcmarl data inspect` and return the seconds."""
        return _seconds(lambda: describe(self.run))

    @contextlib.contextmanager
    def _place(self, name: str) -> Iterator[Path]:
        place = self.root / name
        try:
            yield place
        finally:
            if place.is_dir():
                shutil.rmtree(place)
            place.unlink(missing_ok=True)


def run(
    gigabytes: float,
    compression: str,
    directory: Path | None,
    runs: int,
    rows: int,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Measure trajectory files and a report.

    Args:
        gigabytes: Bytes of the data set before compression, in units of 1e9.
        compression: Compression of trajectories.
        directory: Place for the files, which are deleted at the end; None: the system's temporary directory.
        runs: Runs of the report; 0: no report.
        rows: Rows of metrics of each run.
        repeats: Measurements of each figure.

    Returns:
        Figures. Speeds are in megabytes (1e6 bytes) of rows before compression a second, medians over the
        repeats. Ratios are medians of the ratios of neighbouring measurements, hpcmarl by bare h5py.

    Raises:
        UsageError: The disk has too little space.
        HpcmarlError: The disk fails.
    """
    _check_space(gigabytes, directory)
    with tempfile.TemporaryDirectory(
        prefix="hpcmarl-bench-io-", dir=directory, ignore_cleanup_errors=True
    ) as root:
        case = _make_case(Path(root), gigabytes, compression)
        result = {**_measure(case, repeats)}
        shutil.rmtree(case.run)
        if runs:
            result |= measure_report(Path(root), runs, rows)
    return result


def _check_space(gigabytes: float, directory: Path | None) -> None:
    place = Path(tempfile.gettempdir()) if directory is None else directory
    if not place.is_dir():
        raise UsageError(f"--dir {place}: not a directory; create it, or name another one")
    free, needed = shutil.disk_usage(place).free / 1e9, 2.2 * gigabytes + 0.2
    if free < needed:
        raise UsageError(
            f"--dir {place}: {free:.1f} GB are free, {needed:.1f} are needed; name another directory, or "
            "lower --gigabytes"
        )


def _make_case(root: Path, gigabytes: float, compression: str) -> Case:
    spec, rollouts = _play()
    origin = {"rank": 0, "run": 0, "start_number": 0}
    rows, _ = shard_rows(rollouts, range(len(rollouts)), 0, origin)
    size = sum(array.nbytes for group in rows.values() for array in group.values()) // len(rollouts)
    return Case(root, spec, rollouts, size, max(SHARDS, round(gigabytes * 1e9 / size)), compression)


def _play() -> tuple[EnvironmentSpec, list[Rollout]]:
    config = load_config(CONFIG)
    algorithm = make_algorithm(describe_environment(config.env, config.policies), config.algo, config.seed)
    transport = LocalWorld(1).transports[0]
    topology = assign_roles(1, [transport.host], TopologyConfig())
    context = Context(config, topology, transport, Path(), algorithm.spec)
    codec = context.codec(algorithm)
    messages = play(context, algorithm, PLAYED * config.topology.environments_per_actor)
    spec = algorithm.spec if algorithm.needs_state else replace(algorithm.spec, state_size=None)
    return spec, [codec.read(message, 0) for message in messages]


def _measure(case: Case, repeats: int) -> dict[str, Any]:
    """Measure writing first, then reading of the last written data set."""
    took: dict[str, list[float]] = {}

    def each(*measured: tuple[str, Callable[[], float]]) -> None:
        for _ in range(repeats):
            for name, measure in measured:
                took.setdefault(name, []).append(measure())

    each(("write", case.write), ("bare_write", case.write_bare))
    case.read_bare()  # fills the page cache
    each(
        ("bare_read", case.read_bare),
        ("verify", case.verify),
        ("inspect", case.inspect),
        ("bare_merge", case.merge_bare),
        ("merge", case.merge),
    )
    size = bare_hdf5.data_bytes(case.shards)
    pairs = {"write": "bare_write", "verify": "bare_read", "inspect": "bare_read", "merge": "bare_merge"}
    return {
        "environment": case.spec.id,
        "gigabytes": size / 1e9,
        "compression": case.compression,
        "file_gigabytes": sum(shard.stat().st_size for shard in case.shards) / 1e9,
        "shards": len(case.shards),
        "repeats": repeats,
        "reading": "from the page cache",
        "writing": "with fsync",
        **{
            f"{name}_megabytes_per_second": size / 1e6 / statistics.median(seconds)
            for name, seconds in took.items()
        },
        **{
            f"{own}_ratio": statistics.median(
                other / seconds for seconds, other in zip(took[own], took[bare], strict=True)
            )
            for own, bare in pairs.items()
        },
    }


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
