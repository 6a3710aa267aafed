"""An environment stepped with random actions and nothing else: what training is measured against.

Called by bench/. It makes the environment through the same resolver as training does and then calls PettingZoo directly; a natively batched
environment steps as many games at once as training does, by its own library's call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs import batched_module
from hpcmarl.envs.base import Seeds, episode_seed
from hpcmarl.envs.resolve import resolve

DRAWN = 4096  # actions drawn ahead for each agent, so that drawing costs nothing


def make_bare(config: EnvConfig, slots: int, seeds: Seeds) -> BareEnvironment | BareBatch:
    """What `slots` slots are measured against: one environment, or a batch of as many where they are batched by themselves."""
    module = batched_module(config)
    return BareEnvironment(config, seeds) if module is None else BareBatch(module.bare(config, slots, seeds), slots)


class BareBatch:
    """A natively batched environment; `step()` takes `steps_per_call` environment steps, one in each slot."""

    def __init__(self, take: Callable[[], None], slots: int) -> None:
        self.step = take
        self.steps_per_call = slots

    def close(self) -> None:
        """Nothing is open."""


class BareEnvironment:
    """One environment; `step()` takes one environment step (one turn in an AEC game), resetting with a seed where an episode ends."""

    steps_per_call = 1

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
