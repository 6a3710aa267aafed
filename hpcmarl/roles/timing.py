"""How long trajectories, gradients and answers take, group by group: what `hpcmarl simulate --from-run`
predicts from.

TrajectoryTimer lives in an actor, GroupTimes in the server's recorder. Sums only, so that a run of any length
keeps a few numbers a group; they survive resuming. Knows no message and no file. What is not measured: work
that was abandoned before its end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.topology import Topology
from hpcmarl.types import Array

# of trajectories: how many, the sum of their durations, and of the squares of these
COUNT, SECONDS, SQUARES = range(3)
REPORTS, LEARNING, REPLIES, REPLY_SECONDS, WAVES = range(3, 8)
SUMS = 8


class TrajectoryTimer:
    """Durations of one actor's trajectories, slot by slot: from the first step's turn (injected delays
    included) to their delivery.
    """

    def __init__(self, slots: int) -> None:
        self._began = np.full(slots, time.perf_counter())
        self.sums = [0.0, 0.0, 0.0]

    def begin(self, slots: Sequence[int] | None = None) -> None:
        """These slots, or all, begin anew; what they were doing does not count."""
        self._began[slice(None) if slots is None else list(slots)] = time.perf_counter()

    def skip(self, seconds: float) -> None:
        """The trajectories under way stood still for so long just now."""
        self._began += seconds

    def finished(self, slots: Sequence[int]) -> None:
        """These slots have each finished a trajectory and begin the next."""
        now = time.perf_counter()
        for slot in slots:
            duration = now - float(self._began[slot])
            self.sums[COUNT] += 1
            self.sums[SECONDS] += duration
            self.sums[SQUARES] += duration * duration
            self._began[slot] = now


class GroupTimes:
    """The server's sums over the whole run, [groups, SUMS], and the columns of metrics that are made of them.

    `cancels`: actors begin anew with every point, so that what passes between a point and a group's first
    gradient at it, less the trajectories themselves, is what the exchange takes. Else work goes on meanwhile,
    and the shortest such time is taken.
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
        self._published: dict[
            int, tuple[int, float]
        ] = {}  # groups that have not answered their point: its version, and when it was sent

    def on_actor(self, actor: int, sums: Sequence[float]) -> None:
        """An actor's sums so far; they begin at zero again where a new process took its place."""
        newest = np.array(sums, dtype=np.float64)
        before = self._told.get(actor, np.zeros(3))
        self._told[actor] = newest
        self._sums[self._group_of_actor[actor], :REPORTS] += (
            newest - before if newest[COUNT] >= before[COUNT] else newest
        )

    def on_learner(self, group: int, statistics: Mapping[str, float]) -> None:
        """A learner's means since it last told; with gradient_seconds, of one trajectory, if it made any
        gradient.
        """
        if "gradient_seconds" in statistics:
            self._sums[group, [REPORTS, LEARNING]] += 1.0, statistics["gradient_seconds"]

    def published(self, version: int, groups: Sequence[int]) -> None:
        """A new point is on its way to these groups."""
        now = time.perf_counter()
        for group in groups:
            self._published[group] = (version, now)

    def arrived(self, group: int, version: int, count: int) -> None:
        """A gradient has come; the first one at a point answers it."""
        if self._published.get(group, (-1, 0.0))[0] == version:
            elapsed = time.perf_counter() - self._published.pop(group)[1]
            self._sums[group, [REPLIES, REPLY_SECONDS, WAVES]] += (
                1.0,
                elapsed,
                math.ceil(count / self.slots[group]),
            )
            self._shortest[group] = min(self._shortest[group], elapsed)

    def served(self, seconds: float) -> None:
        """The server has dealt with one gradient, its step and its messages included."""
        self._server += 1.0, seconds

    @property
    def serving_seconds(self) -> float:
        """Seconds that the server has spent on gradients."""
        return float(self._server[1])

    def row(self) -> dict[str, float]:
        """Columns of metrics: means of the whole run."""
        return {"server/gradient_seconds": self._server[1] / self._server[0]} if self._server[0] else {}

    def groups(self) -> dict[str, Array]:
        """Figures of single groups, name -> [G]: means of the whole run; NaN where a group has delivered no
        trajectory, or none of the kind.
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
        """The sums, by group."""
        return {
            "sums": self._sums.copy(),
            "shortest": self._shortest.copy(),
            "server": self._server.copy(),
            "slots": list(self.slots),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on summing; a run that goes on with other groups measures anew."""
        if list(state["slots"]) == self.slots:
            self._sums, self._shortest, self._server = (
                np.array(state[name], dtype=np.float64) for name in ("sums", "shortest", "server")
            )
