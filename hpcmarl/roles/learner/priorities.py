"""Which kept episodes are learned from more often, and how much less each draw of them then counts. Called by
replay_buffer.py.

    p_i = (eta max_t |Q_t - R_t| + (1 - eta) mean_t |Q_t - R_t| + SMALLEST)^alpha       P_i = p_i / sum p
    w_i = (N P_i)^-beta, divided by the largest w of the gradient                       beta rises linearly to
        1

Sources: prioritised replay, arXiv 1511.05952 (proportional variant, stratified draws); the priority of a
whole sequence, R2D2 (openreview.net/forum?id=r1lyTjAqYX). The errors are those of the last gradient that the
episode took part in. A new episode has the largest error of those kept, so that it is soon learned from. The
largest w is the gradient's, not the replay's: one episode that is known by heart would make all others small.

Plain numpy: summing and searching 5,000 priorities takes a fraction of a millisecond a gradient.

    symbol -> variable: alpha, beta config.alpha, .beta   eta config.max_share   N episodes kept
"""

from __future__ import annotations

from collections import deque

import numpy as np

from hpcmarl.algos.q_learning import EpisodeErrors
from hpcmarl.config import PriorityConfig
from hpcmarl.maths.schedules import falling
from hpcmarl.types import Array, FloatArray, IntArray

SMALLEST = 1e-6  # so that everything is drawn now and then
UNKNOWN = 1.0  # error of the first episode


class Priorities:
    """The errors of the kept episodes, oldest first.

    Attributes:
        errors: eta max + (1 - eta) mean of each kept episode.
    """

    def __init__(self, config: PriorityConfig) -> None:
        self.config = config
        self.errors: deque[float] = deque()
        self._first = 0  # how many episodes have left: the number of the oldest

    def add(self, error: float | None = None) -> None:
        """Append an episode. error: None for one that nothing is known of."""
        self.errors.append(max(self.errors, default=UNKNOWN) if error is None else error)

    def forget_oldest(self) -> None:
        """Drop the first episode."""
        self.errors.popleft()
        self._first += 1

    def draw(self, count: int, generator: np.random.Generator) -> IntArray:
        """Draw episodes by their priorities.

        Args:
            count: How many.
            generator: One random number a draw is taken from it.

        Returns:
            Indices, shape [count], increasing; one of a high priority may come several times. Index i comes
            count * P_i times on average.
        """
        limits = np.cumsum(self._priorities())
        places = (np.arange(count) + generator.random(count)) / count * limits[-1]
        found: IntArray = np.minimum(np.searchsorted(limits, places, side="right"), len(limits) - 1)
        return found

    def weights(self, drawn: IntArray, env_steps: int) -> Array:
        """Importance weights of drawn episodes, as if all were kept alike often.

        Args:
            drawn: Indices, shape [n].
            env_steps: Environment steps of the run, by which beta rises.

        Returns:
            (N P_i)^-beta, shape [n] float64, not yet divided by the largest.
        """
        priorities = self._priorities()
        chances = priorities[drawn] / priorities.sum()
        beta = falling(self.config.beta, 1.0, self.config.beta_steps, env_steps)
        weights: Array = (len(priorities) * chances) ** -beta
        return weights

    def numbers(self, drawn: IntArray) -> IntArray:
        """Numbers by which `learn` knows drawn episodes, whatever has left until then."""
        return drawn + self._first

    def learn(self, numbers: IntArray, errors: EpisodeErrors) -> None:
        """Note the errors of a gradient's episodes. Episodes that have left are passed over."""
        share = self.config.max_share
        mixed = share * errors.largest + (1.0 - share) * errors.mean
        for number, error in zip(numbers.tolist(), mixed.tolist(), strict=True):
            if number >= self._first:
                self.errors[number - self._first] = error

    def _priorities(self) -> Array:
        errors: Array = np.fromiter(self.errors, np.float64, len(self.errors))
        priorities: Array = (errors + SMALLEST) ** self.config.alpha
        return priorities


def normalised(weights: Array) -> FloatArray:
    """Weights [n] divided by the largest, float32."""
    divided: FloatArray = (weights / weights.max()).astype(np.float32)
    return divided
