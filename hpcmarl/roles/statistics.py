"""Running means and finished episodes between two reports."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from hpcmarl.types import Episode, Rollout

logger = logging.getLogger(__name__)


class Means:
    """Weighted means of named numbers since the last `take`."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, values: dict[str, float], weight: float = 1.0) -> None:
        """Add numbers by name. Non-finite ones are left out of the mean."""
        for name, value in values.items():
            if np.isfinite(value):
                total, weights = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = (total + weight * value, weights + weight)

    def take(self) -> dict[str, float]:
        """Return the means and reset them."""
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight > 0}
        self._sums.clear()
        return means


class LearnerMeans(Means):
    """Means of the learners' statistics, for metrics rows.

    Warns once if value estimates exceed the largest possible return and grow.
    """

    def __init__(self) -> None:
        super().__init__()
        self._excess: float | None = None  # value of the last row, if it exceeded the limit
        self._told = False
        self._warned: set[str] = set()

    def warn(self, texts: Iterable[str]) -> None:
        """Log warnings of learners, each text once."""
        for text in set(texts) - self._warned:
            self._warned.add(text)
            logger.warning("%s", text)

    def row(self) -> dict[str, float]:
        """Return the means as `learner/NAME` and reset them."""
        means = self.take()
        if "value" in means:
            self._look_at(means["value"], means.get("value_limit", math.inf))
        return {f"learner/{name}": value for name, value in means.items()}

    def _look_at(self, value: float, limit: float) -> None:
        before, self._excess = self._excess, abs(value) if abs(value) > limit else None
        # Untrained networks may also give values beyond the limit, but these fall.
        if before is not None and self._excess is not None and self._excess > before and not self._told:
            self._told = True
            logger.warning(
                "values diverge: their mean is %.3g and grows in magnitude, but with the rewards so far no "
                "return can exceed %.3g; try a smaller optimizer.step_size, for policy gradients a larger "
                "algo.entropy_cost, or algo.normalise_advantages: true, for action values "
                "algo.hypernetwork_activation: tanh (with a mixer), algo.operator: mellowmax, or algo.name: "
                "vdn",
                value,
                limit,
            )


class EpisodeLog:
    """Columns of finished episodes since the last `take`, for the learner's report."""

    def __init__(self) -> None:
        self._episodes: list[Episode] = []
        self._slots: list[int] = []

    def add(self, rollout: Rollout) -> None:
        """Add the episodes that ended in a rollout."""
        self._episodes.extend(rollout.episodes)
        self._slots.extend(int(rollout.slots[episode.slot]) for episode in rollout.episodes)

    def take(self) -> dict[str, Any]:
        """Return the columns and reset them.

        Returns:
            Arrays of shape [episodes]: those of `episode_columns`, and `slot` (number in the run). Empty if
            no episode has ended.
        """
        episodes, self._episodes = self._episodes, []
        slots, self._slots = self._slots, []
        return {**episode_columns(episodes), "slot": np.array(slots, np.int64)} if episodes else {}


class SlotsHeard:
    """Track whether every slot has finished an episode since all slots began together.

    Until then the finished episodes are the short ones, and their mean return is not that of the policy.
    Afterwards episodes end at any time, and those that end resemble those that begin.

    Args:
        slots: Number of slots in the run; 0: wait for none.
    """

    def __init__(self, slots: int) -> None:
        self._missing = set(range(slots))

    def add(self, slots: Iterable[int]) -> None:
        """Stop waiting for these slots: they have finished an episode or are lost."""
        if self._missing:
            self._missing.difference_update(slots)

    def complete(self, given_up: int) -> bool:
        """Return whether all slots have finished an episode, apart from the quarantined ones.

        Args:
            given_up: Number of quarantined slots.
        """
        return len(self._missing) <= given_up


def episode_columns(episodes: list[Episode]) -> dict[str, Any]:
    """Return the columns of episodes.

    Returns:
        Arrays of shape [episodes]: return_mean, length, win (NaN if unknown), and in `returns` one for each
        policy. Empty for no episodes.
    """
    if not episodes:
        return {}
    return {
        "return_mean": np.array([episode.return_mean for episode in episodes]),
        "length": np.array([episode.length for episode in episodes], np.int64),
        "win": np.array([episode.outcome.get("win", np.nan) for episode in episodes]),
        "returns": {
            name: np.array([episode.returns[name] for episode in episodes]) for name in episodes[0].returns
        },
    }
