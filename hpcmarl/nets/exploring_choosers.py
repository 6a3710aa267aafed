"""Selection of actions for MADDPG and MASAC, in numpy: deterministic actions with noise, and random starts.

Shapes are those of choosers.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcmarl.nets.choosers import CategoricalChooser, Chooser, Noise, centre_and_scale
from hpcmarl.types import ActionSpace, Array, BoolArray, FloatArray


class NoisyTanhChooser(Chooser):
    """A deterministic continuous action with Gaussian noise.

        action = centre + scale * clip(tanh(raw) + deviation * noise, -1, 1)

    Without noise the action is that of the policy. The log-probabilities are 0, since a deterministic policy
    has none.
    """

    meaning = "tanh^-1 of actions scaled to -1..1"
    kind = "deterministic"

    def __init__(
        self, space: ActionSpace, deviation: float, schedule: Callable[[int], float] | None = None
    ) -> None:
        """Create a chooser.

        Args:
            space: A continuous action space.
            deviation: Standard deviation of the noise, in units of half the range of the actions.
            schedule: Maps the environment steps of the run to the deviation; None: it is constant.

        Raises:
            UsageError: If the bounds of the actions are not finite intervals.
        """
        self.raw_size = space.sizes[0]
        self.deviation = deviation
        self._schedule = schedule
        self._centre, self._scale = centre_and_scale(space)

    def on_progress(self, env_steps: int) -> None:
        if self._schedule is not None:
            self.deviation = self._schedule(env_steps)

    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        return (generator.standard_normal((rows, self.raw_size), dtype=np.float32),)

    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        scaled = np.tanh(raw)
        if noise is not None:
            scaled = np.clip(scaled + np.float32(self.deviation) * noise[0], -1.0, 1.0)
        action = (self._centre + self._scale * scaled).astype(np.float32)
        return action, np.zeros(len(raw), np.float32) if with_logp else None


class RandomAtFirst(Chooser):
    """Uniform actions until the run has made some environment steps, then those of another chooser.

    Greedy choices and probabilities are those of the other chooser at any time.
    """

    def __init__(self, chooser: Chooser, space: ActionSpace, steps: int) -> None:
        """Create a chooser.

        Args:
            chooser: Chooser that follows.
            space: The action space.
            steps: Environment steps of the run with uniform actions.
        """
        self.meaning, self.kind, self.raw_size = chooser.meaning, chooser.kind, chooser.raw_size
        self.chooser = chooser
        self._steps = steps
        self._begins = False
        self._bounds = centre_and_scale(space) if space.kind == "continuous" else None
        self._uniform = None if self._bounds else CategoricalChooser(space)
        self._width = sum(space.sizes)

    def on_progress(self, env_steps: int) -> None:
        self._begins = env_steps < self._steps
        self.chooser.on_progress(env_steps)

    def draw(self, rows: int, generator: np.random.Generator) -> Noise:
        if not self._begins:
            return self.chooser.draw(rows, generator)
        if self._uniform is not None:
            return self._uniform.draw(rows, generator)
        return (generator.uniform(-1.0, 1.0, (rows, self._width)),)

    def choose(
        self, raw: FloatArray, mask: BoolArray | None, noise: Noise | None, with_logp: bool = True
    ) -> tuple[Array, FloatArray | None]:
        if noise is None or not self._begins:
            return self.chooser.choose(raw, mask, noise, with_logp)
        if self._uniform is not None:
            return self._uniform.choose(np.zeros((len(raw), self._width), np.float32), mask, noise, with_logp)
        assert self._bounds is not None
        centre, scale = self._bounds
        action = (centre + scale * noise[0]).astype(np.float32)
        density = -np.float32(np.log(2.0 * scale).sum())
        return action, np.full(len(raw), density, np.float32) if with_logp else None

    def action_probs(self, raw: FloatArray, mask: BoolArray | None) -> FloatArray:
        return self.chooser.action_probs(raw, mask)

    def score(self, raw: FloatArray, action: Array, mask: BoolArray | None) -> FloatArray:
        return self.chooser.score(raw, action, mask)
