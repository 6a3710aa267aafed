"""A step of a turn-based environment that PettingZoo has converted to a parallel one: the same calls, without
the conversion's detours.

Called by parallel.py. `aec_to_parallel` reads every attribute through the wrappers around the environment,
and each of them looks for it in vain before it asks the next one: more than a quarter of a step of
simple_spread. Here wrappers that only check are passed by, and what they check is checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from pettingzoo.utils.conversions import aec_to_parallel_wrapper
from pettingzoo.utils.wrappers import AssertOutOfBoundsWrapper, OrderEnforcingWrapper

Step = Callable[[Mapping[Any, Any]], tuple[Any, ...]]


def step_of(environment: Any) -> Step:
    """Return what steps a parallel environment: its own method, or a quicker function with the same results.
    The environment must be reset first."""
    if type(environment) is not aec_to_parallel_wrapper:
        step: Step = environment.step
        return step
    inner, checks_actions = environment.aec_env, False
    while type(inner) in (OrderEnforcingWrapper, AssertOutOfBoundsWrapper):  # subclasses may do more
        checks_actions = checks_actions or type(inner) is AssertOutOfBoundsWrapper
        inner = inner.env
    return Cycle(environment, inner, checks_actions)


class Cycle:
    """One turn of each agent.

    Args:
        converted: The parallel environment.
        inner: The turn-based one inside it.
        checks_actions: Whether actions outside their space are errors.
    """

    def __init__(self, converted: Any, inner: Any, checks_actions: bool) -> None:
        self._converted, self._inner, self._checks_actions = converted, inner, checks_actions

    def __call__(self, actions: Mapping[Any, Any]) -> tuple[Any, ...]:
        """Step with an action of each agent; returns observations, rewards, terminations, truncations and
        infos by agent.

        Raises:
            AssertionError: If an agent dies in the middle of a cycle, if it is another one's turn, or if an
                action is outside its space.
        """
        inner = self._inner
        rewards: dict[Any, float] = defaultdict(int)
        for agent in inner.agents:
            if agent != inner.agent_selection:
                raise AssertionError(
                    f"it is the turn of {inner.agent_selection}, not of {agent}: agents must act in order "
                    "and die at a cycle's end"
                )
            # nobody looks at it, but environments may draw random numbers when they are observed
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
            inner.step(None)  # PettingZoo's way to take the dead off the list
        self._converted.agents = inner.agents
        return observations, rewards, *ends
