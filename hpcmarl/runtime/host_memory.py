"""Whether the ranks of a host fit into its memory: what each takes, measured, beside what is there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from hpcmarl.comm.topology import Topology

# resident memory of a small rank: Python, MPI, HDF5, environments; measured 97 (server) and 130 MB (actor)
RANK_BYTES = 140e6
LEARNER_BYTES = 340e6  # the same with torch; measured 288 MB
ACTOR_VECTORS, LEARNER_VECTORS = 3, 8  # copies of the parameters, the optimizer's and messages' included
UNKNOWN = -1.0


class MemoryFacts(NamedTuple):
    """Memory of one rank, in bytes; UNKNOWN where the system does not report it.

    Attributes:
        resident: Memory that the rank uses already.
        available: Memory that its host or cgroup has for the job.
    """

    resident: float
    available: float


def least_bytes(topology: Topology, rank: int, parameters: int) -> float:
    """Return the memory that a rank takes without replay, queues and large environments.

    Args:
        topology: The roles of all ranks.
        rank: Which of them.
        parameters: Length of the parameter vector.
    """
    learns = any(rank == group.learner for group in topology.groups)
    vectors = ACTOR_VECTORS + (LEARNER_VECTORS if learns or rank == topology.server else 0)
    return (LEARNER_BYTES if learns else RANK_BYTES) + vectors * 4.0 * parameters


def crowded_hosts(topology: Topology, parameters: int, facts: Sequence[MemoryFacts]) -> tuple[str, ...]:
    """Return a warning for each host whose ranks take more memory than it has.

    Args:
        topology: The roles and hosts of all ranks.
        parameters: Length of the parameter vector.
        facts: Of each rank.
    """
    ranks: dict[str, list[int]] = defaultdict(list)
    for rank, host in enumerate(topology.hosts):
        ranks[host].append(rank)
    found = []
    for host, own in ranks.items():
        known = [facts[rank].available for rank in own if facts[rank].available != UNKNOWN]
        needed = sum(least_bytes(topology, rank, parameters) for rank in own)
        there = min(known, default=float("inf")) + sum(facts[rank].resident for rank in own)
        if needed > there:
            found.append(
                f"{host}: {len(own)} ranks take about {needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are "
                "there; start fewer ranks on this host, or ask for more memory (--sbatch=--mem=...)"
            )
    return tuple(found)
