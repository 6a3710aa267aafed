"""An environment stepped with random actions and nothing else: what training is measured against.

It makes the environment through the same resolver as training does and then calls PettingZoo directly; a
natively batched environment steps as many games at once as training does, by its own library's call.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs import batched_module, describe
from hpcmarl.envs.base import Seeds, episode_seed
from hpcmarl.envs.resolve import resolve
from hpcmarl.types import EnvironmentSpec

DRAWN = 4096  # actions drawn ahead for each agent, so that drawing costs nothing


def make_bare(
    config: EnvConfig, slots: int, seeds: Seeds, spec: EnvironmentSpec | None = None
) -> BareEnvironment | BareBatch:
    """What `slots` slots are measured against: one environment, or a batch of as many where they are batched
    by themselves.

    spec: what describe() returns, for whatever policies, where it is known already."""
    module = batched_module(config)
    return (
        BareEnvironment(config, seeds)
        if module is None
        else BareBatch(module.bare(config, spec or describe(config, {}), slots, seeds), slots)
    )


def step_bare(environment: BareBatch | BareEnvironment | None, seconds: float) -> tuple[int, float]:
    """Step a bare environment for a while: environment steps and time. Without one, sleep."""
    if environment is None:
        time.sleep(seconds)
        return 0, seconds
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(25):
            environment.step()
        count += 25 * environment.steps_per_call
    return count, time.perf_counter() - began


class BareBatch:
    """A natively batched environment; `step()` takes `steps_per_call` environment steps, one in each slot."""

    def __init__(self, take: Callable[[], None], slots: int) -> None:
        self.step = take
        self.steps_per_call = slots

    def close(self) -> None:
        """Nothing is open."""


class BareEnvironment:
    """One environment; `step()` takes one environment step (one turn in an AEC game), resetting with a seed
    where an episode ends."""

    steps_per_call = 1

    def __init__(self, config: EnvConfig, seeds: Seeds) -> None:
        source, environment = resolve(config)
        self.environment: Any = environment
        self.seeds = seeds
        self.episode = 0
        self.count = 0
        self._turn_based = source.kind == "aec"
        self._seen: dict[
            Any, Any
        ] = {}  # of the agents of a parallel environment that are given masks with their observations
        self._reset()
        generator = np.random.default_rng(seeds.seed)
        self.actions = {agent: self._draw(agent, generator) for agent in list(self.environment.agents)}

    def _draw(self, agent: Any, generator: np.random.Generator) -> list[Any]:
        space = self.environment.action_space(agent)
        space.seed(int(generator.integers(2**31)))
        return [space.sample() for _ in range(DRAWN)]

    def _reset(self) -> None:
        result = self.environment.reset(
            seed=episode_seed(self.seeds.seed, self.seeds.first_slot, self.episode)
        )
        self.episode += 1
        if not self._turn_based:
            self._seen = {
                agent: seen
                for agent, seen in result[0].items()
                if isinstance(seen, dict) and "action_mask" in seen
            }

    def step(self) -> None:
        """One step with random (where there is a mask, allowed) actions."""
        index = self.count % DRAWN
        self.count += 1
        if self._turn_based:
            self._turn(index)
            return
        actions = self.actions
        chosen = {agent: actions[agent][index] for agent in self.environment.agents}
        masked = self._seen
        for agent in masked.keys() & chosen.keys():
            chosen[agent] = _allowed(chosen[agent], masked[agent]["action_mask"], index)
        result = self.environment.step(chosen)
        if masked:
            self._seen = {agent: result[0][agent] for agent in masked if agent in result[0]}
        if not self.environment.agents:
            self._reset()

    def _turn(self, index: int) -> None:
        agent = self.environment.agent_selection
        observation, _, terminated, truncated, info = self.environment.last()
        action = None
        if not (terminated or truncated):
            mask = (
                observation.get("action_mask") if isinstance(observation, dict) else info.get("action_mask")
            )
            action = _allowed(self.actions[agent][index], mask, index)
        self.environment.step(action)
        if not self.environment.agents:
            self._reset()

    def close(self) -> None:
        self.environment.close()


def _allowed(action: Any, mask: Any, index: int) -> Any:
    """The action, or one that the mask (None: there is none) allows."""
    if mask is None or mask[action]:
        return action
    allowed = np.flatnonzero(mask)
    return int(allowed[index % len(allowed)])
