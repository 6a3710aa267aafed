"""What an actor writes into and sends from: a ring of arenas for unrolls, and a bounded number of single
episodes under way.

Called by the actor; knows no environment and no algorithm. A full arena is sent only if another one is free
to go on in, so that an actor never waits for a free one; what cannot be sent is dropped and counted. With
rounds.backpressure the actor asks first whether there is room.
"""

from __future__ import annotations

import math

import numpy as np

from hpcmarl.comm.protocol import Buffer, Flags, Header, Kind, write_header
from hpcmarl.comm.transport import SendHandle
from hpcmarl.roles.base import Context
from hpcmarl.rollouts.layout import RolloutArena, RolloutLayout
from hpcmarl.types import Rollout

ARENAS = 3  # one being written, two on their way
EPISODES_UNDER_WAY = 64


class RolloutSender:
    """`arena` is the one being written; `sent` counts trajectories since the actor last set it to 0.

    env_steps: steps taken since the last message, told with the next one; dropped_steps: environment steps of
    rollouts not sent.
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
        """How many messages may be under way.

        A learner in the same memory holds on to what it queues, so there its queue is the limit (it drops the
        oldest itself).
        """
        if self.context.config.deterministic or self.context.in_order:
            return math.inf  # may drop nothing; how many there can be is agreed
        shared = self.context.transport.shares_memory(self.group.learner)
        own = EPISODES_UNDER_WAY if self.context.whole_episodes else ARENAS - 1
        return self.context.queue_limit(self.group) + own if shared else own

    def has_room(self, row: int) -> bool:
        """Whether what a step at `row` may complete can be sent now. Asked with rounds.backpressure; else
        what cannot be sent is dropped.
        """
        if self.context.whole_episodes:
            return self._under_way() < self.limit
        return row + 1 < self.arena.layout.steps or self._free() is not None

    def post_arena(self, version: int) -> Rollout:
        """Send the full arena, if another one is free to go on in, else write over it; the rollout stays
        readable till the next step.
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
        """The number of an arena to go on in."""
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
        """What the environments show after `arena`'s last row becomes row 0 of the present one."""
        self.arena.begin_after(arena)

    def post_episode(self, buffer: Buffer, rollout: Rollout, *, more: bool) -> None:
        """Send one whole episode, in a buffer of its own. more: another one, which ended in the same step,
        follows.
        """
        # one step may end many episodes: whoever asked for room before it may send them all
        if self._under_way() < self.limit or self.context.config.backpressure:
            self.episodes.append(self._send(buffer, rollout, Flags.MORE if more else Flags.NONE))
        else:
            self.dropped_steps += rollout.steps

    def _under_way(self) -> int:
        """Episodes that have not arrived yet."""
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
