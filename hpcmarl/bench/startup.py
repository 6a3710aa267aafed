"""Measure the start of a run: seconds to the first update, and the resources that each rank has used by then.

The benchmark reads /proc of the ranks when the first row of metrics exists. Opened files are counted by an
audit hook, which Python loads at the start of each rank (a sitecustomize.py on PYTHONPATH). The hook keeps
its count in a mapped file. Libraries are counted from the mapped files of a process.
"""

from __future__ import annotations

import mmap
import os
import platform
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from hpcmarl.bench.faults.jobs import Job, Progress
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config.file import load_config
from hpcmarl.errors import HpcmarlError

COUNTS = "HPCMARL_STARTUP_COUNTS"  # environment variable that names the folder of the counts
ROLES = ("learner", "server", "actor")  # a rank with several roles counts as the first of them
LIMIT_SECONDS = 900.0
CONFIG = """
name: startup
env: {id: mpe2.simple_spread_v3}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {seconds: 3600}
checkpoint: {every_seconds: null}
logging: {progress: false, every_seconds: 0.01}
"""
HOOK = f"""
import os, sys
if os.environ.get("{COUNTS}"):
    import mmap, struct
    with open(os.path.join(os.environ["{COUNTS}"], str(os.getpid())), "w+b") as _file:
        _file.write(bytes(8))
        _file.flush()
        _count = mmap.mmap(_file.fileno(), 8)
    def _hook(event, arguments, number=[0], count=_count, pack=struct.pack_into):
        if event == "open":
            number[0] += 1
            pack("q", count, 0, number[0])
    sys.addaudithook(_hook)
"""


@dataclass(frozen=True)
class Usage:
    """Resources that one rank has used.

    Attributes:
        cpu_seconds: CPU time in user and system mode.
        rss_mb: Resident memory.
        uss_mb: Resident memory that no other process shares (unique set size).
        files_opened: Files opened by Python, and mapped libraries.
        bytes_read: Bytes of read calls, including those served from caches.
        torch: Whether torch is loaded.
    """

    cpu_seconds: float
    rss_mb: float
    uss_mb: float
    files_opened: int
    bytes_read: int
    torch: bool


def measure(ranks: int) -> dict[str, Any]:
    """Start a run of simple_spread and measure its ranks at the first update.

    Args:
        ranks: Number of ranks.

    Returns:
        `ranks`, `seconds_to_first_update`, and for each role the figures of `summarise`.

    Raises:
        HpcmarlError: The run ends, or makes no update within LIMIT_SECONDS.
    """
    with _folder() as folder:
        config, counts = folder / "config.yaml", folder / "counts"
        config.write_text(CONFIG)
        counts.mkdir()
        (folder / "sitecustomize.py").write_text(HOOK)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        began = time.monotonic()
        with mock.patch.dict(os.environ, {COUNTS: str(counts), "PYTHONPATH": path}):
            job = Job(
                ["train", str(config), "-n", str(ranks), "--run-dir", str(folder / "run")], folder / "output"
            )
        try:
            progress = Progress(folder / "run")
            while progress.version < 1:
                if not job.running or time.monotonic() - began > LIMIT_SECONDS:
                    raise HpcmarlError(f"the run made no update: {job.closing_lines()}")
                time.sleep(0.02)
            seconds = time.monotonic() - began
            found = {
                rank: usage_of(process, counts)
                for process, rank in sorted(job.processes().items())
                if rank is not None
            }
        finally:
            job.kill()
    topology = assign_roles(ranks, [platform.node()] * ranks, load_config(CONFIG).topology)
    roles = {rank: next(role for role in ROLES if role in topology.roles_of(rank)) for rank in range(ranks)}
    return {"ranks": ranks, "seconds_to_first_update": round(seconds, 2), **summarise(roles, found)}


def summarise(roles: Mapping[int, str], found: Mapping[int, Usage]) -> dict[str, dict[str, Any]]:
    """Return medians and maxima for each role.

    Args:
        roles: Role of each rank.
        found: Resources of each rank.
    """
    result = {}
    for role in ("server", "learner", "actor"):
        own = [usage for rank, usage in found.items() if roles[rank] == role]
        if own:
            cpu = [usage.cpu_seconds for usage in own]
            result[role] = {
                "cpu_seconds_median": round(statistics.median(cpu), 2),
                "cpu_seconds_max": round(max(cpu), 2),
                "rss_mb_median": round(statistics.median(usage.rss_mb for usage in own), 1),
                "uss_mb_median": round(statistics.median(usage.uss_mb for usage in own), 1),
                "files_opened_median": int(statistics.median(usage.files_opened for usage in own)),
                "bytes_read_median": int(statistics.median(usage.bytes_read for usage in own)),
                "imports_torch": any(usage.torch for usage in own),
            }
    return result


def usage_of(process: int, counts: Path) -> Usage:
    """Read the resources that a process has used so far.

    Args:
        process: Process number.
        counts: Folder of the counts of opened files.
    """
    place = Path(f"/proc/{process}")
    ticks = place.joinpath("stat").read_text().rpartition(")")[2].split()[11:13]
    rss_mb, uss_mb = memory_of(process)
    io = dict(line.split() for line in place.joinpath("io").read_text().splitlines())
    mapped = {
        line.split(maxsplit=5)[5] for line in place.joinpath("maps").read_text().splitlines() if " /" in line
    }
    libraries = [name for name in mapped if ".so" in name]
    return Usage(
        cpu_seconds=sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
        rss_mb=rss_mb,
        uss_mb=uss_mb,
        files_opened=opened(counts / str(process)) + len(libraries),
        bytes_read=int(io["rchar:"]),
        torch=any("libtorch" in name for name in libraries),
    )


def memory_of(process: int) -> tuple[float, float]:
    """Return the resident memory of a process and its unique set size, in MB."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    memory = dict(line.split()[:2] for line in lines)
    return float(memory["Rss:"]) / 1024, (
        float(memory["Private_Clean:"]) + float(memory["Private_Dirty:"])
    ) / 1024


def opened(path: Path) -> int:
    """Return the count that a rank's audit hook keeps in a file."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 8, access=mmap.ACCESS_READ) as count:
        return int(struct.unpack("q", count)[0])


@contextmanager
def _folder() -> Iterator[Path]:
    """Provide a folder during the measurement.

    Killed ranks may still write there while it is deleted; such errors are ignored.
    """
    folder = tempfile.mkdtemp(prefix="hpcmarl-startup-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
