"""Replacement of dead actors and workers by new processes (topology.respawn).

The rank of an actor's learner, or of a worker's actor, starts the new process and relays its messages. So no
other rank has to wait. The ranks of the server and of learners are never replaced, because their state is
lost with them. The workers of a dead actor end with it, and its successor steps its environments itself.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection

from hpcmarl.config.file import dump_config
from hpcmarl.envs.trust import trusted
from hpcmarl.errors import LaunchError
from hpcmarl.roles.base import Context
from hpcmarl.runtime.payloads import RespawnedStart

logger = logging.getLogger(__name__)
# Largest number of replacements of one rank. An actor that dies more often probably dies of the same cause.
MOST = 10


class RespawnManager:
    """Starts replacements for dead actors on the learner's rank, and for dead workers on the actor's.

    Attributes:
        started: Ranks that this rank has replaced by a new process.
        given_up: Ranks that will not be replaced any more.
        replaced: Actors that have been replaced; known on the server's rank.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.started: set[int] = set()
        self.given_up: set[int] = set()
        self.replaced: set[int] = set()
        self._counts: Counter[int] = Counter()
        self._under_way = 0
        self._refused: list[tuple[int, LaunchError]] = []

    def expected(self, lost: Collection[int]) -> set[int]:
        """Return the lost ranks that will be replaced.

        Args:
            lost: All lost ranks.

        Returns:
            Actors and workers that share their rank with no other role, have a living learner or actor and
            are not given up. Empty if respawning is switched off or impossible.
        """
        if not self.context.config.topology.respawn or not self.context.transport.can_replace:
            return set()
        return {
            rank
            for rank in lost
            if self.context.topology.roles_of(rank) in (("actor",), ("worker",))
            and rank not in self.given_up
            and self.parent_of(rank) not in lost
            and self.parent_of(rank) not in self.replaced
        }

    def parent_of(self, rank: int) -> int:
        """Return the rank that replaces an actor or a worker."""
        topology = self.context.topology
        return topology.group_of(rank).learner if rank in topology.actors else topology.actor_of(rank)

    def is_for(self, rank: int) -> bool:
        """Return whether this rank must replace `rank`."""
        return rank in self.expected({rank}) and self.parent_of(rank) == self.context.rank

    def begin(self, rank: int) -> None:
        """Start to replace a rank, unless it has died too often; `poll` returns the outcome."""
        context = self.context
        start = RespawnedStart(
            config=dump_config(context.config),
            run_directory=str(context.run_directory),
            hosts=list(context.topology.hosts),
            job_end=context.job_end,
            start_number=context.start_number,
            start_version=context.start_version,
            run_id=context.run_id,
            trusted=trusted(),
            server=list(context.processes.get(context.topology.server, ())),
        )
        self._counts[rank] += 1
        self.started.discard(rank)
        self._under_way += 1
        if self._counts[rank] <= MOST:
            context.transport.replace(rank, start.pack())
        else:
            self._refused.append(
                (
                    rank,
                    LaunchError(
                        f"rank {rank} has died {self._counts[rank]} times and will not be replaced again"
                    ),
                )
            )

    def poll(self) -> list[tuple[int, tuple[int, int] | None]]:
        """Return the replacements that have been completed or have failed since the last call.

        Returns:
            Pairs of a rank and the process number and start time of its new process. None stands for a
            failure, which has been logged.
        """
        if not self._under_way:
            return []
        found = [*self.context.transport.poll_respawned(), *self._refused]
        self._under_way -= len(found)
        self._refused.clear()
        for rank, process in found:
            if isinstance(process, LaunchError):
                logger.error("%s; continuing without it", process)
                self.given_up.add(rank)
            else:
                self.started.add(rank)
        return [(rank, None if isinstance(process, LaunchError) else process) for rank, process in found]
