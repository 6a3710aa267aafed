"""REINFORCE with whole episodes, on-policy and without a baseline.

It computes the trajectory gradient of asynchronous policy-gradient aggregation (arXiv 2509.24305):

    g(tau, theta) = sum_{t<H} ( sum_{h=t}^{H-1} gamma^h r_h ) grad log pi_theta(a_t | s_t)

For a team that shares a policy, pi is the joint policy: log pi is summed over the active agents. r is then
the mean over the policy's agents, with 0 for absent ones. In a turn-based game, every agent has its own
rewards to go. h counts environment rows.

    symbol        variable    shape
    gamma         discount
    r             reward      [T, B]
    sum_{h>=t}    weight      [T, B, N]
    log pi        logp        [n]
    g             vector      [P]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import Batch, evaluate, join
from hpcmarl.config import ReinforceConfig
from hpcmarl.maths.returns import rewards_to_go
from hpcmarl.nets.device import numbers
from hpcmarl.types import EnvironmentSpec, FloatArray, Rollout


class Reinforce(Algorithm):
    """REINFORCE; the module's docstring has the equation and symbols."""

    def __init__(self, spec: EnvironmentSpec, config: ReinforceConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._discount = config.discount

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Sum g over episodes.

        Args:
            rollouts: Whole episodes, one per slot.

        Returns:
            The direction, shape [P], and the statistics policy_loss, entropy and gradient_norm.
        """
        self._flat.zero_gradient()
        batch = join(rollouts)
        objective, entropy = 0.0, 0.0
        for policy in self.spec.policies:
            part = evaluate(self._policies[policy.name], batch.policies[policy.name], batch.episode_start)
            if part.rows.count == 0:
                continue
            total = (part.logp * self.tensor(part.rows.pick(self._weight(batch, policy.name)))).sum()
            total.backward()  # type: ignore[no-untyped-call]
            own, mean = numbers(total, part.entropy.mean())
            objective += own
            entropy += mean
        statistics = {"policy_loss": -objective / batch.slots, "entropy": entropy / len(self.spec.policies)}
        return self._ascent(statistics)

    def _weight(self, batch: Batch, name: str) -> FloatArray:
        """Return the discounted rewards to go of each agent's decision, shape [T, B, N]."""
        part = batch.policies[name]
        if self.spec.turn_based:
            return rewards_to_go(
                part.reward, self._discount, batch.inside[:, :, None], batch.first_step[:, None]
            )
        team = rewards_to_go(part.reward.mean(-1), self._discount, batch.inside, batch.first_step)
        return np.ascontiguousarray(np.broadcast_to(team[:, :, None], part.reward.shape))
