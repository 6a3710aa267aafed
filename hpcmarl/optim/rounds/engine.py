"""Engine of a training run: apply one round rule and one optimizer to incoming gradients.

The server, tests, the replay of traces and a simulator all run this object.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.optim.base import Optimizer
from hpcmarl.optim.rounds.base import Accept, Command, Drop, RoundRule, Step
from hpcmarl.types import Array, Gradient


class Engine:
    """Sum accepted gradients and step the optimizer when the rule ends a round.

    Attributes:
        used: Trajectories of accepted gradients.
        wasted: Trajectories of dropped gradients.
        direction_norm: Norm of the last round's direction.
        on_step: Called after each step of the optimizer with its begin and end, in seconds of
            time.perf_counter(), and the number of steps so far; None: steps are not timed.
    """

    def __init__(self, rule: RoundRule, optimizer: Optimizer) -> None:
        self.rule = rule
        self.optimizer = optimizer
        self.used = 0
        self.wasted = 0
        self.direction_norm = 0.0
        self.on_step: Callable[[float, float, int], object] | None = None
        self._sums: list[Array | None] = [None] * (1 if rule.pooled else rule.groups)

    @property
    def version(self) -> int:
        """Number of steps taken."""
        return self.rule.round

    def on_gradient(self, gradient: Gradient) -> list[Command]:
        """Pass a gradient to the rule and execute its commands Accept, Drop and Step.

        The vector is copied or added at once, so its memory can be reused. A gradient without vector
        (AllReduce) is only counted, and the replicas step.

        Args:
            gradient: The gradient of one group.

        Returns:
            All commands of the rule. Publish and Close are left to the caller.

        Raises:
            FloatingPointError: The direction of the round is not finite.
        """
        commands = self.rule.on_gradient(gradient.group, gradient.version, gradient.count)
        for command in commands:
            if isinstance(command, Accept):
                self.used += gradient.count
                self._add(gradient)
            elif isinstance(command, Drop) and gradient.summed:
                self.used += command.count  # arrived late, but the learner's sum of its round includes it
            elif isinstance(command, Drop):
                self.wasted += command.count
            elif isinstance(command, Step) and gradient.vector is not None:
                self.step(self._combine(command))
        return commands

    def on_last(self, gradient: Gradient) -> None:
        """Count a gradient that arrives after the last round."""
        if gradient.summed and gradient.version < self.version:
            self.used += gradient.count

    def on_lost(self, group: int) -> list[Command]:
        """Pass the loss of a group to the rule, and step if that ends the round.

        Under AllReduce the replicas step.
        """
        return self._finish(self.rule.on_lost(group))

    def on_closed(self, group: int, version: int) -> list[Command]:
        """Report to the rule that a group has no work under way for a round, and step if that ends it."""
        return self._finish(self.rule.on_closed(group, version))

    def _finish(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            if isinstance(command, Step) and any(present is not None for present in self._sums):
                self.step(self._combine(command))
        return commands

    def step(self, direction: Array) -> None:
        """Step along the combined direction of a round.

        Args:
            direction: Ascent direction, shape [P].

        Raises:
            FloatingPointError: The direction is not finite.
        """
        # Only some rounds have gradients of inactive weights, so the norm leaves them out.
        seen = self.optimizer.seen(direction)
        self.direction_norm = float(np.linalg.norm(seen))
        if not np.isfinite(self.direction_norm) or (
            seen is not direction and not np.isfinite(direction).all()
        ):
            raise FloatingPointError(f"the direction of round {self.optimizer.updates} is not finite")
        if self.on_step is None:
            self.optimizer.step(direction)
            return
        began = time.perf_counter()
        self.optimizer.step(direction)
        self.on_step(began, time.perf_counter(), self.optimizer.updates)

    def _add(self, gradient: Gradient) -> None:
        if gradient.vector is None:
            return
        index = 0 if self.rule.pooled else gradient.group
        present = self._sums[index]
        if present is None:
            self._sums[index] = np.array(gradient.vector, dtype=self.optimizer.parameters.dtype)
        else:
            present += gradient.vector

    def _combine(self, command: Step) -> Array:
        total: Array | None = None
        for scale, group_sum in zip(command.scales, self._sums, strict=True):
            if group_sum is None or not scale:
                continue
            scaled = group_sum if scale == 1.0 else scale * group_sum
            if total is None:
                total = scaled  # its memory is not used again
            else:
                total += scaled
        if total is None:
            total = np.zeros_like(self.optimizer.parameters)
        total *= command.total_scale
        self._sums = [None] * len(self._sums)
        return total

    def state_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "used": self.used,
            "wasted": self.wasted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rule.load_state_dict(state["rule"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.used, self.wasted = int(state["used"]), int(state["wasted"])
        self._sums = [None] * len(self._sums)
