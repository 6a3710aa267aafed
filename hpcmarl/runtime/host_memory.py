"""Comparison of the memory that the ranks of a host need with the available memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from hpcmarl.comm.topology import Topology

# Resident memory of a rank without parameters: Python, MPI, HDF5 and environments. Measured: 97 MB (server)
# and 130 MB (actor).
RANK_BYTES = 140e6
LEARNER_BYTES = 340e6  # the same with torch; measured: 288 MB
# Copies of the parameter vector on a rank, including those of the optimizer and of messages.
ACTOR_VECTORS, LEARNER_VECTORS = 3, 8
UNKNOWN = -1.0


class MemoryFacts(NamedTuple):
    """Memory of a rank and of its host, bytes.

    Attributes:
        resident: Memory that the rank uses at present.
        available: Memory that its host or cgroup still has for the job; UNKNOWN if the system does not report
            it.
        shared: Free bytes of /dev/shm; UNKNOWN if there is none.
    """

    resident: float
    available: float
    shared: float = UNKNOWN


def least_bytes(topology: Topology, rank: int, parameters: int) -> float:
    """Estimate the memory that a rank needs without replay, queues and large environments.

    Args:
        topology: Roles of all ranks.
        rank: The rank.
        parameters: Length of the parameter vector.

    Returns:
        Memory, bytes.
    """
    learns = any(rank == group.learner for group in topology.groups)
    vectors = ACTOR_VECTORS + (LEARNER_VECTORS if learns or rank == topology.server else 0)
    return (LEARNER_BYTES if learns else RANK_BYTES) + vectors * 4.0 * parameters


def crowded_hosts(topology: Topology, parameters: int, facts: Sequence[MemoryFacts]) -> tuple[str, ...]:
    """Return a warning for each host on which the ranks need more memory than is available.

    Args:
        topology: Roles and hosts of all ranks.
        parameters: Length of the parameter vector.
        facts: Memory of each rank and of its host.

    Returns:
        One line for each such host.
    """
    ranks: dict[str, list[int]] = defaultdict(list)
    for rank, host in enumerate(topology.hosts):
        ranks[host].append(rank)
    found = []
    for host, own in ranks.items():
        known = [facts[rank].available for rank in own if facts[rank].available != UNKNOWN]
        needed = sum(least_bytes(topology, rank, parameters) for rank in own)
        available = min(known, default=float("inf")) + sum(facts[rank].resident for rank in own)
        if needed > available:
            found.append(
                f"{host}: {len(own)} ranks need about {needed / 1e9:.1f} GB, and {available / 1e9:.1f} GB "
                "are available; start fewer ranks on this host, or ask for more memory (--sbatch=--mem=...)"
            )
    return tuple(found)


def free_shared_memory(topology: Topology, facts: Sequence[MemoryFacts]) -> dict[str, int | None]:
    """Return host -> free bytes of /dev/shm; None: there is none.

    Args:
        topology: Hosts of all ranks.
        facts: Memory of each rank and of its host.
    """
    return {
        host: None if own.shared == UNKNOWN else int(own.shared)
        for host, own in zip(topology.hosts, facts, strict=True)
    }
