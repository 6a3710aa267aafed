"""Sending of rollouts: a ring of arenas for unrolls, and a bounded number of single episodes under way.

A full arena is sent only if another one is free, so that an actor never waits for a free one. Rollouts that
cannot be sent are dropped and counted. With rounds.backpressure the actor first checks `has_room`.
"""

from __future__ import annotations

import math

import numpy as np

from hpcmarl.comm.protocol import Buffer, Flags, Header, Kind, write_header
from hpcmarl.comm.transport import SendHandle
from hpcmarl.roles.base import Context
from hpcmarl.rollouts.layout import RolloutArena, RolloutLayout
from hpcmarl.types import Rollout

ARENAS = 3  # one that is being written, two that are being sent
EPISODES_UNDER_WAY = 64


class RolloutSender:
    """Send unrolls and episodes to the learner without blocking.

    Attributes:
        arena: The arena that is being written.
        sent: Trajectories sent since the actor last reset this counter.
        env_steps: Environment steps since the last message; the next message reports them.
        dropped_steps: Environment steps of rollouts that were not sent.
        limit: Maximum number of messages under way.
    """

    def __init__(self, context: Context, layout: RolloutLayout, index: int) -> None:
        self.context = context
        self.index = index
        self.group = context.topology.group_of(context.rank)
        self.arenas: list[tuple[RolloutArena, SendHandle]] = [
            (RolloutArena(layout), SendHandle()) for _ in range(ARENAS)
        ]
        self.arena = self.arenas[0][0]
        self.episodes: list[SendHandle] = []
        self.sent = self.env_steps = self.dropped_steps = 0
        self.limit = self._under_way_limit()

    def _under_way_limit(self) -> float:
        """Return the maximum number of messages under way.

        A learner in the same memory keeps the queued messages in place. Its queue, which drops the oldest
        message itself, is then added to the limit.
        """
        if self.context.config.deterministic or self.context.in_order:
            return math.inf  # nothing may be dropped; quotas and allotments bound the number
        shared = self.context.transport.shares_memory(self.group.learner)
        own = EPISODES_UNDER_WAY if self.context.whole_episodes else ARENAS - 1
        return self.context.queue_limit(self.group) + own if shared else own

    def has_room(self, row: int) -> bool:
        """Return whether the trajectories that a step at `row` may complete can be sent now.

        Used with rounds.backpressure; otherwise rollouts that cannot be sent are dropped.
        """
        if self.context.whole_episodes:
            return self._under_way() < self.limit
        return row + 1 < self.arena.layout.steps or self._free() is not None

    def post_arena(self, version: int) -> Rollout:
        """Send the full arena if another one is free; otherwise drop its rollout.

        Args:
            version: Version of the parameters at its first row.

        Returns:
            The rollout, valid until the next step.
        """
        arena = self.arena
        buffer, rollout = arena.finish(version, self.index)
        free = self._free()
        if free is None:
            self.dropped_steps += rollout.steps * rollout.count
        else:
            own = next(index for index, (other, _) in enumerate(self.arenas) if other is arena)
            self.arenas[own] = (arena, self._send(buffer, rollout))
            self.arena = self.arenas[free][0]
        return rollout

    def _free(self) -> int | None:
        """Return the number of a free arena, added if necessary and permitted; None: no arena is free."""
        free = next(
            (
                index
                for index, (arena, handle) in enumerate(self.arenas)
                if arena is not self.arena and handle.done()
            ),
            None,
        )
        if free is None and len(self.arenas) <= self.limit:
            self.arenas.append((RolloutArena(self.arena.layout), SendHandle()))
            free = len(self.arenas) - 1
        return free

    def go_on_from(self, arena: RolloutArena) -> None:
        """Copy the observations after the last row of `arena` to row 0 of the present arena."""
        self.arena.begin_after(arena)

    def post_episode(self, buffer: Buffer, rollout: Rollout, *, more: bool) -> None:
        """Send one whole episode, or drop it if too many are under way.

        Args:
            buffer: Message of the episode, which must not be reused.
            rollout: Views of the message.
            more: Whether another episode follows that ended in the same step.
        """
        # One step may end many episodes. With backpressure, the check before the step permits all of them.
        if self._under_way() < self.limit or self.context.config.backpressure:
            self.episodes.append(self._send(buffer, rollout, Flags.MORE if more else Flags.NONE))
        else:
            self.dropped_steps += rollout.steps

    def _under_way(self) -> int:
        """Return the number of episodes that have not arrived yet."""
        self.episodes = [handle for handle in self.episodes if not handle.done()]
        return len(self.episodes)

    def _send(self, buffer: Buffer, rollout: Rollout, flags: Flags = Flags.NONE) -> SendHandle:
        self.sent += rollout.count
        write_header(
            buffer,
            Header(
                Kind.ROLLOUT,
                source=self.context.rank,
                role="actor",
                group=self.group.index,
                version=rollout.version,
                trajectories=rollout.count,
                env_steps=self.env_steps,
                agent_steps=sum(
                    int(np.count_nonzero(policy.alive[:-1])) for policy in rollout.policies.values()
                ),
                flags=flags,
            ),
        )
        self.env_steps = 0
        return self.context.transport.send(self.group.learner, buffer)
