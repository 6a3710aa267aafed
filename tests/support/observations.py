"""Environments whose observations are images, dictionaries and tuples."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

IMAGE = (5, 4, 3)
# a league of two agents in `Seeing`
LEAGUE = """
env: {id: "tests.support.observations:Seeing"}
policies: {one: {agents: [a]}, two: {agents: [b]}}
algo: {name: ma_trace, critic: independent, unroll: 4}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
stop: {updates: 4}
logging: {progress: false}
checkpoint: {every_seconds: null}
league:
  score: return
  return_range: [0, 6]
  freeze: {most_updates: 2}
  evaluation: {episodes: 4, environments: 2, final_seconds: 0.2}
"""


class Seeing(ParallelEnv):
    """Two agents that see a dictionary: an image, a tuple of a place and a direction, and two bits.

    Everything follows from the seed and the time. An action is rewarded if it equals the direction.

    Args:
        length: Steps of an episode.
        cut: Whether episodes are truncated instead of terminated.
        fault: What agent b observes at step `fault_step`: "missing", "shape", "float", "range" or "nan".
        fault_step: The step.
        plain: Whether the agents see the image alone.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "seeing_v0"}

    def __init__(
        self,
        length: int = 6,
        cut: bool = False,
        fault: str = "",
        fault_step: int = 3,
        plain: bool = False,
    ) -> None:
        self.possible_agents, self.length, self.cut = ["a", "b"], length, cut
        self.fault, self.fault_step, self.plain = fault, fault_step, plain

    def observation_space(self, agent: str) -> spaces.Space:
        image = spaces.Box(0, 255, IMAGE, np.uint8)
        place = spaces.Tuple((spaces.Box(-1.0, 1.0, (2,), np.float64), spaces.Discrete(3, start=1)))
        entries = OrderedDict(image=image, place=place, bits=spaces.MultiBinary(2))
        return image if self.plain else spaces.Dict(entries)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(3)

    def _see(self, agent: str) -> Any:
        number = self.possible_agents.index(agent)
        generator = np.random.default_rng([self.seed, self.time, number])
        image: Any = generator.integers(0, 256, IMAGE, np.uint8)
        place = generator.uniform(-1, 1, 2)
        if self.fault and agent == "b" and self.time == self.fault_step:
            if self.fault == "nan":
                place[1] = np.nan
            image = {
                "shape": image[:2],
                "float": image / 255,
                "range": image.astype(np.int64) + 200,
            }.get(self.fault, image)
        seen = {
            "image": image,
            "place": (place, np.int64(1 + (self.time + number) % 3)),
            "bits": np.array([1, self.time % 2], np.int8),
        }
        if self.fault == "missing" and agent == "b" and self.time == self.fault_step:
            del seen["bits"]
        return image if self.plain else seen

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents, self.time, self.seed = list(self.possible_agents), 0, seed or 0
        return {agent: self._see(agent) for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> Any:
        agents = self.agents
        rewards = {
            agent: float(action == (self.time + self.possible_agents.index(agent)) % 3)
            for agent, action in actions.items()
        }
        self.time += 1
        over = self.time == self.length
        if over:
            self.agents = []
        return (
            {agent: self._see(agent) for agent in agents},
            rewards,
            dict.fromkeys(agents, over and not self.cut),
            dict.fromkeys(agents, over and self.cut),
            {agent: {} for agent in agents},
        )


class Unlike(Seeing):
    """Agents whose images have different types."""

    def __init__(self) -> None:
        super().__init__(plain=True)

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0, 9, IMAGE, np.uint8 if agent == "a" else np.int16)
