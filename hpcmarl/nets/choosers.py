"""Selection of actions from the raw outputs of a policy network, in numpy.

Each kind of action space has one class. Learners use the same distributions in torch (heads.py). Acting and
learning compute log-probabilities by the same formula, always from the action as it is stored.

Shapes, for n rows:
    raw      [n, K]
    action   [n, *action.shape]
    mask     [n, A] bool, or None
    logp     [n]
    noise    tuple of arrays [n, ...]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import numpy as np

from hpcmarl.errors import UsageError
from hpcmarl.types import ActionSpace, Array, BoolArray, DoubleArray, FloatArray

# Logit of an unavailable action. Its probability is exactly zero in float32, yet no number becomes infinite.
UNAVAILABLE = -1e9
# Bound of the value u of a continuous action before the squashing. Beyond it, float32 hardly separates
# tanh(u) from 1.
LARGEST_SQUASH = 5.0
# Added to the input of the softplus, so that a new network has a standard deviation of one.
UNIT_SOFTPLUS = math.log(math.e - 1.0)
LEAST_DEVIATION = 1e-3
# Exponential noise is zero in rare cases. This offset keeps the quotient in _choose_component finite.
TINY = np.float32(1e-30)
FORBIDDEN = np.float32(UNAVAILABLE)

# Random numbers. Each array has one row for each row of raw outputs.
Noise = tuple[Array, ...]


class Chooser(ABC):
    """Rule by which an agent selects actions from raw network outputs.

    Attributes:
        meaning: Short description of the raw outputs.
        kind: Kind of the raw outputs: logits, action values, the moments of a Gaussian before its squashing,
            or a deterministic action before its squashing.
        raw_size: Number of raw outputs per row, K.
    """

    meaning: str
    kind: Literal["logits", "values", "gaussian", "deterministic"]
    raw_size: int

    @abstractmethod
    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        """Draw the random numbers that `choose` needs for `rows` rows."""

    @abstractmethod
    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        """Choose an action for each row.

        Args:
            raw: Raw outputs, shape [n, K].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.
            noise: Random numbers from `draw`, which this method overwrites. None: choose the most probable
                actions (continuous actions: the squashed mean).
            with_logp: Whether to compute log-probabilities.

        Returns:
            Actions, shape [n, *action.shape], and their log-probabilities, shape [n] float32, or None.
        """

    def with_shares(self, noise: Noise, shares: FloatArray) -> Noise:
        """Return random numbers for `choose` that replace the share of random actions, where there is one.

        Args:
            noise: Random numbers from `draw`.
            shares: Share of random actions of each row, shape [n]; NaN: the chooser's own.
        """
        return noise

    def on_progress(self, env_steps: int) -> None:  # noqa: B027  most choosers have no schedule
        """Update schedules to the number of environment steps that the run has made."""

    def action_probs(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        """Return the probability that sampling selects each action.

        Args:
            raw: Raw outputs, shape [n, K].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.

        Returns:
            Probabilities, shape [n, A].

        Raises:
            TypeError: If actions are not discrete.
        """
        raise TypeError(
            f"{type(self).__name__} has no probabilities of single actions; allowed: discrete actions"
        )

    def score(self, raw: FloatArray, action: Array, mask: BoolArray | None) -> FloatArray:
        """Return the derivative of the actions' log-probabilities with respect to the raw outputs.

        Args:
            raw: Raw outputs, shape [n, K].
            action: Actions, shape [n, *action.shape].
            mask: Allowed actions, shape [n, A]; None: all actions are allowed.

        Returns:
            Derivatives, shape [n, K].

        Raises:
            TypeError: If actions have no differentiable log-probability.
        """
        raise TypeError(f"{type(self).__name__} has no differentiable log-probabilities")


def centre_and_scale(space: ActionSpace) -> tuple[DoubleArray, DoubleArray]:
    """Return the middle and half the range of each dimension of continuous actions, shape [D] each.

    Raises:
        UsageError: If the bounds are not finite intervals.
    """
    low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
    if (
        low.shape != space.sizes
        or high.shape != space.sizes
        or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all()
    ):
        raise UsageError(
            f"continuous actions have bounds {space.low} to {space.high}; allowed: finite, low < high; "
            "rescale the environment's actions"
        )
    return (low + high) / 2, (high - low) / 2


class EpsilonGreedy(Chooser):
    """Epsilon-greedy choice; the raw outputs are the values of discrete actions.

    With probability `epsilon` the agent takes a random allowed action, else the allowed action of the largest
    value. Among equal values the first action wins.
    """

    meaning = "values"
    kind = "values"

    def __init__(
        self, space: ActionSpace, epsilon: float, schedule: Callable[[int], float] | None = None
    ) -> None:
        """Create a chooser.

        Args:
            space: A discrete action space.
            epsilon: Probability of a random action.
            schedule: Maps the environment steps of the run to epsilon; None: epsilon is constant.
        """
        self.raw_size = space.sizes[0]
        self.epsilon = epsilon
        self._schedule = schedule

    def on_progress(self, env_steps: int) -> None:
        if self._schedule is not None:
            self.epsilon = self._schedule(env_steps)

    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        return generator.random(rows), generator.random((rows, self.raw_size))

    def with_shares(self, noise: Noise, shares: FloatArray) -> Noise:
        return (*noise, np.where(np.isnan(shares), self.epsilon, shares))

    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        best = self._best(raw, mask)
        if noise is None:
            return best, np.zeros(len(raw), np.float32) if with_logp else None
        explores, preference, *own = noise
        epsilon = own[0] if own else self.epsilon
        random_action = (preference if mask is None else np.where(mask, preference, -1.0)).argmax(1)
        action = np.where(explores < epsilon, random_action, best)
        if not with_logp:
            return action, None
        share = epsilon / (raw.shape[1] if mask is None else np.maximum(mask.sum(1), 1))
        return action, np.log(share + (1.0 - epsilon) * (action == best)).astype(np.float32)

    def _best(self, raw: FloatArray, mask: BoolArray | None) -> Array:
        """Return the allowed actions of the largest values, shape [n]."""
        best: Array = (raw if mask is None else np.where(mask, raw, -np.inf)).argmax(1)
        return best

    def action_probs(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        allowed = np.ones(raw.shape, bool) if mask is None else mask
        best = self._best(raw, mask)
        action_probs: FloatArray = np.asarray(
            allowed * (self.epsilon / np.maximum(allowed.sum(-1, keepdims=True), 1)), np.float32
        )
        action_probs[np.arange(len(raw)), best] += 1.0 - self.epsilon
        return action_probs


def make_chooser(space: ActionSpace) -> Chooser:
    """Return the chooser that samples from a distribution over this action space.

    Raises:
        UsageError: If the bounds of continuous actions are not finite intervals.
    """
    return TanhGaussianChooser(space) if space.kind == "continuous" else CategoricalChooser(space)


class CategoricalChooser(Chooser):
    """One masked categorical distribution per action component; a discrete action has one component."""

    meaning = "logits"
    kind = "logits"

    def __init__(self, space: ActionSpace) -> None:
        self.raw_size = sum(space.sizes)
        self.single = space.kind == "discrete"
        ends = np.cumsum(space.sizes).tolist()
        self.slices = [slice(end - size, end) for end, size in zip(ends, space.sizes, strict=True)]

    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        noise = generator.standard_exponential((rows, self.raw_size), dtype=np.float32)
        noise += TINY
        return (noise,)

    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        """Choose an action for each row; see Chooser.choose.

        Unavailable actions are never taken. Their probability is exactly zero, and the quotient of the most
        probable action is positive for every noise.
        """
        if mask is not None:
            raw = np.where(mask, raw, FORBIDDEN)
        if self.single:
            return _choose_component(raw, None if noise is None else noise[0], with_logp)
        parts = [
            _choose_component(raw[:, part], None if noise is None else noise[0][:, part], with_logp)
            for part in self.slices
        ]
        action = np.stack([taken for taken, _ in parts], axis=-1)
        logps = [logp for _, logp in parts if logp is not None]
        return action, np.add.reduce(logps) if with_logp else None

    def action_probs(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        if not self.single:
            return super().action_probs(raw, mask)
        allowed = raw if mask is None else np.where(mask, raw, FORBIDDEN)
        weight = np.exp(allowed - allowed.max(-1, keepdims=True))
        action_probs: FloatArray = weight / weight.sum(-1, keepdims=True)
        return action_probs

    def score(self, raw: FloatArray, action: Array, mask: BoolArray | None) -> FloatArray:
        if mask is not None:
            raw = np.where(mask, raw, FORBIDDEN)
        slope = np.empty_like(raw)
        taken = action[:, None] if self.single else action
        rows = np.arange(len(raw))
        for component, part in enumerate(self.slices):
            weight = np.exp(raw[:, part] - np.maximum.reduce(raw[:, part], 1, keepdims=True))
            weight /= -np.add.reduce(weight, 1, keepdims=True)
            weight[rows, taken[:, component]] += 1.0
            slope[:, part] = weight
        return slope if mask is None else slope * mask


def _choose_component(
    logits: FloatArray, noise: FloatArray | None, with_logp: bool
) -> tuple[Array, FloatArray | None]:
    """Sample one component, or return its mode if `noise` is None.

    The argmax of probability / exponential noise, both [n, K], is a sample of the distribution.
    """
    if noise is None and not with_logp:
        return logits.argmax(1), None
    logits = logits - np.maximum.reduce(logits, 1, keepdims=True)
    weight = np.exp(logits)
    action = (logits if noise is None else np.divide(weight, noise, out=noise)).argmax(1)
    if not with_logp:
        return action, None
    logp: FloatArray = logits[np.arange(len(logits)), action] - np.log(np.add.reduce(weight, 1))
    return action, logp


class TanhGaussianChooser(Chooser):
    """A tanh-squashed Gaussian in every dimension of a continuous action.

        action = centre + scale * tanh(u),    u ~ Normal(mean, deviation)
        raw = (mean, softplus^-1 deviation)

    `choose` limits |u| to LARGEST_SQUASH. The log-probability uses the u of the stored float32 action,
    recovered in double precision.

    Source:
        The squashing and the softplus deviation head follow the experiments of arXiv 2509.24305.
    """

    meaning = "mean, softplus^-1 deviation"
    kind = "gaussian"

    def __init__(self, space: ActionSpace) -> None:
        self.dimensions = space.sizes[0]
        self.raw_size = 2 * self.dimensions
        self._centre, self._scale = centre_and_scale(space)
        self.log_scale = float(np.log(self._scale).sum())
        self._bound = math.tanh(LARGEST_SQUASH)

    @property
    def squashing(self) -> tuple[Array, Array, float]:
        """Centre and scale of the actions, shape [D] float64 each, and the largest |tanh(u)|."""
        return self._centre, self._scale, self._bound

    def unsquash(self, action: Array) -> FloatArray:
        """Recover u from stored actions.

        The computation is in double precision, because 1 - tanh(u) loses digits near the bounds.

        Args:
            action: Actions, shape [..., D].

        Returns:
            The values before the squashing, shape [..., D] float32.
        """
        squashed = (action - self._centre) / self._scale
        return np.arctanh(np.clip(squashed, -self._bound, self._bound)).astype(np.float32)

    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        return (generator.standard_normal((rows, self.dimensions), dtype=np.float32),)

    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        mean, deviation = self._moments(raw)
        drawn = mean if noise is None else mean + deviation * noise[0]
        action = (
            self._centre + self._scale * np.tanh(np.clip(drawn, -LARGEST_SQUASH, LARGEST_SQUASH))
        ).astype(np.float32)
        return action, self._logp(action, mean, deviation) if with_logp else None

    def _moments(self, raw: FloatArray) -> tuple[FloatArray, FloatArray]:
        size = self.dimensions
        return raw[:, :size], np.logaddexp(
            raw[:, size:] + np.float32(UNIT_SOFTPLUS), np.float32(0.0)
        ) + np.float32(LEAST_DEVIATION)

    def _logp(self, action: Array, mean: FloatArray, deviation: FloatArray) -> FloatArray:
        stored = self.unsquash(action)
        log_slope = 2.0 * (math.log(2.0) - stored - np.logaddexp(np.float32(0.0), -2.0 * stored))
        gaussian = (
            -0.5 * np.square((stored - mean) / deviation) - np.log(deviation) - 0.5 * math.log(2 * math.pi)
        )
        return ((gaussian - log_slope).sum(-1) - self.log_scale).astype(np.float32)  # type: ignore[no-any-return]

    def score(self, raw: FloatArray, action: Array, mask: BoolArray | None) -> FloatArray:
        mean, deviation = self._moments(raw)
        noise = (self.unsquash(action) - mean) / deviation
        # derivative of the deviation with respect to its raw output
        grows = 0.5 + 0.5 * np.tanh(0.5 * (raw[:, self.dimensions :] + np.float32(UNIT_SOFTPLUS)))
        slope: FloatArray = np.concatenate(
            [noise / deviation, (np.square(noise) - 1.0) / deviation * grows], 1
        )
        return slope
