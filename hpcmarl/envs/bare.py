"""An environment stepped with random actions and nothing else: what training is measured against.

Called by bench/. It makes the environment through the same resolver as training does and then calls PettingZoo directly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs.base import Seeds, episode_seed
from hpcmarl.envs.resolve import resolve

DRAWN = 4096  # actions drawn ahead for each agent, so that drawing costs nothing


class BareEnvironment:
    """One environment; `step()` takes one environment step (one turn in an AEC game), resetting with a seed where an episode ends."""

    def __init__(self, config: EnvConfig, seeds: Seeds) -> None:
        source, environment = resolve(config)
        self.environment: Any = environment
        self.seeds = seeds
        self.episode = 0
        self.count = 0
        self._turn_based = source.kind == "aec"
        self._reset()
        generator = np.random.default_rng(seeds.seed)
        self.actions = {agent: self._draw(agent, generator) for agent in list(self.environment.agents)}

    def _draw(self, agent: Any, generator: np.random.Generator) -> list[Any]:
        space = self.environment.action_space(agent)
        space.seed(int(generator.integers(2**31)))
        return [space.sample() for _ in range(DRAWN)]

    def _reset(self) -> None:
        self.environment.reset(seed=episode_seed(self.seeds.seed, self.seeds.first_slot, self.episode))
        self.episode += 1

    def step(self) -> None:
        """One step with random (where there is a mask, allowed) actions."""
        index = self.count % DRAWN
        self.count += 1
        if self._turn_based:
            self._turn(index)
            return
        actions = self.actions
        self.environment.step({agent: actions[agent][index] for agent in self.environment.agents})
        if not self.environment.agents:
            self._reset()

    def _turn(self, index: int) -> None:
        agent = self.environment.agent_selection
        observation, _, terminated, truncated, info = self.environment.last()
        action = None
        if not (terminated or truncated):
            mask = observation.get("action_mask") if isinstance(observation, dict) else info.get("action_mask")
            action = self.actions[agent][index]
            if mask is not None and not mask[action]:
                allowed = np.flatnonzero(mask)
                action = int(allowed[index % len(allowed)])
        self.environment.step(action)
        if not self.environment.agents:
            self._reset()

    def close(self) -> None:
        self.environment.close()
