"""How the lanes of an actor follow new versions of the weights, allotments and the ends of versions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from hpcmarl.roles.actor.lane import Lane, Stage

if TYPE_CHECKING:
    from hpcmarl.roles.actor.actor import Actor


class VersionFollower:
    """Brings lanes up to date with the version and the allotment of their actor.

    Args:
        actor: The actor.
    """

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def settle(self, lane: Lane) -> None:
        """Bring a lane, whose environments do not step, up to date with the version and the allotment.

        Environments on workers may have to begin episodes for it; this method is called again afterwards.
        """
        actor = self._actor
        turns = lane.turns
        while turns is not None:
            if not lane.environment.poll():
                lane.stage = Stage.RESTARTING
                return
            if turns.settle(actor.version, lane.frame, lane.row % lane.arena.layout.steps):
                self.take_up(lane)
                continue
            if lane.row == lane.arena.layout.steps:
                lane.go_on_from(lane.arena)
            if not self._catch_up(lane):
                break
        if turns is None and actor.has_weights and lane.version < 0:
            lane.version = actor.version
            lane.timer.begin()  # do not count the time before the first weights
        lane.stage = Stage.READY
        if actor.decider.waits:
            lane.ready_since = time.monotonic()

    def _catch_up(self, lane: Lane) -> bool:
        """Follow a new version or allotment, or the end of a version.

        Returns:
            Whether environments may have to begin episodes for it.
        """
        actor = self._actor
        turns = lane.turns
        if turns is None or not actor.has_weights:
            return False
        if lane.opened and (lane.version == actor.version or not actor.algorithm.on_policy):
            if not actor.algorithm.on_policy:
                return False
            if actor.version <= actor.closing:
                turns.close(lane.frame)
                return False
            began = turns.allot(actor.version, lane.frame, lane.row)
            lane.timer.begin(began)
            return bool(began)
        if lane.version < 0:
            lane.timer.begin()
        if actor.algorithm.on_policy:
            abandon = lane.version < 0 or actor.context.config.rounds.late == "cancel"
            lane.timer.begin(np.flatnonzero(turns.assembler.resting).tolist())
            lost = turns.open(actor.version, lane.frame, lane.row, abandon=abandon)
            actor.counters["cancelled_steps"] += lost
            if abandon:
                lane.timer.begin()
                self.begin_trajectory(lane)
        elif lane.version < 0:
            turns.assembler.versions[:] = actor.version
        lane.version, lane.opened = actor.version, True
        return True

    def take_up(self, source: Lane | None = None) -> None:
        """Have lanes with resting slots play the episodes that other slots have left."""
        actor = self._actor
        for lane in actor.lanes:
            if lane is source or lane.stage is not Stage.READY or lane.turns is None:
                continue
            if lane.opened and lane.version == actor.version and actor.algorithm.on_policy:
                lane.timer.begin(lane.turns.take_up(actor.version, lane.frame, lane.row))
                self.settle(lane)

    def begin_trajectory(self, lane: Lane) -> None:
        """Apply the injected delay per trajectory."""
        if lane.trajectory_delay:
            lane.ready_at = time.monotonic() + lane.trajectory_delay
