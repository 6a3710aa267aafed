"""Rendezvous: two agents on a line see how far apart they are and must meet.

Imports PettingZoo and Gymnasium, not hpcmarl.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

STAY = 1  # actions are left, stay and right


class Rendezvous(ParallelEnv):
    """Both agents move left or right, or stay, at the same time.

    A step earns each agent 1 if they meet in one cell, which ends the episode, and -0.1 otherwise. Episodes
    are truncated after `max_steps` steps.

    Args:
        cells: Length of the line.
        max_steps: Steps after which an episode is truncated.
    """

    # equal rewards for all agents in every step; hpcmarl then treats them as a team
    metadata: ClassVar[dict[str, Any]] = {"name": "rendezvous_v0", "common_reward": True}

    def __init__(self, cells: int = 9, max_steps: int = 20) -> None:
        self.cells, self.max_steps = cells, max_steps
        self.possible_agents = ["agent_0", "agent_1"]
        self.observation_spaces = {
            agent: spaces.Box(-1.0, 1.0, (2,), np.float32) for agent in self.possible_agents
        }
        self.action_spaces = {agent: spaces.Discrete(3) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        # hpcmarl passes a new seed for each episode; all randomness must follow from it
        self.places = np.random.default_rng(seed).choice(self.cells, 2, replace=False)
        self.steps = 0
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        moves = np.array([actions[agent] for agent in self.possible_agents]) - STAY
        self.places = np.clip(self.places + moves, 0, self.cells - 1)
        self.steps += 1
        met = bool(self.places[0] == self.places[1])
        too_long = self.steps == self.max_steps and not met
        everyone = self.agents
        if met or too_long:
            self.agents = []
        return (
            self._observations(),
            dict.fromkeys(everyone, 1.0 if met else -0.1),
            dict.fromkeys(everyone, met),
            dict.fromkeys(everyone, too_long),
            {agent: {} for agent in everyone},
        )

    def _observations(self) -> dict[str, np.ndarray]:
        """Return own place and signed distance to the other agent, in shares of the line."""
        places = self.places / (self.cells - 1)
        return {
            agent: np.array([places[index], places[1 - index] - places[index]], np.float32)
            for index, agent in enumerate(self.possible_agents)
        }
