"""The lines of a run before it trains: its ranks and their roles, its policies and its directory."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpcmarl.comm.topology import Topology, in_words
from hpcmarl.config import Config
from hpcmarl.types import EnvironmentSpec

MOST_RANKS, MOST_POLICIES = 60, 6  # characters of a list of ranks; policies that are named


def is_wanted(config: Config) -> bool:
    """Return whether the run shows its progress."""
    return config.logging.progress and config.logging.level in ("debug", "info")


def announce(config: Config, text: str) -> None:
    """Print a line before logging begins, if the run shows its progress."""
    if is_wanted(config):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def describe_ranks(topology: Topology) -> str:
    """Return the ranks with their roles and the number of hosts in one line."""
    ranks = defaultdict(list)
    for rank in range(topology.size):
        ranks["+".join(topology.roles_of(rank)) or "idle"].append(rank)
    parts = []
    for roles, own in ranks.items():
        words = in_words(own)
        parts.append(f"{roles} on {words if len(words) <= MOST_RANKS else f'{len(own)} ranks'}")
    hosts = len(set(topology.hosts))
    size = f"{topology.size} rank{'s' if topology.size > 1 else ''}"
    return f"{size} on {hosts} host{'s' if hosts > 1 else ''}: {', '.join(parts)}"


def describe_policies(spec: EnvironmentSpec, parameters: int, directory: Path) -> str:
    """Return the policies, the number of parameters and the run directory in one line.

    Args:
        spec: The environment as the policies see it.
        parameters: Length of the parameter vector; 0: unknown, as in a league.
        directory: The run directory.
    """
    shown = [
        f"{policy.name} ({len(policy.agents)} agent{'s' if len(policy.agents) > 1 else ''})"
        for policy in spec.policies[:MOST_POLICIES]
    ]
    if (left := len(spec.policies) - len(shown)) > 0:
        shown.append(f"{left} more")
    size = f"{parameters:,} parameters, " if parameters else ""
    return f"{spec.id}: policies {', '.join(shown)}; {size}run directory {directory}"


def crowded_cores(topology: Topology, cores: Mapping[int, int], threads: int) -> tuple[str, ...]:
    """Return a warning for each host whose ranks have more threads than the host has cores for them.

    The server's rank does not count, because it waits most of the time.

    Args:
        topology: Roles and hosts of all ranks.
        cores: Cores that the ranks of a host may use together, by rank; ranks that are missing are unknown.
        threads: Threads of a rank.
    """
    ranks: dict[str, list[int]] = defaultdict(list)
    for rank, host in enumerate(topology.hosts):
        ranks[host].append(rank)
    found = []
    for host, own in ranks.items():
        known = [cores[rank] for rank in own if rank in cores]
        busy = (len(own) - (topology.server in own and len(own) > 1)) * threads
        if known and busy > max(known):
            found.append(
                f"{host}: {len(own)} ranks with {threads} thread{'s' if threads > 1 else ''} each share "
                f"{max(known)} core{'s' if max(known) > 1 else ''}, so that they slow each other down; start "
                f"fewer ranks (-n {max(1, max(known) // threads) + (topology.server in own)}) unless "
                "environments sleep"
            )
    return _at_most(found)


def _at_most(lines: Sequence[str], most: int = 3) -> tuple[str, ...]:
    """Return the first lines, and how many hosts have the same problem."""
    if len(lines) <= most:
        return tuple(lines)
    return (*lines[:most], f"{len(lines) - most} more hosts have too few cores for their ranks")
