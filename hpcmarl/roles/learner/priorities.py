"""Priorities of kept episodes, and the importance weights that correct for them.

    p_i = (eta max_t |Q_t - R_t| + (1 - eta) mean_t |Q_t - R_t| + SMALLEST)^alpha
    P_i = p_i / sum p
    w_i = (N P_i)^-beta, divided by the largest w of the gradient; beta rises linearly to 1

    symbol -> variable: alpha, beta -> config.alpha, .beta; eta -> config.max_share; N -> episodes kept

The errors are those of the last gradient that the episode took part in. A new episode gets the largest error
of those kept, so that it is soon learned from. The weights are divided by the largest w of the gradient, not
of the replay buffer. Otherwise one perfectly predicted episode would make all other weights small.

Plain numpy is fast enough: to sum and search 5,000 priorities takes a fraction of a millisecond per gradient.

Source: prioritised replay, arXiv 1511.05952 (proportional variant, stratified draws). Priority of a whole
sequence: R2D2 (openreview.net/forum?id=r1lyTjAqYX).
"""

from __future__ import annotations

from collections import deque

import numpy as np

from hpcmarl.algos.replayed import EpisodeErrors
from hpcmarl.config import PriorityConfig
from hpcmarl.maths.schedules import falling
from hpcmarl.types import Array, FloatArray, IntArray

SMALLEST = 1e-6  # keeps every priority positive, so that every episode can be drawn
UNKNOWN = 1.0  # error of the first episode


class Priorities:
    """The errors of the kept episodes, oldest first.

    Attributes:
        errors: eta max + (1 - eta) mean of each kept episode.
    """

    def __init__(self, config: PriorityConfig) -> None:
        self.config = config
        self.errors: deque[float] = deque()
        self._first = 0  # episodes removed so far, which is the number of the oldest kept one

    def add(self, error: float | None = None) -> None:
        """Append an episode.

        Args:
            error: Its error; None: unknown, so that it gets the largest error of those kept.
        """
        self.errors.append(max(self.errors, default=UNKNOWN) if error is None else error)

    def forget_oldest(self) -> None:
        """Remove the first episode."""
        self.errors.popleft()
        self._first += 1

    def draw(self, count: int, generator: np.random.Generator) -> IntArray:
        """Draw episodes by their priorities, stratified, with replacement.

        Args:
            count: Number of draws.
            generator: Random numbers; one is taken per draw.

        Returns:
            Indices in increasing order, shape [count]. An episode of high priority may occur several times.
            Index i occurs count * P_i times on average.
        """
        limits = np.cumsum(self._priorities())
        places = (np.arange(count) + generator.random(count)) / count * limits[-1]
        found: IntArray = np.minimum(np.searchsorted(limits, places, side="right"), len(limits) - 1)
        return found

    def weights(self, drawn: IntArray, env_steps: int) -> Array:
        """Return the importance weights that correct drawn episodes to uniform sampling.

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
        """Return permanent numbers of drawn episodes, which stay valid when older episodes are removed.

        Args:
            drawn: Indices, shape [n].

        Returns:
            Numbers for `learn`, shape [n].
        """
        return drawn + self._first

    def learn(self, numbers: IntArray, errors: EpisodeErrors) -> None:
        """Set the errors of the episodes of a gradient. Episodes that have been removed are ignored.

        Args:
            numbers: Their numbers, shape [n].
            errors: Their errors in the same order.
        """
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
    """Return weights [n] divided by the largest of them, as float32."""
    divided: FloatArray = (weights / weights.max()).astype(np.float32)
    return divided
