"""What no return can exceed, with the rewards seen so far: values beyond it have diverged
(roles/statistics.py says so). Used by q_learning.py and actor_critic.py."""

from __future__ import annotations

import numpy as np

from hpcmarl.types import Array, BoolArray, EnvironmentSpec


class ValueLimit:
    """Of one learner, in the units of its critics: the largest reward seen, in size, over 1 - gamma."""

    def __init__(self, spec: EnvironmentSpec, discount: float) -> None:
        # a decision's reward is, in a turn-based game, the sum of the rows until it is the agent's turn again
        self._rows = sum(len(policy.agents) for policy in spec.policies) if spec.turn_based else 1
        self._discount, self._largest = discount, 0.0

    def see(self, reward: Array, where: BoolArray | bool = True) -> None:
        """Rewards of any shape, scaled; those `where` says count."""
        self._largest = max(self._largest, float(np.abs(reward).max(initial=0.0, where=where)))

    def statistics(self) -> dict[str, float]:
        """value_limit; nothing before the first reward that is not 0, and without discounting."""
        if self._largest == 0.0 or self._discount == 1.0:
            return {}
        return {"value_limit": self._rows * self._largest / (1.0 - self._discount)}
