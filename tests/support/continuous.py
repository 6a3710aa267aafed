"""A game with continuous actions whose best actions are known. It can be imported by env.id."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)


class Aim(ParallelEnv):
    """One step in which each of two agents names the two numbers that it sees, scaled to its bounds.

    The common reward is minus the mean squared distance in units of half the range. Its largest value is 0;
    uniform actions earn -2/3 on average.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "aim_v0", "common_reward": True}
    possible_agents: ClassVar[list[str]] = ["first", "second"]

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(-1.0, 1.0, (2,), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Box(LOW, HIGH, (2,), np.float32)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents = list(self.possible_agents)
        self.wanted = np.random.default_rng(seed).uniform(-1.0, 1.0, (2, 2)).astype(np.float32)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        assert all((action >= LOW).all() and (action <= HIGH).all() for action in actions.values())
        named = np.array([2 * (actions[agent] - LOW) / (HIGH - LOW) - 1 for agent in self.possible_agents])
        reward = -float(np.square(named - self.wanted).mean())
        seen, agents = self._seen(), self.possible_agents
        self.agents = []
        ends = dict.fromkeys(agents, True), dict.fromkeys(agents, False)
        return seen, dict.fromkeys(agents, reward), *ends, {agent: {} for agent in agents}

    def _seen(self) -> dict[str, np.ndarray]:
        return dict(zip(self.possible_agents, self.wanted.copy(), strict=True))
