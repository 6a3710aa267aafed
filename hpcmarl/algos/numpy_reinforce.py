"""REINFORCE's gradient (reinforce.py) in numpy, for the simulator: episodes are short, and torch takes longer
to begin than numpy to end.

For policies of dense layers alone; others learn with torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpcmarl.algos.design import Design, make_design
from hpcmarl.algos.model import Model
from hpcmarl.config import ReinforceConfig
from hpcmarl.maths.returns import rewards_to_go
from hpcmarl.nets.numpy_gradient import ScoreGradient, has_numpy_gradient
from hpcmarl.nets.parameters import aligned_zeros
from hpcmarl.nets.stacked import StackedPolicies
from hpcmarl.types import Array, EnvironmentSpec, FloatArray, PolicyRollout, Rollout


class NumpyReinforce(Model):
    """A model with the trajectory gradient of whole episodes."""

    def __init__(self, design: Design, config: ReinforceConfig, seed: int) -> None:
        super().__init__(design, seed)
        self._discount = config.discount
        self._vector = aligned_zeros(self.size)
        named, sums = self.layout.named(self.parameters), self.layout.named(self._vector)
        self._scores = {}
        for name, shape in design.policies.items():
            arrays, gradients = (
                {key.removeprefix(self._prefixes[name]): array for key, array in views.items()}
                for views in (named, sums)
            )
            self._scores[name] = ScoreGradient(shape, self.choosers[name], arrays, gradients)

    @classmethod
    def of(cls, spec: EnvironmentSpec, config: ReinforceConfig, seed: int) -> NumpyReinforce | None:
        """Make one; None where a policy has more than dense layers. Raises as make_model() does."""
        design = make_design(spec, config)
        return cls(design, config, seed) if all(map(has_numpy_gradient, design.policies.values())) else None

    def stacked(self, points: FloatArray) -> StackedPolicies:
        """The policies at several points [E, P], of which each slot acts with its own."""
        policies = {
            name: (self._prefixes[name], shape, self.choosers[name])
            for name, shape in self.design.policies.items()
        }
        return StackedPolicies(self.layout, policies, points)

    def weighted_gradient(self, rollouts: Sequence[Rollout], weights: Sequence[float]) -> FloatArray:
        """Sum the gradients of episodes at the loaded parameters.

        Args:
            rollouts: Whole episodes, each of one slot.
            weights: What each one's gradient is multiplied by.

        Returns:
            The ascent direction, [P].
        """
        self._vector[:] = 0.0
        for name, score in self._scores.items():
            rows = [
                self._decisions(rollout.policies[name], weight)
                for rollout, weight in zip(rollouts, weights, strict=True)
            ]
            inputs, actions, masks, own = zip(*rows, strict=True)
            mask = None if masks[0] is None else np.concatenate(masks)
            score.add(np.concatenate(inputs), np.concatenate(actions), mask, np.concatenate(own))
        return self._vector.copy()

    def _decisions(
        self, part: PolicyRollout, weight: float
    ) -> tuple[FloatArray, Array, Array | None, FloatArray]:
        """The rows [n] in which an agent acted: what it saw [n, D], what it did, what it might have done, and
        what that is worth."""
        active = part.alive[:-1, 0]
        seen = part.obs[:-1, 0][active]
        mask = None if part.action_mask is None else part.action_mask[:-1, 0][active]
        worth = weight * self._to_go(part)[active]
        return (
            seen.reshape(len(seen), math.prod(seen.shape[1:])),
            part.action[:, 0][active],
            mask,
            worth.astype(np.float32),
        )

    def _to_go(self, part: PolicyRollout) -> Array:
        """Discounted rewards to go of each agent's decision, [T, N]."""
        reward = part.reward[:, 0]
        if self.spec.turn_based:
            return rewards_to_go(reward, self._discount)
        team = rewards_to_go(reward.mean(-1), self._discount)
        return np.broadcast_to(team[:, None], reward.shape)
