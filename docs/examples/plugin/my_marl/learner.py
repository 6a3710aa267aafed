"""REINFORCE with a leave-one-out baseline (RLOO): whole episodes, on-policy, no critic.

The baseline of an episode is the mean return of the other episodes in the same gradient. It does not depend
on the episode's own actions, so the gradient stays unbiased.

    G_it = sum over h >= t of discount^h r_ih        r_ih: mean reward of the policy's agents
    b_it = mean over j != i of G_jt                  0 for a single episode
    g    = sum over i and t of (G_it - b_it) grad log pi(a_it | s_it)

    symbol -> variable, shape:  G to_go [T, B]   b baseline [T, B]   log pi part.logp [n]   g vector [P]

Source: Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"; arXiv 2402.14740.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from my_marl.description import RLOOConfig

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import Batch, evaluate, join
from hpcmarl.maths.returns import rewards_to_go
from hpcmarl.types import EnvironmentSpec, FloatArray, Rollout


class RLOOLearner(Algorithm):
    """Policy gradient of whole episodes; see the module for equations and symbols."""

    def __init__(self, spec: EnvironmentSpec, config: RLOOConfig, seed: int) -> None:
        super().__init__(spec, config, seed)
        self._discount, self._entropy_cost = config.discount, config.entropy_cost

    def gradient(self, rollouts: Sequence[Rollout]) -> tuple[FloatArray, dict[str, float]]:
        """Return the sum over episodes of g, and the statistics policy_loss, entropy and gradient_norm.

        Args:
            rollouts: Whole episodes, one a slot.
        """
        self._flat.zero_gradient()
        batch = join(rollouts)
        loss, entropy = 0.0, 0.0
        for policy in self.spec.policies:
            part = evaluate(self._policies[policy.name], batch.policies[policy.name], batch.episode_start)
            if part.rows.count == 0:
                continue
            advantages = self.tensor(part.rows.pick(self._advantages(batch, policy.name)))
            gain = (part.logp * advantages).sum() + self._entropy_cost * part.entropy.sum()
            gain.backward()  # type: ignore[no-untyped-call]
            loss -= float(gain.detach())
            entropy += float(part.entropy.detach().mean())
        return self._ascent({"policy_loss": loss / batch.slots, "entropy": entropy / len(self.spec.policies)})

    def _advantages(self, batch: Batch, policy: str) -> FloatArray:
        """Return G - b for each agent's decision, [T, B, N]."""
        reward = batch.policies[policy].reward
        to_go = rewards_to_go(reward.mean(-1), self._discount, batch.inside, batch.first_step)
        others = max(1, batch.slots - 1)
        baseline = (to_go.sum(1, keepdims=True) - to_go) / others
        return np.ascontiguousarray(np.broadcast_to((to_go - baseline)[:, :, None], reward.shape))
