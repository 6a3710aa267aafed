"""How an agent acts, given the raw outputs of its policy's network: one class for each kind of action, in
numpy.

Learning has the same distributions in torch (heads.py). Log-probabilities are always computed from the action
as it is stored, by the same formula when acting and when learning.

    raw [n, K]   action [n, *action.shape]   mask [n, A] bool or None   logp [n]   noise ([n, ...], ...)   (n:
        any rows)
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
# The pre-squash value u of a continuous action is kept within this bound: beyond it float32 cannot tell
# tanh(u) from 1 well.
LARGEST_SQUASH = 5.0
# Added to the softplus head, so that a fresh network has deviation one; and the least deviation.
UNIT_SOFTPLUS = math.log(math.e - 1.0)
LEAST_DEVIATION = 1e-3
# Exponential noise may be zero once in a long while; this keeps the race below finite.
TINY = np.float32(1e-30)
FORBIDDEN = np.float32(UNAVAILABLE)

Noise = tuple[Array, ...]  # random numbers: each array has one row for each row of raw outputs


class Chooser(ABC):
    """How one agent acts, given raw network outputs. meaning: what these are, in a word or two."""

    meaning: ClassVar[str]
    raw_size: int

    @abstractmethod
    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        """Draw the random numbers that `choose` needs for this many rows."""

    @abstractmethod
    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        """Choose an action for each row.

        Args:
            raw: Raw outputs [n, K].
            mask: Allowed actions [n, A]; None: all are.
            noise: The rows' random numbers from `draw`; they are overwritten. None: take the most probable
                actions (continuous: the squashed mean).
            with_logp: Whether log-probabilities are wanted.

        Returns:
            Actions, and their log-probabilities [n] float32 or None.
        """

    def on_progress(self, env_steps: int) -> None:  # noqa: B027  most do not change in the course of a run
        """The run has made so many environment steps."""

    def action_probs(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        """How likely a drawn action is each one, [n, A]; discrete actions only. Raises TypeError for
        others."""
        raise TypeError(f"{type(self).__name__} has no table of single actions")

    def score(self, raw: FloatArray, action: Array, mask: BoolArray | None) -> FloatArray:
        """How the log-probabilities of actions change with the raw outputs, [n, K]. Raises TypeError where
        actions have no such probabilities."""
        raise TypeError(f"{type(self).__name__} has no log-probabilities that change with its raw outputs")


class EpsilonGreedy(Chooser):
    """Raw outputs are values of discrete actions: the best allowed one (of equal ones the first), with
    probability `epsilon` any allowed one."""

    meaning = "values"

    def __init__(
        self, space: ActionSpace, epsilon: float, schedule: Callable[[int], float] | None = None
    ) -> None:
        """schedule: epsilon after so many environment steps of the run; None: it stays."""
        self.raw_size = space.sizes[0]
        self.epsilon = epsilon
        self._schedule = schedule

    def on_progress(self, env_steps: int) -> None:
        if self._schedule is not None:
            self.epsilon = self._schedule(env_steps)

    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        return generator.random(rows), generator.random((rows, self.raw_size))

    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        best = self._best(raw, mask)
        if noise is None:
            return best, np.zeros(len(raw), np.float32) if with_logp else None
        explores, worth = noise
        drawn = (worth if mask is None else np.where(mask, worth, -1.0)).argmax(1)
        action = np.where(explores < self.epsilon, drawn, best)
        if not with_logp:
            return action, None
        share = self.epsilon / (raw.shape[1] if mask is None else np.maximum(mask.sum(1), 1))
        return action, np.log(share + (1.0 - self.epsilon) * (action == best)).astype(np.float32)

    def _best(self, raw: FloatArray, mask: BoolArray | None) -> Array:
        """The allowed actions of the largest values, [n]."""
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
    """Return the chooser that samples from a distribution over this action space. Raises UsageError where
    continuous bounds are not finite intervals."""
    return TanhGaussianChooser(space) if space.kind == "continuous" else CategoricalChooser(space)


class CategoricalChooser(Chooser):
    """One masked categorical distribution a component; discrete actions have one component."""

    meaning = "logits"

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
        """Unavailable actions have probability zero, and the likeliest one scores above zero whatever the
        noise: never taken."""
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
    """The argmax of probability / exponential noise [n, K] is a draw from the distribution; without noise it
    is the mode."""
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
    """action = centre + scale * tanh(u), u ~ Normal(mean, deviation) in every dimension; raw = (mean,
    softplus^-1 deviation).

    |u| is kept below LARGEST_SQUASH when drawing, and u is recovered from the stored float32 action in double
        precision.
    Setting of the paper: tanh-squashed Gaussian, softplus deviation head (arXiv 2509.24305, experiments).
    """

    meaning = "mean, softplus^-1 deviation"

    def __init__(self, space: ActionSpace) -> None:
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
        self.dimensions = space.sizes[0]
        self.raw_size = 2 * self.dimensions
        self._centre, self._scale = (low + high) / 2, (high - low) / 2
        self.log_scale = float(np.log(self._scale).sum())
        self._bound = math.tanh(LARGEST_SQUASH)

    def unsquash(self, action: Array) -> FloatArray:
        """u of stored actions: double precision inside, since 1 - tanh(u) loses digits near the bounds."""
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
        # the deviation, with its raw output
        grows = 0.5 + 0.5 * np.tanh(0.5 * (raw[:, self.dimensions :] + np.float32(UNIT_SOFTPLUS)))
        slope: FloatArray = np.concatenate(
            [noise / deviation, (np.square(noise) - 1.0) / deviation * grows], 1
        )
        return slope
