"""An environment stepped with random actions and nothing else, as the baseline for training speed.

The environment comes from the same resolver as in training, and its own methods are called directly. A
natively batched environment steps as many games at once as in training, with the step function of its
library.
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

# Actions of each agent that are drawn in advance, so that drawing takes no time during the measurement.
DRAWN = 4096


def make_bare(
    config: EnvConfig, slots: int, seeds: Seeds, spec: EnvironmentSpec | None = None
) -> BareEnvironment | BareBatch:
    """Make the baseline for `slots` slots.

    Args:
        config: The environment.
        slots: Number of slots in training.
        seeds: Source of the episodes' seeds.
        spec: Result of `describe()` for any policies, if it is known already.

    Returns:
        One environment, or a batch of `slots` games if the environment is natively batched.
    """
    module = batched_module(config)
    return (
        BareEnvironment(config, seeds)
        if module is None
        else BareBatch(module.bare(config, spec or describe(config, {}), slots, seeds), slots)
    )


def step_bare(environment: BareBatch | BareEnvironment | None, seconds: float) -> tuple[int, float]:
    """Step a bare environment for some time.

    Args:
        environment: Environment to step; None: sleep instead.
        seconds: Duration.

    Returns:
        Number of environment steps, and the elapsed time in seconds.
    """
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
    """A natively batched environment without training.

    Attributes:
        step: Function that takes `steps_per_call` environment steps, one in each slot.
        steps_per_call: Number of slots.
    """

    def __init__(self, take: Callable[[], None], slots: int) -> None:
        self.step = take
        self.steps_per_call = slots

    def close(self) -> None:
        """Do nothing: no resource is open."""


class BareEnvironment:
    """One environment without training.

    `step()` takes one environment step, which is one turn in an AEC game. At the end of an episode it resets
    the environment with the next seed.
    """

    steps_per_call = 1

    def __init__(self, config: EnvConfig, seeds: Seeds) -> None:
        source, environment = resolve(config)
        self.environment: Any = environment
        self.seeds = seeds
        self.episode = 0
        self.count = 0
        self._turn_based = source.kind == "aec"
        # Last observations of a parallel environment, of the agents that observe an action mask.
        self._seen: dict[Any, Any] = {}
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
        """Take one step with random actions; a mask restricts them to allowed ones."""
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
    """Return the action if the mask allows it, otherwise an allowed action. A mask of None allows all."""
    if mask is None or mask[action]:
        return action
    allowed = np.flatnonzero(mask)
    return int(allowed[index % len(allowed)])
