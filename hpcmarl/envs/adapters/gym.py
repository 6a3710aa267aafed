"""Gymnasium environments as PettingZoo parallel ones, of `agent_0` alone or, where spaces are Tuples, of
agent_0, agent_1, …; registered ids.

Called by resolve.py, which takes environments of a user's own factory as well. Must not know policies or
slots. The environment keeps its own time limit; `terminated` and `truncated` stay apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error as gymnasium_error
from gymnasium import spaces

from hpcmarl.config import EnvConfig
from hpcmarl.errors import ConfigError, MissingPackageError

PACKAGE = "gymnasium"  # ids begin with it: gymnasium:CartPole-v1
# where an environment's code lies -> what to give pip when it cannot be imported
EXTRAS = {
    "gymnasium.envs.mujoco": "'hpcmarl[mujoco]'",
    "gymnasium.envs.box2d": "'gymnasium[box2d]'",
    "gymnasium.envs.classic_control": "'gymnasium[classic-control]'",
    "gymnasium.envs.toy_text": "'gymnasium[toy-text]'",
}
NEAR = 3  # registered ids that are told when one is unknown


def is_gymnasium(environment: Any) -> bool:
    """Whether it is a Gymnasium environment."""
    return isinstance(environment, gymnasium.Env)


def registered(name: str, config: EnvConfig) -> Callable[..., Any]:
    """The factory of a registered id; its arguments go to gymnasium.make. Raises ConfigError for an unknown
    id, naming near ones."""
    try:
        spec = gymnasium.spec(name) if ":" not in name else None
    except gymnasium_error.Error:
        spec = None
    if spec is None:
        near = difflib.get_close_matches(name, list(gymnasium.registry), n=NEAR, cutoff=0.5)
        meant = (
            f"did you mean {', '.join(f'{PACKAGE}:{other}' for other in near)}?"
            if near
            else "gymnasium.registry lists them"
        )
        raise ConfigError(
            f"env.id {config.id}: Gymnasium has no environment {name or '(no name)'} registered; {meant}"
        )
    found = spec

    def make(**kwargs: Any) -> Any:
        try:
            # Gymnasium's checker costs a part of every step and repeats what batch.py and slot.py look for.
            return gymnasium.make(name, **{"disable_env_checker": True, **kwargs})
        except gymnasium_error.DependencyNotInstalled as error:
            place = str(found.entry_point)
            extra = next((extra for module, extra in EXTRAS.items() if place.startswith(module)), None)
            advice = f"pip install {extra}" if extra else " ".join(str(error).split())
            raise MissingPackageError(
                f"env.id {config.id} needs a package that is not installed; {advice}"
            ) from error
        except ImportError as error:  # versions that Gymnasium has given up say so when they are made
            raise ConfigError(
                f"env.id {config.id} cannot be made: {' '.join(str(error).split())}; choose a newer version"
            ) from error

    return make


class GymnasiumAgents:
    """One Gymnasium environment, `environment`, with its agents named; what PettingZoo calls a ParallelEnv.

    Environments of several agents (level-based foraging, the robotic warehouse) have Tuples for spaces, one
    part an agent, and give observations and rewards as sequences; the ends of an episode are the team's, or
    sequences, too."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.metadata = dict(getattr(environment, "metadata", None) or {})
        seen, done = environment.observation_space, environment.action_space
        self.several = (
            isinstance(seen, spaces.Tuple) and isinstance(done, spaces.Tuple) and len(seen) == len(done)
        )
        observation_spaces, action_spaces = (list(seen), list(done)) if self.several else ([seen], [done])
        self.possible_agents = [f"agent_{index}" for index in range(len(action_spaces))]
        self.agents: list[str] = []
        self.actions: dict[str, Any] = {}
        self.observation_spaces = dict(zip(self.possible_agents, observation_spaces, strict=True))
        self.action_spaces = dict(zip(self.possible_agents, action_spaces, strict=True))

    @property
    def render_mode(self) -> Any:
        return self.environment.render_mode

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.environment.reset(seed=seed, options=options)
        self.agents = list(self.possible_agents)
        return self._of_agents(observation), dict.fromkeys(self.agents, info)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        if not self.several and self.agents:
            return self._step_alone(actions)
        self.actions |= actions  # one who is through goes on as it last did: a sequence has a place for it
        acting = [self.actions[agent] for agent in self.possible_agents]
        observation, reward, terminated, truncated, info = self.environment.step(
            tuple(acting) if self.several else acting[0]
        )
        rewards = {agent: float(part) for agent, part in self._of_agents(reward).items()}
        ends, cuts = self._flags(terminated), self._flags(truncated)
        result = self._of_agents(observation), rewards, ends, cuts, dict.fromkeys(self.agents, info)
        self.agents = [agent for agent in self.agents if not (ends[agent] or cuts[agent])]
        return result

    def _step_alone(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        (agent,) = self.agents
        observation, reward, terminated, truncated, info = self.environment.step(actions[agent])
        ends, cut = bool(terminated), bool(truncated)
        if ends or cut:
            self.agents = []
        return {agent: observation}, {agent: float(reward)}, {agent: ends}, {agent: cut}, {agent: info}

    def _of_agents(self, parts: Any) -> dict[str, Any]:
        """The living agents' parts of what the environment gave. Raises ValueError where there is not one for
        each agent."""
        named = dict(zip(self.possible_agents, parts if self.several else [parts], strict=True))
        return {agent: named[agent] for agent in self.agents}

    def _flags(self, flags: bool | Sequence[bool]) -> dict[str, bool]:
        """The end of an episode for each living agent, told once for the team or for each."""
        each = np.broadcast_to(np.asarray(flags, bool), len(self.possible_agents))
        return {
            agent: bool(flag)
            for agent, flag in zip(self.possible_agents, each, strict=True)
            if agent in self.agents
        }

    def render(self) -> Any:
        return self.environment.render()

    def close(self) -> None:
        self.environment.close()
