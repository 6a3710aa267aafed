"""The trajectory gradient of REINFORCE, written as its double sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hpcmarl.algos.base import Algorithm
from hpcmarl.types import Array, Rollout


def literal_gradient(algorithm: Algorithm, rollouts: Sequence[Rollout], discount: float) -> Array:
    """Return g = sum_t (sum_{h>=t} gamma^h r_h) grad log pi(a_t|s_t), [P].

    Each decision has its own backward pass.
    """
    total = np.zeros(algorithm.size)
    for rollout in rollouts:
        for spec in algorithm.spec.policies:
            policy, part = algorithm._policies[spec.name], rollout.policies[spec.name]
            for agent in range(len(spec.agents)):
                reward = (
                    part.reward[:, 0, agent]
                    if algorithm.spec.turn_based
                    else part.reward[:, 0].sum(-1) / len(spec.agents)
                )
                for t in np.flatnonzero(part.alive[: rollout.steps, 0, agent]):
                    weight = sum(discount**h * float(reward[h]) for h in range(t, rollout.steps))
                    raw = policy(torch.from_numpy(part.obs[t, 0, agent].reshape(1, -1)))
                    mask = (
                        None
                        if part.action_mask is None
                        else torch.from_numpy(part.action_mask[t, 0, agent][None])
                    )
                    action = torch.from_numpy(np.asarray(part.action[t, 0, agent])[None])
                    algorithm._flat.zero_gradient()
                    policy.head.evaluate(raw, action, mask)[0].sum().backward()
                    total += weight * algorithm._flat.gradient
    return total
