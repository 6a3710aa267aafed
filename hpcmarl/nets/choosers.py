"""How an agent acts, given the raw outputs of its policy's network: one class for each kind of action, in numpy.

Learning has the same distributions in torch (heads.py). Log-probabilities are always computed from the action as it is stored, by the same
formula when acting and when learning.

    raw [n, K]   action [n, *action.shape]   mask [n, A] bool or None   logp [n]   (n: any rows)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from hpcmarl.errors import UsageError
from hpcmarl.types import ActionSpace, Array, BoolArray, FloatArray

# Logit of an unavailable action: its probability is exactly zero in float32, yet nothing becomes infinite.
UNAVAILABLE = -1e9
# The pre-squash value u of a continuous action is kept within this bound: beyond it float32 cannot tell tanh(u) from 1 well.
LARGEST_SQUASH = 5.0
# Added to the softplus head, so that a fresh network has deviation one; and the least deviation.
UNIT_SOFTPLUS = math.log(math.e - 1.0)
LEAST_DEVIATION = 1e-3
# Exponential noise may be zero once in a long while; this keeps the race below finite.
TINY = np.float32(1e-30)


class Chooser(ABC):
    """How one agent acts, given raw network outputs. meaning: what these are, in a word or two."""

    meaning: ClassVar[str]
    raw_size: int

    @abstractmethod
    def sample(self, raw: FloatArray, mask: BoolArray | None, generator: np.random.Generator) -> tuple[Array, FloatArray]:
        """Draw actions; return them with their log-probabilities [n] float32."""

    def on_progress(self, env_steps: int) -> None:  # noqa: B027  most do not change in the course of a run
        """The run has made so many environment steps."""

    @abstractmethod
    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        """The most probable actions (continuous: the squashed mean) with their log-probabilities [n] float32."""

    def chances(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        """How likely `sample` draws each action, [n, A]; discrete actions only. Raises TypeError for others."""
        raise TypeError(f"{type(self).__name__} has no table of single actions")


class EpsilonGreedy(Chooser):
    """Raw outputs are values of discrete actions: the best allowed one (of equal ones the first), with probability `epsilon` any allowed one."""

    meaning = "values"

    def __init__(self, space: ActionSpace, epsilon: float, schedule: Callable[[int], float] | None = None) -> None:
        """schedule: epsilon after so many environment steps of the run; None: it stays."""
        self.raw_size = space.sizes[0]
        self.epsilon = epsilon
        self._schedule = schedule

    def on_progress(self, env_steps: int) -> None:
        if self._schedule is not None:
            self.epsilon = self._schedule(env_steps)

    def sample(self, raw: FloatArray, mask: BoolArray | None, generator: np.random.Generator) -> tuple[Array, FloatArray]:
        action, _ = self.mode(raw, mask)
        best, rows = action.copy(), len(raw)
        allowed = np.ones(raw.shape, bool) if mask is None else mask
        explores = generator.random(rows) < self.epsilon
        drawn = np.where(allowed, generator.random(raw.shape), -1.0).argmax(-1)
        action[explores] = drawn[explores]
        share = self.epsilon / np.maximum(allowed.sum(-1), 1)
        return action, np.log(share + (1.0 - self.epsilon) * (action == best)).astype(np.float32)

    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        values = raw if mask is None else np.where(mask, raw, -np.inf)
        return values.argmax(-1), np.zeros(len(raw), np.float32)

    def chances(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        allowed = np.ones(raw.shape, bool) if mask is None else mask
        best, _ = self.mode(raw, mask)
        chances: FloatArray = np.asarray(allowed * (self.epsilon / np.maximum(allowed.sum(-1, keepdims=True), 1)), np.float32)
        chances[np.arange(len(raw)), best] += 1.0 - self.epsilon
        return chances


def make_chooser(space: ActionSpace) -> Chooser:
    """Return the chooser that samples from a distribution over this action space. Raises UsageError where continuous bounds are not finite
    intervals."""
    return TanhGaussianChooser(space) if space.kind == "continuous" else CategoricalChooser(space)


class CategoricalChooser(Chooser):
    """One masked categorical distribution a component; discrete actions have one component."""

    meaning = "logits"

    def __init__(self, space: ActionSpace) -> None:
        self.raw_size = sum(space.sizes)
        self.single = space.kind == "discrete"
        ends = np.cumsum(space.sizes).tolist()
        self.slices = [slice(end - size, end) for end, size in zip(ends, space.sizes, strict=True)]

    def sample(self, raw: FloatArray, mask: BoolArray | None, generator: np.random.Generator) -> tuple[Array, FloatArray]:
        return self._choose(raw, mask, generator.standard_exponential(raw.shape, dtype=np.float32))

    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        return self._choose(raw, mask, None)

    def chances(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        if not self.single:
            return super().chances(raw, mask)
        allowed = raw if mask is None else np.where(mask, raw, np.float32(UNAVAILABLE))
        weight = np.exp(allowed - allowed.max(-1, keepdims=True))
        chances: FloatArray = weight / weight.sum(-1, keepdims=True)
        return chances

    def _choose(self, raw: FloatArray, mask: BoolArray | None, noise: FloatArray | None) -> tuple[Array, FloatArray]:
        """argmax of probability / exponential noise is a draw from the distribution; without noise it is the mode.

        Unavailable actions have probability zero, and the likeliest one scores above zero whatever the noise: never taken.
        """
        if mask is not None:
            raw = np.where(mask, raw, np.float32(UNAVAILABLE))
        rows = np.arange(raw.shape[0])
        actions, logp = [], None
        for part in self.slices:
            logits = raw[:, part]
            logits = logits - logits.max(-1, keepdims=True)
            weight = np.exp(logits)
            action = (logits if noise is None else weight / (noise[:, part] + TINY)).argmax(-1)
            taken = logits[rows, action] - np.log(weight.sum(-1))
            actions.append(action)
            logp = taken if logp is None else logp + taken
        assert logp is not None
        return (actions[0] if self.single else np.stack(actions, axis=-1)), logp


class TanhGaussianChooser(Chooser):
    """action = centre + scale * tanh(u), u ~ Normal(mean, deviation) in every dimension; raw = (mean, softplus^-1 deviation).

    |u| is kept below LARGEST_SQUASH when drawing, and u is recovered from the stored float32 action in double precision.
    Setting of the paper: tanh-squashed Gaussian, softplus deviation head (arXiv 2509.24305, experiments).
    """

    meaning = "mean, softplus^-1 deviation"

    def __init__(self, space: ActionSpace) -> None:
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        if low.shape != space.sizes or high.shape != space.sizes or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise UsageError(
                f"continuous actions have bounds {space.low} to {space.high}; allowed: finite, low < high; rescale the environment's actions"
            )
        self.dimensions = space.sizes[0]
        self.raw_size = 2 * self.dimensions
        self._centre, self._scale = (low + high) / 2, (high - low) / 2
        self.log_scale = float(np.log(self._scale).sum())
        self._bound = math.tanh(LARGEST_SQUASH)

    def unsquash(self, action: Array) -> FloatArray:
        """u of stored actions: double precision inside, since 1 - tanh(u) loses digits near the bounds."""
        squashed = (action - self._centre) / self._scale
        return np.arctanh(np.clip(squashed, -self._bound, self._bound)).astype(np.float32)

    def sample(self, raw: FloatArray, mask: BoolArray | None, generator: np.random.Generator) -> tuple[Array, FloatArray]:
        mean, deviation = self._moments(raw)
        return self._squash(mean + deviation * generator.standard_normal(mean.shape, dtype=np.float32), mean, deviation)

    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        mean, deviation = self._moments(raw)
        return self._squash(mean, mean, deviation)

    def _moments(self, raw: FloatArray) -> tuple[FloatArray, FloatArray]:
        size = self.dimensions
        return raw[:, :size], np.logaddexp(raw[:, size:] + np.float32(UNIT_SOFTPLUS), np.float32(0.0)) + np.float32(LEAST_DEVIATION)

    def _squash(self, u: FloatArray, mean: FloatArray, deviation: FloatArray) -> tuple[Array, FloatArray]:
        action = (self._centre + self._scale * np.tanh(np.clip(u, -LARGEST_SQUASH, LARGEST_SQUASH))).astype(np.float32)
        stored = self.unsquash(action)
        log_slope = 2.0 * (math.log(2.0) - stored - np.logaddexp(np.float32(0.0), -2.0 * stored))
        gaussian = -0.5 * np.square((stored - mean) / deviation) - np.log(deviation) - 0.5 * math.log(2 * math.pi)
        return action, ((gaussian - log_slope).sum(-1) - self.log_scale).astype(np.float32)
