"""What a policy network's raw outputs mean: the distribution over actions, for learning (torch) and for acting (numpy).

One class for each kind of action; `make_head` chooses. Used by policy.py and by algos/; knows no network and no environment.
Log-probabilities are always computed from the action as it is stored, by the same formula when acting and when learning.

    raw [n, K]   action [n, *action.shape]   mask [n, A] bool or None   logp, entropy, maximum entropy [n]   (n: any rows)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

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

    @abstractmethod
    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        """The most probable actions (continuous: the squashed mean) with their log-probabilities [n] float32."""

    def chances(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        """How likely `sample` draws each action, [n, A]; discrete actions only. Raises TypeError for others."""
        raise TypeError(f"{type(self).__name__} has no table of single actions")


class Head(Chooser):
    """The distribution over one agent's actions, for learning too."""

    @abstractmethod
    def evaluate(self, raw: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of the action and entropy of the distribution, in nats, both [n] and differentiable in raw."""

    def probabilities(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Of every single action, [n, A]; discrete actions only. Raises TypeError for others."""
        raise TypeError(f"{type(self).__name__} has no table of single actions")

    @abstractmethod
    def maximum_entropy(self, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
        """Entropy [n] of the uniform distribution over the available actions, in nats."""


class EpsilonGreedy(Chooser):
    """Raw outputs are values of discrete actions: the best allowed one (of equal ones the first), with probability `epsilon` any allowed one."""

    meaning = "values"

    def __init__(self, space: ActionSpace, epsilon: float) -> None:
        self.raw_size = space.sizes[0]
        self.epsilon = epsilon

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


def make_head(space: ActionSpace) -> Head:
    """The head of an action space. Raises UsageError where continuous bounds are not finite intervals."""
    return TanhGaussianHead(space) if space.kind == "continuous" else CategoricalHead(space)


class CategoricalHead(Head):
    """One masked categorical distribution a component; discrete actions have one component. Entropy is exact."""

    meaning = "logits"

    def __init__(self, space: ActionSpace) -> None:
        self.raw_size = sum(space.sizes)
        self._single = space.kind == "discrete"
        ends = np.cumsum(space.sizes).tolist()
        self._slices = [slice(end - size, end) for end, size in zip(ends, space.sizes, strict=True)]

    def evaluate(self, raw: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        if mask is not None:
            raw = raw.masked_fill(~mask, UNAVAILABLE)
        if self._single:
            action = action.unsqueeze(-1)
        logp: torch.Tensor | None = None
        entropy: torch.Tensor | None = None
        for component, part in enumerate(self._slices):
            log_probability = functional.log_softmax(raw[..., part], dim=-1)
            taken = log_probability.gather(-1, action[..., component : component + 1]).squeeze(-1)
            spread = -(log_probability.exp() * log_probability).sum(-1)
            logp = taken if logp is None else logp + taken
            entropy = spread if entropy is None else entropy + spread
        assert logp is not None
        assert entropy is not None
        return logp, entropy

    def probabilities(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if not self._single:
            return super().probabilities(raw, mask)
        return torch.softmax(raw if mask is None else raw.masked_fill(~mask, UNAVAILABLE), -1)

    def maximum_entropy(self, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
        if mask is None:
            return torch.full((rows,), sum(math.log(part.stop - part.start) for part in self._slices))
        available = torch.stack([mask[..., part].sum(-1) for part in self._slices])
        return available.clamp(min=1).to(torch.float32).log().sum(0)

    def sample(self, raw: FloatArray, mask: BoolArray | None, generator: np.random.Generator) -> tuple[Array, FloatArray]:
        return self._choose(raw, mask, generator.standard_exponential(raw.shape, dtype=np.float32))

    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        return self._choose(raw, mask, None)

    def chances(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        if not self._single:
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
        for part in self._slices:
            logits = raw[:, part]
            logits = logits - logits.max(-1, keepdims=True)
            weight = np.exp(logits)
            action = (logits if noise is None else weight / (noise[:, part] + TINY)).argmax(-1)
            taken = logits[rows, action] - np.log(weight.sum(-1))
            actions.append(action)
            logp = taken if logp is None else logp + taken
        assert logp is not None
        return (actions[0] if self._single else np.stack(actions, axis=-1)), logp


class TanhGaussianHead(Head):
    """action = centre + scale * tanh(u), u ~ Normal(mean, deviation) in every dimension; raw = (mean, softplus^-1 deviation).

    |u| is kept below LARGEST_SQUASH when drawing, and u is recovered from the stored float32 action in double precision.
    Entropy is an estimate at the given action: the Gaussian's own, exact, plus the log-Jacobian log(scale (1 - tanh(u)^2)) with
    u = mean + deviation * e, where e is the noise that the action shows under the present parameters, held constant (the
    pathwise gradient). Unbiased where the action came from this very distribution; off-policy it is biased a little.
    Setting of the paper: tanh-squashed Gaussian, softplus deviation head (arXiv 2509.24305, experiments).
    """

    meaning = "mean, softplus^-1 deviation"

    def __init__(self, space: ActionSpace) -> None:
        low, high = np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)
        if low.shape != space.sizes or high.shape != space.sizes or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
            raise UsageError(
                f"continuous actions have bounds {space.low} to {space.high}; allowed: finite, low < high; rescale the environment's actions"
            )
        self._dimensions = space.sizes[0]
        self.raw_size = 2 * self._dimensions
        self._centre, self._scale = (low + high) / 2, (high - low) / 2
        self._log_scale = float(np.log(self._scale).sum())
        self._bound = math.tanh(LARGEST_SQUASH)

    def _unsquash(self, action: Array) -> FloatArray:
        """u of stored actions: double precision inside, since 1 - tanh(u) loses digits near the bounds."""
        squashed = (action - self._centre) / self._scale
        return np.arctanh(np.clip(squashed, -self._bound, self._bound)).astype(np.float32)

    def evaluate(self, raw: torch.Tensor, action: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._dimensions
        mean, deviation = raw[..., :size], functional.softplus(raw[..., size:] + UNIT_SOFTPLUS) + LEAST_DEVIATION
        u = torch.from_numpy(self._unsquash(action.numpy()))
        noise = (u - mean) / deviation
        log_deviation = deviation.log()
        gaussian = -0.5 * noise.square() - log_deviation - 0.5 * math.log(2 * math.pi)
        logp = (gaussian - _log_slope(u)).sum(-1) - self._log_scale
        moved = mean + deviation * noise.detach()
        spread = log_deviation + 0.5 * math.log(2 * math.pi * math.e) + _log_slope(moved)
        return logp, spread.sum(-1) + self._log_scale

    def maximum_entropy(self, mask: torch.Tensor | None, rows: int) -> torch.Tensor:
        return torch.full((rows,), self._log_scale + self._dimensions * math.log(2.0))

    def sample(self, raw: FloatArray, mask: BoolArray | None, generator: np.random.Generator) -> tuple[Array, FloatArray]:
        mean, deviation = self._moments(raw)
        return self._squash(mean + deviation * generator.standard_normal(mean.shape, dtype=np.float32), mean, deviation)

    def mode(self, raw: FloatArray, mask: BoolArray | None) -> tuple[Array, FloatArray]:
        mean, deviation = self._moments(raw)
        return self._squash(mean, mean, deviation)

    def _moments(self, raw: FloatArray) -> tuple[FloatArray, FloatArray]:
        size = self._dimensions
        return raw[:, :size], np.logaddexp(raw[:, size:] + np.float32(UNIT_SOFTPLUS), np.float32(0.0)) + np.float32(LEAST_DEVIATION)

    def _squash(self, u: FloatArray, mean: FloatArray, deviation: FloatArray) -> tuple[Array, FloatArray]:
        action = (self._centre + self._scale * np.tanh(np.clip(u, -LARGEST_SQUASH, LARGEST_SQUASH))).astype(np.float32)
        stored = self._unsquash(action)
        log_slope = 2.0 * (math.log(2.0) - stored - np.logaddexp(np.float32(0.0), -2.0 * stored))
        gaussian = -0.5 * np.square((stored - mean) / deviation) - np.log(deviation) - 0.5 * math.log(2 * math.pi)
        return action, ((gaussian - log_slope).sum(-1) - self._log_scale).astype(np.float32)


def _log_slope(u: torch.Tensor) -> torch.Tensor:
    """log(1 - tanh(u)^2) without cancellation: 2 (log 2 - u - softplus(-2u))."""
    return 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
