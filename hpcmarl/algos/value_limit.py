"""An upper limit of returns from the rewards seen so far; values beyond it have diverged.

The server warns about such values (roles/statistics.py).
"""

from __future__ import annotations

import numpy as np

from hpcmarl.types import Array, BoolArray, EnvironmentSpec


class ValueLimit:
    """Limit of one learner's returns, in units of its critics: largest |reward| / (1 - gamma).

    The reward includes the largest bonus of a policy's entropy, where values contain one. In turn-based games
    the limit is multiplied by the number of agents.
    """

    def __init__(self, spec: EnvironmentSpec, discount: float) -> None:
        # In a turn-based game, the reward of a decision sums the rows until the agent's next turn.
        self._rows = sum(len(policy.agents) for policy in spec.policies) if spec.turn_based else 1
        self._discount, self._largest, self._bonus = discount, 0.0, 0.0

    def see(self, reward: Array, where: BoolArray | bool = True) -> None:
        """Take note of rewards.

        Args:
            reward: Scaled rewards, any shape.
            where: Rewards that count, same shape.
        """
        self._largest = max(self._largest, float(np.abs(reward).max(initial=0.0, where=where)))

    def see_bonus(self, largest: float) -> None:
        """Take note of the largest amount of an entropy bonus in a step."""
        self._bonus = max(self._bonus, largest)

    def statistics(self) -> dict[str, float]:
        """Return value_limit; empty before the first non-zero reward, and without discounting."""
        if self._largest == 0.0 or self._discount == 1.0:
            return {}
        return {"value_limit": self._rows * (self._largest + self._bonus) / (1.0 - self._discount)}
