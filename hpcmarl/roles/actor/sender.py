"""Sending of rollouts: rings of arenas for unrolls, and a bounded number of single episodes under way.

A full arena is sent only if another one is free, so that an actor never waits for a free one. Rollouts that
cannot be sent are dropped and counted. With rounds.backpressure the actor first checks `has_room`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpcmarl.comm.protocol import Buffer, Flags, Header, Kind, write_header
from hpcmarl.comm.transport import SendHandle
from hpcmarl.roles.base import Context
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import Rollout

ARENAS = 3  # one that is being written, two that are being sent
EPISODES_UNDER_WAY = 64


class RolloutSender:
    """Send unrolls and episodes to the learner without blocking.

    Attributes:
        sent: Trajectories sent since the actor last reset this counter.
        env_steps: Environment steps since the last message; the next message reports them.
        dropped_steps: Environment steps of rollouts that were not sent.
        limit: Maximum number of messages under way, for each ring of arenas and for episodes.
    """

    def __init__(self, context: Context, index: int) -> None:
        self.context = context
        self.index = index
        self.group = context.topology.group_of(context.rank)
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

    def has_room(self, ring: ArenaRing, row: int) -> bool:
        """Return whether the trajectories that a step at `row` may complete can be sent now.

        Used with rounds.backpressure; otherwise rollouts that cannot be sent are dropped.
        """
        if self.context.whole_episodes:
            return self._under_way() < self.limit
        return row + 1 < ring.present.layout.steps or ring.has_room(self.limit)

    def post_arena(self, ring: ArenaRing, version: int) -> Rollout:
        """Send the full arena of a ring if another one is free; otherwise drop its rollout.

        Args:
            ring: The ring.
            version: Version of the parameters at the arena's first row.

        Returns:
            The rollout, valid until the next step.
        """
        full = ring.present
        buffer, rollout = full.finish(version, self.index)
        if ring.advance(self.limit):
            ring.sent(full, self._send(buffer, rollout))
        elif ring.may_copy(self.limit):
            ring.copies.append(self._send(buffer.copy(), rollout))
        else:
            self.dropped_steps += rollout.steps * rollout.count
        return rollout

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


class ArenaRing:
    """Arenas of slots that step together: one is written while others are being sent.

    Attributes:
        present: The arena that is being written.
        arenas: All arenas, each with the handle of its message.
        copies: Handles of messages that were copied out of an arena, because no other one was free.
    """

    def __init__(self, arenas: Sequence[RolloutArena], *, fixed: bool) -> None:
        """Begin with the first arena.

        Args:
            arenas: The arenas.
            fixed: Whether no arena can be added, because workers write into them.
        """
        self.arenas: list[tuple[RolloutArena, SendHandle]] = [(arena, SendHandle()) for arena in arenas]
        self.present = arenas[0]
        self.copies: list[SendHandle] = []
        self._fixed = fixed

    @property
    def number(self) -> int:
        """Number of the present arena."""
        return next(number for number, (arena, _) in enumerate(self.arenas) if arena is self.present)

    def has_room(self, limit: float) -> bool:
        """Return whether the present arena could be sent now.

        Args:
            limit: Maximum number of messages under way.
        """
        return self._free(limit) is not None or self.may_copy(limit)

    def advance(self, limit: float) -> bool:
        """Continue in a free arena, if there is one or one may be added; argument as of `has_room`."""
        free = self._free(limit)
        if free is not None:
            self.present = self.arenas[free][0]
        return free is not None

    def sent(self, arena: RolloutArena, handle: SendHandle) -> None:
        """Note that the message of an arena is being sent."""
        number = next(number for number, (other, _) in enumerate(self.arenas) if other is arena)
        self.arenas[number] = (arena, handle)

    def may_copy(self, limit: float) -> bool:
        """Return whether a copy of the present arena may be sent; argument as of `has_room`."""
        self.copies = [handle for handle in self.copies if not handle.done()]
        return self._fixed and len(self.arenas) + len(self.copies) <= limit

    def _free(self, limit: float) -> int | None:
        """Return the number of a free arena, added if necessary and permitted; None: no arena is free."""
        for number, (arena, handle) in enumerate(self.arenas):
            if arena is not self.present and handle.done():
                return number
        if self._fixed or len(self.arenas) > limit:
            return None
        self.arenas.append((RolloutArena(self.present.layout), SendHandle()))
        return len(self.arenas) - 1
