"""Checks of rewards that several agents share.

Algorithms with a central critic, mixers and REINFORCE learn from the mean reward of several agents. If these
agents are opponents, their rewards may cancel, and nothing can be learned. `check_common_reward` detects this
before the run, `CancellingRewards` during its first episodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpcmarl.config import AlgoConfig, common_reward_text
from hpcmarl.errors import ConfigError
from hpcmarl.types import EnvironmentSpec, Rollout

Team = tuple[str, ...]
# Number of first episodes after which rewards that always cancelled are reported.
EPISODES = 100
# Tolerance for a sum of float32 rewards, relative to their sizes.
ROUNDING = 1e-6


def teams_of(spec: EnvironmentSpec, algo: AlgoConfig) -> list[Team]:
    """List the teams of policies that learn from their mean reward.

    Args:
        spec: The environment.
        algo: Configuration of the algorithm.

    Returns:
        Names of policies, team by team. Agents of turn-based games learn from their own rewards and form no
        team. Neither does the only agent of a policy.
    """
    if spec.turn_based or algo.common_reward == "none":
        return []
    if algo.common_reward == "all":
        return [tuple(policy.name for policy in spec.policies)]
    return [(policy.name,) for policy in spec.policies if len(policy.agents) > 1]


def check_common_reward(spec: EnvironmentSpec, algo: AlgoConfig) -> None:
    """Reject a team of all players of a constant-sum game.

    Raises:
        ConfigError: One line that names the key and the remedy.
    """
    everybody = tuple(policy.name for policy in spec.policies)
    if spec.constant_sum and everybody in teams_of(spec, algo):
        key, remedy = common_reward_text(algo)
        raise ConfigError(
            f"{key} learns from the mean reward of all players, which in the constant-sum game {spec.id} is "
            f"always the same; {remedy}"
        )


class CancellingRewards:
    """Detects agents whose mean reward is always 0 although their own rewards are not.

    It examines the first episodes of a learner.

    Attributes:
        warnings: One line if such agents were found in the first EPISODES episodes; otherwise, and until
            then, empty.
    """

    def __init__(self, spec: EnvironmentSpec, algo: AlgoConfig) -> None:
        self.warnings: list[str] = []
        self._algo = algo
        # For each team: whether any agent had a reward. A team with a non-zero mean reward is removed.
        self._paid = dict.fromkeys(teams_of(spec, algo), False)
        self._episodes = 0

    def see(self, rollout: Rollout) -> None:
        """Examine a rollout.

        The call costs nothing after the first EPISODES episodes, and once every team had a non-zero mean
        reward.
        """
        if not self._paid or self._episodes >= EPISODES:
            return
        for team, paid in list(self._paid.items()):
            rewards = np.concatenate([rollout.policies[name].reward for name in team], axis=-1)
            sizes = np.abs(rewards).sum(axis=-1)
            if (np.abs(rewards.sum(axis=-1)) > ROUNDING * sizes).any():
                del self._paid[team]
            else:
                self._paid[team] = paid or bool(sizes.any())
        self._episodes += int(np.count_nonzero(rollout.episode_end))
        if self._episodes >= EPISODES:
            self._warn([name for team, paid in self._paid.items() if paid for name in team])

    def _warn(self, policies: Sequence[str]) -> None:
        if policies:
            key, remedy = common_reward_text(self._algo)
            agents = f"all agents of policy {' and '.join(policies)}"
            self.warnings.append(
                f"{key} learns from the mean reward of {agents}; it was 0 in all of {EPISODES} episodes "
                f"although their own rewards were not; {remedy}"
            )
