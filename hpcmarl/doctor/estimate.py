"""Estimate a job's load on file systems and memory.

The estimate covers files and bytes a day, memory of each host, and file operations at the start. Its
constants were measured; docs/administrators.md describes how.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hpcmarl.comm.shared_memory import too_small
from hpcmarl.comm.topology import Topology, in_words
from hpcmarl.config import Config
from hpcmarl.doctor.findings import Finding, Status
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.trajectories.layout import layout_of_spec
from hpcmarl.io.trajectories.writer import QUEUE_BYTES, files_a_day, shard_seconds
from hpcmarl.league.runtime.sides import specs_of_sides
from hpcmarl.roles.worker_plan import shared_bytes
from hpcmarl.runtime.host_memory import least_bytes
from hpcmarl.types import EnvironmentSpec

# Calls of stat and open by one rank until it trains. strace counts 5,900 for an actor and 26,600 for a
# learner, which imports torch.
START_OPERATIONS, LEARNER_OPERATIONS = 6_000, 27_000
USUAL_SEGMENT = 25  # steps of a segment if neither the algorithm nor the environment limits it
MANY_FILES = 50_000  # files a day; more give a warning
MANY_RANKS = 128  # ranks that read Python from one file system; more give a warning
SECONDS_A_DAY = 86_400
# types of file systems that are usually shared by all nodes of a cluster
SHARED_TYPES = frozenset(
    {
        "nfs",
        "nfs3",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "fuse.ceph",
        "wekafs",
        "panfs",
        "cifs",
        "fuse.glusterfs",
    }
)


def estimate(
    config: Config,
    topology: Topology,
    spec: EnvironmentSpec | None,
    available: Mapping[str, float] | None = None,
    staged: bool | None = None,
) -> list[Finding]:
    """Estimate the load of a job.

    Args:
        config: Configuration of the run.
        topology: Ranks and hosts of the job.
        spec: Specification of the environment; None leaves out the bytes of a step.
        available: Host -> bytes of memory that it has for the job; hosts may be missing.
        staged: Whether ranks read Python from their node's own disk; None: decide by the file system that
            this Python lies on.

    Returns:
        Findings "trajectory files", "trajectory bytes", "memory" (one for each host) and "start".
    """
    work = workload(config, spec) if spec is not None else None
    return [
        *_trajectories(config, len(topology.actors), work),
        *judge_memory(config, topology, work, available or {}),
        _start(topology, staged),
    ]


@dataclass(frozen=True)
class Workload:
    """Sizes of a run that follow from its environment and algorithm.

    Attributes:
        step_bytes: Bytes of one environment step in a trajectory file, without compression.
        parameters: Number of parameters of the algorithm.
    """

    step_bytes: float
    parameters: int


def workload(config: Config, spec: EnvironmentSpec) -> Workload | None:
    """Return the sizes of a run; None if the algorithm does not suit the environment."""
    from hpcmarl.algos.design import make_design
    from hpcmarl.nets.parameters import ParameterLayout

    rows = {"step": 0, "segment": 0}
    try:
        design = make_design(spec, config.algo)
        stored = spec if design.needs_state else replace(spec, state_size=None)
        for group in layout_of_spec(stored).values():
            rows[group.rows] += sum(column.row_bytes for column in group.columns.values())
    except HpcmarlError:
        return None
    # Each segment has one row in the index; its bytes are divided among the steps of the segment.
    return Workload(
        rows["step"] + rows["segment"] / _segment_steps(config), ParameterLayout(design.modules).size
    )


def memory_of_hosts(
    config: Config, topology: Topology, work: Workload | None
) -> list[tuple[str, list[int], float]]:
    """Estimate the memory of each host's ranks, without environments.

    Args:
        config: Configuration of the run.
        topology: Ranks and hosts of the job.
        work: Sizes of the run; None leaves out messages and copies of the parameters.

    Returns:
        Host, its ranks, and the most bytes that they need together.
    """
    hosts: dict[str, list[int]] = {}
    for rank, host in enumerate(topology.hosts):
        hosts.setdefault(host, []).append(rank)
    learners, actors = {group.learner for group in topology.groups}, set(topology.actors)
    message = (
        config.topology.environments_per_actor * _segment_steps(config) * work.step_bytes
        if work is not None
        else 0.0
    )

    kept = config.algo.replay_section
    replay = 0.0 if kept is None else 1e6 * kept.megabytes

    def of_rank(rank: int) -> float:
        size = least_bytes(topology, rank, 0 if work is None else work.parameters)
        if rank in learners:
            size += config.rounds.queue * message + replay
        if rank in actors and config.trajectories.enabled:
            size += QUEUE_BYTES
        return size

    return [(host, ranks, sum(map(of_rank, ranks))) for host, ranks in hosts.items()]


def _segment_steps(config: Config) -> int:
    return config.algo.unroll_steps or config.env.max_steps or USUAL_SEGMENT


def judge_memory(
    config: Config, topology: Topology, work: Workload | None, available: Mapping[str, float]
) -> list[Finding]:
    """Compare the memory that each host's ranks need with the memory that is available there.

    Args:
        config: Configuration of the run.
        topology: Ranks and hosts of the job.
        work: Sizes of the run, if known.
        available: Host -> bytes of memory; hosts may be missing.

    Returns:
        One finding for each host.
    """
    findings = []
    for host, ranks, needed in memory_of_hosts(config, topology, work):
        limit = available.get(host)
        of = f" of {limit / 1e9:.1f} GB" if limit is not None else ""
        value = (
            f"{host}: {in_words(ranks)} need{'s' if len(ranks) == 1 else ''} up to {needed / 1e9:.1f} GB{of}"
        )
        if limit is None or needed <= limit:
            findings.append(Finding("OK", "memory", value))
        else:
            findings.append(
                Finding(
                    "WARN",
                    "memory",
                    value,
                    "start fewer ranks on this host, or ask for more memory: --sbatch=--mem=...",
                )
            )
    return findings


def judge_shared_memory(
    config: Config, topology: Topology, spec: EnvironmentSpec | None, free: Mapping[str, int | None]
) -> list[Finding]:
    """Compare the memory that actors share with their workers on each host with /dev/shm there.

    Args:
        config: Configuration of the run.
        topology: Ranks and hosts of the job.
        spec: Specification of the environment, if known.
        free: Host -> free bytes of /dev/shm; None: there is none. Hosts may be missing.

    Returns:
        One finding for each host with workers.
    """
    if spec is None:
        return []
    findings = []
    for host, size in shared_bytes(config, topology, spec, specs_of_sides(config, spec)).items():
        there = free.get(host)
        of = f" of {there / 1e6:.1f} MB that are free in /dev/shm" if there is not None else ""
        value = f"{host}: actors and workers share {size / 1e6:.1f} MB{of}"
        if host in free and size > (there or 0):
            findings.append(Finding("BAD", "shared memory", value, too_small(size, there)))
        else:
            findings.append(Finding("OK", "shared memory", value))
    return findings


def file_system_type(path: str | Path) -> str:
    """Return the type of a path's file system from /proc/self/mounts; empty if that file cannot be read."""
    place, best = Path(path).resolve(), ("", "")
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        words = line.split()
        if (
            len(words) > 2
            and len(words[1]) >= len(best[0])
            and place.is_relative_to(words[1].replace("\\040", " "))
        ):
            best = (words[1], words[2])
    return best[1]


def _trajectories(config: Config, actors: int, work: Workload | None) -> list[Finding]:
    own = config.trajectories
    if not own.enabled:
        return [Finding("OK", "trajectory files", "none (trajectories.enabled: false)")]
    files, age = files_a_day(own, actors), shard_seconds(own, actors)
    value = (
        f"about {files:,.0f} a day from {actors} actor{'s' if actors != 1 else ''}; each begins a new file "
        f"after {age:,.0f} s or {own.shard_megabytes:g} MB"
    )
    status: Status = "WARN" if files > MANY_FILES else "OK"
    findings = [
        Finding(
            status, "trajectory files", value, "raise trajectories.shard_seconds" if status == "WARN" else ""
        )
    ]
    if work is None:
        return findings
    kept = work.step_bytes / own.every
    value = (
        f"{work.step_bytes:,.0f} bytes a step: {kept * 1000 * SECONDS_A_DAY / 1e9:,.1f} GB a day at "
        "1,000 steps/s of all actors"
    )
    if config.stop.env_steps is not None:
        value += f", {kept * config.stop.env_steps / 1e9:,.1f} GB in total"
    if own.max_gigabytes is not None:
        value += f"; at most {own.max_gigabytes * actors:,.0f} GB"
    return [*findings, Finding("OK", "trajectory bytes", value)]


def _start(topology: Topology, staged: bool | None) -> Finding:
    ranks, learners = topology.size, len(topology.groups)
    operations = (ranks - learners) * START_OPERATIONS + learners * LEARNER_OPERATIONS
    kind = file_system_type(sys.prefix)
    shared = kind in SHARED_TYPES if staged is None else not staged
    where = (
        f"on {kind}"
        if staged is None and kind
        else "on shared storage"
        if shared
        else "on each node's own disk"
    )
    value = (
        f"{in_words(range(ranks))}: about {operations:,} stat and open calls {where} until all ranks train"
    )
    if shared and ranks >= MANY_RANKS:
        return Finding("WARN", "start", value, "slurm.stage: true unpacks the environment on each node")
    return Finding("OK", "start", value)
