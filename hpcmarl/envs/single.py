"""Gymnasium environments: one of a single agent as a PettingZoo parallel environment of one, `agent_0`; registered ids after `gymnasium:`.

Called by resolve.py, which takes environments of a user's own factory as well. Must not know spaces, policies or slots. The
environment keeps its own time limit; `terminated` and `truncated` stay apart.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium import error as gymnasium_error

from hpcmarl.config import EnvConfig
from hpcmarl.errors import ConfigError, MissingPackageError

PACKAGE = "gymnasium"  # ids begin with it: gymnasium:CartPole-v1
AGENT = "agent_0"
# where an environment's code lies -> what to give pip when it cannot be imported
EXTRAS = {
    "gymnasium.envs.mujoco": "'hpcmarl[mujoco]'",
    "gymnasium.envs.box2d": "'gymnasium[box2d]'",
    "gymnasium.envs.classic_control": "'gymnasium[classic-control]'",
    "gymnasium.envs.toy_text": "'gymnasium[toy-text]'",
}
NEAR = 3  # registered ids that are told when one is unknown


def is_single(environment: Any) -> bool:
    """Whether it is a Gymnasium environment."""
    return isinstance(environment, gymnasium.Env)


def registered(name: str, config: EnvConfig) -> Callable[..., Any]:
    """The factory of a registered id; its arguments go to gymnasium.make. Raises ConfigError for an unknown id, naming near ones."""
    try:
        spec = gymnasium.spec(name) if ":" not in name else None
    except gymnasium_error.Error:
        spec = None
    if spec is None:
        near = difflib.get_close_matches(name, list(gymnasium.registry), n=NEAR, cutoff=0.5)
        meant = f"did you mean {', '.join(f'{PACKAGE}:{other}' for other in near)}?" if near else "gymnasium.registry lists them"
        raise ConfigError(f"env.id {config.id}: Gymnasium has no environment {name or '(no name)'} registered; {meant}")
    found = spec

    def make(**kwargs: Any) -> Any:
        try:
            # Gymnasium's checker costs a part of every step and repeats what batch.py and slot.py look for.
            return gymnasium.make(name, **{"disable_env_checker": True, **kwargs})
        except gymnasium_error.DependencyNotInstalled as error:
            place = str(found.entry_point)
            extra = next((extra for module, extra in EXTRAS.items() if place.startswith(module)), None)
            advice = f"pip install {extra}" if extra else " ".join(str(error).split())
            raise MissingPackageError(f"env.id {config.id} needs a package that is not installed; {advice}") from error
        except ImportError as error:  # versions that Gymnasium has given up say so when they are made
            raise ConfigError(f"env.id {config.id} cannot be made: {' '.join(str(error).split())}; choose a newer version") from error

    return make


class SingleAgent:
    """One Gymnasium environment, `environment`, with its only agent named; what PettingZoo calls a ParallelEnv."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.metadata = dict(getattr(environment, "metadata", None) or {})
        self.possible_agents = [AGENT]
        self.agents: list[str] = []
        self.observation_spaces = {AGENT: environment.observation_space}
        self.action_spaces = {AGENT: environment.action_space}

    @property
    def render_mode(self) -> Any:
        return self.environment.render_mode

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.environment.reset(seed=seed, options=options)
        self.agents = [AGENT]
        return {AGENT: observation}, {AGENT: info}

    def step(self, actions: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.environment.step(actions[AGENT])
        if terminated or truncated:
            self.agents = []
        return {AGENT: observation}, {AGENT: float(reward)}, {AGENT: bool(terminated)}, {AGENT: bool(truncated)}, {AGENT: info}

    def render(self) -> Any:
        return self.environment.render()

    def close(self) -> None:
        self.environment.close()
