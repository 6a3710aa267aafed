"""New processes in the place of dead actors (topology.respawn).

The learner's rank starts the process and passes its messages on, so that no other rank waits. The rank of a
server or learner is never replaced, because its state is lost with it.
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
MOST = 10  # processes in one place; whatever dies that often dies of the same cause


class RespawnManager:
    """`started`: the places in which this rank has started a process. `given_up`: those that stay empty."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.started: set[int] = set()
        self.given_up: set[int] = set()
        self._counts: Counter[int] = Counter()
        self._under_way = 0
        self._refused: list[tuple[int, LaunchError]] = []

    def expected(self, lost: Collection[int]) -> set[int]:
        """Those of the lost ranks in whose place a new process will come."""
        topology = self.context.topology
        learners = {group.learner for group in topology.groups}
        if not self.context.config.topology.respawn or not self.context.transport.can_replace:
            return set()
        return {
            rank
            for rank in lost
            if topology.roles_of(rank) == ("actor",)
            and rank not in self.given_up
            and topology.group_of(rank).learner in learners - set(lost)
        }

    def is_for(self, rank: int) -> bool:
        """Whether this rank is the one to replace `rank`."""
        return (
            rank in self.expected({rank})
            and self.context.topology.group_of(rank).learner == self.context.rank
        )

    def begin(self, rank: int) -> None:
        """Begin to start a new process in the place of `rank`."""
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
                        f"rank {rank} has died {self._counts[rank]} times: it is not replaced any more"
                    ),
                )
            )

    def poll(self) -> list[tuple[int, tuple[int, int] | None]]:
        """Whose new process is there: its number and start; None where there can be none (logged)."""
        if not self._under_way:
            return []
        found = [*self.context.transport.poll_respawned(), *self._refused]
        self._under_way -= len(found)
        self._refused.clear()
        for rank, process in found:
            if isinstance(process, LaunchError):
                logger.error("%s; going on without it", process)
                self.given_up.add(rank)
            else:
                self.started.add(rank)
        return [(rank, None if isinstance(process, LaunchError) else process) for rank, process in found]
