"""A faster step for turn-based environments that PettingZoo converted to parallel ones.

`aec_to_parallel` reads every attribute through the wrappers around the environment. Each wrapper searches
itself before it asks the next one. These searches take more than a quarter of a step of simple_spread.

This module makes the same calls on the environment without the wrappers that only check. It repeats their
checks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from pettingzoo.utils.conversions import aec_to_parallel_wrapper
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper

Step = Callable[[Mapping[Any, Any]], tuple[Any, ...]]


def step_of(environment: Any) -> Step:
    """Return the function that steps a parallel environment.

    Args:
        environment: The environment; it must have been reset.

    Returns:
        Its own step method, or a faster function with the same results.
    """
    if type(environment) is not aec_to_parallel_wrapper:
        step: Step = environment.step
        return step
    inner, checks_actions = environment.aec_env, False
    # Compare the exact type: a subclass of a wrapper may do more than check.
    while type(inner) in (OrderEnforcingWrapper, AssertOutOfBoundsWrapper):
        checks_actions = checks_actions or type(inner) is AssertOutOfBoundsWrapper
        inner = inner.env
    return Cycle(environment, inner, checks_actions)


class Cycle:
    """One turn of each agent.

    Args:
        converted: The parallel environment.
        inner: The turn-based environment inside it.
        checks_actions: Whether an action outside its space is an error.
    """

    def __init__(self, converted: Any, inner: Any, checks_actions: bool) -> None:
        self._converted, self._inner, self._checks_actions = converted, inner, checks_actions

    def __call__(self, actions: Mapping[Any, Any]) -> tuple[Any, ...]:
        """Step with one action of each agent.

        Args:
            actions: Action by agent.

        Returns:
            Observations, rewards, terminations, truncations and infos, each by agent.

        Raises:
            AssertionError: If an agent dies in the middle of a cycle, if another agent has the turn, or if an
                action is outside its space.
        """
        inner = self._inner
        rewards: dict[Any, float] = defaultdict(int)
        for agent in inner.agents:
            if agent != inner.agent_selection:
                raise AssertionError(
                    f"it is the turn of {inner.agent_selection}, not of {agent}: agents must act in order "
                    "and die only at the end of a cycle"
                )
            # The result is unused, but an environment may draw random numbers when it is observed.
            inner.last()
            action = actions[agent]
            if self._checks_actions and not inner.action_space(agent).contains(action):
                raise AssertionError(f"action {action} of {agent} is not in its action space")
            inner.step(action)
            given = inner.rewards
            for other in inner.agents:
                rewards[other] += given[other]
        ends = dict(inner.terminations), dict(inner.truncations), dict(inner.infos)
        observations = {agent: inner.observe(agent) for agent in inner.agents}
        while inner.agents and (
            inner.terminations[inner.agent_selection] or inner.truncations[inner.agent_selection]
        ):
            # PettingZoo removes a dead agent from its list when that agent steps with None.
            inner.step(None)
        self._converted.agents = inner.agents
        return observations, rewards, *ends
