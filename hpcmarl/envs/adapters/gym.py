"""Gymnasium environments as PettingZoo parallel environments, and the lookup of registered ids.

An environment with plain spaces has one agent, `agent_0`. An environment with Tuple spaces has `agent_0`,
`agent_1` and so on. The environment may come from a registered id or from a factory of the user.

The environment keeps its own time limit; `terminated` and `truncated` stay separate.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import error as gymnasium_error
from gymnasium import spaces

from hpcmarl.config import EnvConfig
from hpcmarl.errors import ConfigError, MissingPackageError

# ids begin with it: gymnasium:CartPole-v1
PACKAGE = "gymnasium"
# module of an environment's code -> argument of pip if the import fails
EXTRAS = {
    "gymnasium.envs.mujoco": "'hpcmarl[mujoco]'",
    "gymnasium.envs.box2d": "'gymnasium[box2d]'",
    "gymnasium.envs.classic_control": "'gymnasium[classic-control]'",
    "gymnasium.envs.toy_text": "'gymnasium[toy-text]'",
}
# number of similar registered ids in the message about an unknown id
NEAR = 3


def is_gymnasium(environment: Any) -> bool:
    """Return whether an object is a Gymnasium environment."""
    return isinstance(environment, gymnasium.Env)


def registered(name: str, config: EnvConfig) -> Callable[..., Any]:
    """Return the factory of a registered id; its arguments go to `gymnasium.make`.

    Args:
        name: Id as Gymnasium registers it, for example CartPole-v1.
        config: The environment, for messages.

    Raises:
        ConfigError: If the id is unknown; the message lists similar ids.
    """
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
    registration = spec

    def make(**kwargs: Any) -> Any:
        try:
            # Gymnasium's checker slows down every step and repeats the checks of batch.py and slot.py.
            return gymnasium.make(name, **{"disable_env_checker": True, **kwargs})
        except gymnasium_error.DependencyNotInstalled as error:
            place = str(registration.entry_point)
            extra = next((extra for module, extra in EXTRAS.items() if place.startswith(module)), None)
            advice = f"pip install {extra}" if extra else " ".join(str(error).split())
            raise MissingPackageError(
                f"env.id {config.id} needs a package that is not installed; {advice}"
            ) from error
        # Versions that Gymnasium no longer supports raise when they are made.
        except ImportError as error:
            raise ConfigError(
                f"env.id {config.id} cannot be made: {' '.join(str(error).split())}; choose a newer version"
            ) from error

    return make


class GymnasiumAgents:
    """One Gymnasium environment with named agents, in the interface of a PettingZoo ParallelEnv.

    Environments of several agents (level-based foraging, the robotic warehouse) have Tuple spaces with one
    part for each agent. They return observations and rewards as sequences. The flags for the end of an
    episode are one value for the team, or also a sequence.

    Attributes:
        environment: The Gymnasium environment.
        several: Whether the environment has Tuple spaces, that is several agents.
    """

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
        # The sequence needs an action for each agent. A finished agent repeats its last one.
        self.actions |= actions
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
        """Return the parts that belong to living agents, by agent.

        Raises:
            ValueError: If the number of parts differs from the number of agents.
        """
        named = dict(zip(self.possible_agents, parts if self.several else [parts], strict=True))
        return {agent: named[agent] for agent in self.agents}

    def _flags(self, flags: bool | Sequence[bool]) -> dict[str, bool]:
        """Return the flag of each living agent from one flag for the team or one for each agent."""
        each = np.broadcast_to(np.asarray(flags, bool), len(self.possible_agents))
        return {
            agent: bool(flag)
            for agent, flag in zip(self.possible_agents, each, strict=True)
            if agent in self.agents
        }

    def render(self) -> Any:
        mode, bare = self.render_mode, self.environment.unwrapped
        if mode is not None and "mode" in inspect.signature(bare.render).parameters:
            return bare.render(mode=mode)  # the interface before Gymnasium 0.26 (lbforaging)
        return self.environment.render()

    def close(self) -> None:
        self.environment.close()
