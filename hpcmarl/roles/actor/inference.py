"""Choice of actions for the lanes that wait for them, in one batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpcmarl.roles.actor.lane import Lane, join_frames, join_memories, join_shares, part_of
from hpcmarl.types import Decision

if TYPE_CHECKING:
    from hpcmarl.roles.actor.actor import Actor


class BatchDecider:
    """Decides when a batch is complete, and infers for it.

    Args:
        actor: The actor.

    Attributes:
        waits: Whether incomplete batches wait.
    """

    def __init__(self, actor: Actor) -> None:
        topology = actor.context.config.topology
        self._actor = actor
        self.waits = topology.batch is not None or topology.deadline_milliseconds is not None
        self._target = topology.batch or actor.slots
        self._deadline = (
            None if topology.deadline_milliseconds is None else topology.deadline_milliseconds * 1e-3
        )

    def due_at(self, ready: Sequence[Lane]) -> float:
        """Return when to infer for some lanes, in seconds of time.monotonic().

        Args:
            ready: Lanes that wait for actions, at least one.

        Returns:
            0.0: now. Infinity: when more lanes are ready.
        """
        if not any(lane.in_flight for lane in self._actor.lanes):
            return 0.0
        if sum(lane.active for lane in ready) >= self._target:
            return 0.0
        if self._deadline is None:
            return float("inf")
        due = min(lane.ready_since for lane in ready) + self._deadline
        return due if due > time.monotonic() else 0.0

    def decide(self, lanes: Sequence[Lane]) -> list[Mapping[str, Decision]]:
        """Return the decisions for each lane."""
        actor = self._actor
        if len(lanes) == 1:
            lane = lanes[0]
            shares = lane.random_shares
            return [actor.algorithm.act(lane.frame, lane.memory, actor.generator, random_shares=shares)]
        frame = join_frames([lane.frame for lane in lanes])
        memory = join_memories([lane.memory for lane in lanes])
        shares = join_shares(lanes)
        decisions = actor.algorithm.act(frame, memory, actor.generator, random_shares=shares)
        parts: list[Mapping[str, Decision]] = []
        start = 0
        for lane in lanes:
            parts.append(part_of(decisions, slice(start, start + lane.slots)))
            start += lane.slots
        return parts
