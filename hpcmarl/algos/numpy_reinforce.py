"""REINFORCE's gradient (reinforce.py) in numpy, for the simulator.

Its episodes are short, and the fixed cost of a torch call exceeds the whole computation in numpy. The
policies must consist of dense layers alone; other policies learn with torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.algos.design import Design, make_design
from hpcmarl.algos.model import Model
from hpcmarl.config import ReinforceConfig
from hpcmarl.maths.returns import rewards_to_go
from hpcmarl.nets.numpy_gradient import ScoreGradient, has_numpy_gradient
from hpcmarl.nets.parameters import aligned_zeros
from hpcmarl.nets.stacked import StackedPolicies
from hpcmarl.types import Array, EnvironmentSpec, FloatArray, PolicyRollout, Rollout, flat_observations


class NumpyReinforce(Model):
    """A model that computes the trajectory gradient of whole episodes."""

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
        """Create a model, or return None if a policy has more than dense layers. Raises as make_model()."""
        design = make_design(spec, config)
        return cls(design, config, seed) if all(map(has_numpy_gradient, design.policies.values())) else None

    def stacked(self, points: FloatArray) -> StackedPolicies:
        """Return the policies at several points [E, P]; slot e acts with the parameters of point e."""
        policies = {
            name: (self._prefixes[name], shape, self.choosers[name])
            for name, shape in self.design.policies.items()
        }
        return StackedPolicies(self.layout, policies, points)

    def weighted_gradient(self, rollouts: Sequence[Rollout], weights: Sequence[float]) -> FloatArray:
        """Sum the weighted gradients of episodes at the loaded parameters.

        Args:
            rollouts: Whole episodes, each of one slot.
            weights: Factor of each episode's gradient.

        Returns:
            The ascent direction, shape [P].
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
        """Return the rows in which an agent acted.

        Returns:
            Observations [n, D], actions [n, ...], allowed actions [n, A] or None, and weights of the
            log-probabilities [n].
        """
        active = part.alive[:-1, 0]
        observed = part.obs[:-1, 0][active]
        mask = None if part.action_mask is None else part.action_mask[:-1, 0][active]
        weights = weight * self._to_go(part)[active]
        return (
            flat_observations(observed, 1),
            part.action[:, 0][active],
            mask,
            weights.astype(np.float32),
        )

    def _to_go(self, part: PolicyRollout) -> Array:
        """Return the discounted rewards to go of each agent's decision, shape [T, N]."""
        reward = part.reward[:, 0]
        if self.spec.turn_based:
            return rewards_to_go(reward, self._discount)
        team = rewards_to_go(reward.mean(-1), self._discount)
        return np.broadcast_to(team[:, None], reward.shape)
