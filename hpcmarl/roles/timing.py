"""Durations of trajectories, gradients and exchanges by group.

`hpcmarl simulate --from-run` predicts from them. Only sums are kept: a few numbers per group, however long
the run is. They are part of checkpoints. Work that was abandoned before its end is not measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.topology import Topology
from hpcmarl.types import Array

# Indices of the sums. For trajectories: their number, and the sums of their durations and squared durations.
COUNT, SECONDS, SQUARES = range(3)
# For learners: reports with gradients, and the sum of their mean seconds per trajectory. For exchanges: their
# number, the seconds from publishing to the first gradient, and the trajectories of each slot in that time.
REPORTS, LEARNING, REPLIES, REPLY_SECONDS, WAVES = range(3, 8)
SUMS = 8


class TrajectoryTimer:
    """Durations of one actor's trajectories, by slot.

    A duration lasts from the first step, including injected delays, to the delivery.

    Attributes:
        sums: COUNT, SECONDS and SQUARES of all finished trajectories.
    """

    def __init__(self, slots: int) -> None:
        self._began = np.full(slots, time.perf_counter())
        self.sums = [0.0, 0.0, 0.0]

    def begin(self, slots: Sequence[int] | None = None) -> None:
        """Restart the timers of slots. Their unfinished trajectories do not count.

        Args:
            slots: The slots; None: all.
        """
        self._began[slice(None) if slots is None else list(slots)] = time.perf_counter()

    def skip(self, seconds: float) -> None:
        """Exclude a pause that has just ended from the trajectories under way.

        Args:
            seconds: Duration of the pause.
        """
        self._began += seconds

    def finished(self, slots: Sequence[int]) -> None:
        """Record that these slots have each finished a trajectory and begin the next."""
        now = time.perf_counter()
        for slot in slots:
            duration = now - float(self._began[slot])
            self.sums[COUNT] += 1
            self.sums[SECONDS] += duration
            self.sums[SQUARES] += duration * duration
            self._began[slot] = now


class GroupTimes:
    """Sums over the whole run by group, and the metrics derived from them. Lives on the server.

    The exchange time of a group is measured from a new query point to the group's first gradient at it. With
    `cancels`, the mean duration of the trajectories is subtracted from the mean of these times. Otherwise
    work continues during an exchange, so that the shortest such time is used.

    Args:
        topology: Ranks and groups.
        slots: Slots of each actor.
        on_policy: Whether gradients use only trajectories sampled at their query point.
        cancels: Whether actors abandon their trajectories and begin new ones at every query point.
    """

    def __init__(self, topology: Topology, slots: int, *, on_policy: bool, cancels: bool) -> None:
        groups = topology.groups
        self.slots = [slots * len(group.actors) for group in groups]
        self.on_policy, self.cancels = on_policy, cancels
        self._group_of_actor = {
            topology.actor_index(rank): group.index for group in groups for rank in group.actors
        }
        self._sums: Array = np.zeros((len(groups), SUMS))
        self._shortest = np.full(len(groups), math.inf)
        self._server = np.zeros(2)  # gradients, seconds
        self._told: dict[int, Array] = {}  # actor -> its newest sums, which are in `_sums` already
        # group without a gradient at its newest query point -> version of the point, and when it was sent
        self._published: dict[int, tuple[int, float]] = {}

    def on_actor(self, actor: int, sums: Sequence[float]) -> None:
        """Add the progress of an actor's sums since its last report.

        Args:
            actor: Number of the actor.
            sums: Its sums so far, [3]. They restart at zero when a new process replaces it.
        """
        newest = np.array(sums, dtype=np.float64)
        before = self._told.get(actor, np.zeros(3))
        self._told[actor] = newest
        self._sums[self._group_of_actor[actor], :REPORTS] += (
            newest - before if newest[COUNT] >= before[COUNT] else newest
        )

    def on_learner(self, group: int, statistics: Mapping[str, float]) -> None:
        """Add the gradient time of a learner's report, if it made any gradient since the last.

        Args:
            group: Number of the group.
            statistics: Means of the report; `gradient_seconds` is the mean per trajectory.
        """
        if "gradient_seconds" in statistics:
            self._sums[group, [REPORTS, LEARNING]] += 1.0, statistics["gradient_seconds"]

    def published(self, version: int, groups: Sequence[int]) -> None:
        """Record that a new query point is being sent to these groups."""
        now = time.perf_counter()
        for group in groups:
            self._published[group] = (version, now)

    def arrived(self, group: int, version: int, count: int) -> None:
        """Record the arrival of a gradient. The first one at a query point ends the exchange.

        Args:
            group: Number of the group.
            version: Version at which the gradient was taken.
            count: Its trajectories.
        """
        if self._published.get(group, (-1, 0.0))[0] == version:
            elapsed = time.perf_counter() - self._published.pop(group)[1]
            self._sums[group, [REPLIES, REPLY_SECONDS, WAVES]] += (
                1.0,
                elapsed,
                math.ceil(count / self.slots[group]),
            )
            self._shortest[group] = min(self._shortest[group], elapsed)

    def served(self, seconds: float) -> None:
        """Record the time that the server spent on one gradient, including its step and messages."""
        self._server += 1.0, seconds

    @property
    def serving_seconds(self) -> float:
        """Seconds that the server has spent on gradients."""
        return float(self._server[1])

    def row(self) -> dict[str, float]:
        """Return the metrics of the server, as means over the whole run."""
        return {"server/gradient_seconds": self._server[1] / self._server[0]} if self._server[0] else {}

    def groups(self) -> dict[str, Array]:
        """Return the metrics of groups, as means over the whole run.

        Returns:
            Name -> array [G]. NaN for groups that have not delivered such data, or no trajectory at all.
        """
        sums = self._sums.T
        with np.errstate(divide="ignore", invalid="ignore"):
            there = np.where(sums[COUNT] > 0, 1.0, np.nan)
            mean = sums[SECONDS] / sums[COUNT]
            spread = np.sqrt(np.maximum(0.0, sums[SQUARES] / sums[COUNT] - mean * mean))
            learning = np.where(sums[REPORTS] > 0, sums[LEARNING] / sums[REPORTS], np.nan)
            if self.cancels:
                exchange = (sums[REPLY_SECONDS] - sums[WAVES] * mean) / sums[REPLIES]
            else:
                exchange = self._shortest - (mean if self.on_policy else 0.0)
            exchange = np.where(sums[REPLIES] > 0, np.maximum(0.0, exchange), np.nan)
        return {
            "slots": there * np.array(self.slots),
            "timed_trajectories": there * sums[COUNT],
            "trajectory_seconds": there * mean,
            "trajectory_spread_seconds": there * spread,
            "gradient_seconds": there * learning,
            "exchange_seconds": there * exchange,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sums by group, for the checkpoint."""
        return {
            "sums": self._sums.copy(),
            "shortest": self._shortest.copy(),
            "server": self._server.copy(),
            "slots": list(self.slots),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the sums of a checkpoint. A run with other groups starts from zero."""
        if list(state["slots"]) == self.slots:
            self._sums, self._shortest, self._server = (
                np.array(state[name], dtype=np.float64) for name in ("sums", "shortest", "server")
            )
