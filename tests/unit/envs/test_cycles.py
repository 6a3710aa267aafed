"""Converted turn-based environments are stepped as PettingZoo's conversion steps them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo import AECEnv
from pettingzoo.utils import aec_to_parallel, wrappers

from hpcmarl.envs.adapters.cycles import Cycle, step_of
from tests.support.environments import Crowd

AGENTS = ["red", "green", "blue"]


class Noisy(AECEnv):
    """Agents with noise as observations, which die one after the other at the ends of cycles.

    The noise is drawn when an agent is observed. Every turn pays a reward to each agent.

    Args:
        early: Agent after whose turn the last agent dies, in the middle of a cycle; None: no such death.
    """

    metadata = {"name": "noisy", "is_parallelizable": True}  # noqa: RUF012  PettingZoo's convention
    render_mode = None

    def __init__(self, early: str | None = None) -> None:
        self.possible_agents = list(AGENTS)
        self.early = early

    def observation_space(self, agent: str) -> Box:
        return Box(-np.inf, np.inf, (2,))

    def action_space(self, agent: str) -> Discrete:
        return Discrete(3)

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.generator = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.rewards = self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations, self.truncations = (
            dict.fromkeys(self.agents, False),
            dict.fromkeys(self.agents, False),
        )
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = self.agents[0]
        self.cycles = 0

    def observe(self, agent: str) -> np.ndarray:
        return self.generator.normal(size=2)

    def step(self, action: int | None) -> None:
        if self.terminations[self.agent_selection] or self.truncations[self.agent_selection]:
            self._was_dead_step(action)
            return
        acting = self.agent_selection
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.rewards = {
            agent: float(action) + (agent == acting) + self.generator.random() for agent in self.agents
        }
        self.infos = {agent: {"by": acting} for agent in self.agents}
        coming = self.agents.index(acting) + 1
        if coming < len(self.agents):
            self.agent_selection = self.agents[coming]
            if acting == self.early:
                self.terminations[self.agents[-1]] = True
            return
        self.cycles += 1
        self.agent_selection = self.agents[0]
        if self.cycles % 2 == 0:
            (self.terminations if self.cycles % 4 == 0 else self.truncations)[self.agents[0]] = True
            self._skip_agent_selection = self.agents[1] if len(self.agents) > 1 else None


def wrap(environment: AECEnv, *around: Any) -> Any:
    for wrapper in around:
        environment = wrapper(environment)
    return aec_to_parallel(environment)


class Doubling(wrappers.BaseWrapper):
    """Wrapper that doubles the rewards; the other wrappers of the tests only check calls."""

    @property
    def rewards(self) -> dict[str, float]:
        return {agent: 2.0 * reward for agent, reward in self.env.rewards.items()}


@pytest.mark.parametrize(
    "around",
    [
        (),
        (wrappers.OrderEnforcingWrapper,),
        (wrappers.AssertOutOfBoundsWrapper, wrappers.OrderEnforcingWrapper),
        (Doubling, wrappers.OrderEnforcingWrapper),
        (wrappers.OrderEnforcingWrapper, Doubling),
    ],
)
def test_steps_equal_those_of_the_conversion(around: tuple[Any, ...]) -> None:
    usual, quick = wrap(Noisy(), *around), wrap(Noisy(), *around)
    for seed in range(3):
        seen = [environment.reset(seed=seed) for environment in (usual, quick)]
        step = step_of(quick)
        assert isinstance(step, Cycle)
        generator, lengths = np.random.default_rng(seed), []
        while usual.agents:
            lengths.append(len(usual.agents))
            actions = {agent: int(generator.integers(3)) for agent in usual.agents}
            seen = [usual.step(actions), step(actions)]
            for mine, theirs in zip(*seen, strict=True):
                np.testing.assert_equal(dict(mine), dict(theirs))
            assert usual.agents == quick.agents
        assert lengths == [3, 3, 2, 2, 1, 1]


def test_what_the_conversion_refuses_is_refused() -> None:
    checked = wrap(Noisy(), wrappers.AssertOutOfBoundsWrapper)
    checked.reset(seed=1)
    with pytest.raises(AssertionError, match="action 3 of green is not in its action space"):
        step_of(checked)({"red": 0, "green": 3, "blue": 0})
    broken = wrap(Noisy(early="red"))
    broken.reset(seed=1)
    with pytest.raises(Exception, match="agent"):
        broken.step(dict.fromkeys(AGENTS, 0))
    again = wrap(Noisy(early="red"))
    again.reset(seed=1)
    with pytest.raises(Exception, match="agent"):
        step_of(again)(dict.fromkeys(AGENTS, 0))


def test_turn_of_another_agent_is_refused() -> None:
    environment = wrap(Noisy())
    environment.reset(seed=1)
    environment.unwrapped.agent_selection = "green"
    with pytest.raises(AssertionError, match="it is the turn of green, not of red"):
        step_of(environment)(dict.fromkeys(AGENTS, 0))


def test_other_environments_are_stepped_by_themselves() -> None:
    crowd = Crowd()
    assert step_of(crowd) == crowd.step
