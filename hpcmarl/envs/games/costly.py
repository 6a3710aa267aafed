"""Environments whose steps take a chosen time, or none, for benchmarks.

Three agents see 18 numbers each and have five actions, as in simple_spread. A step computes (`busy`) or waits
for a simulator elsewhere (`waiting`), always as long or with a heavy tail. In `Pictures`, agents see images
that were drawn before, so that the time of a benchmark is that of the networks.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

AGENTS, NUMBERS, ACTIONS, LENGTH = 3, 18, 5, 1000
NAMING_STEPS = 20
# Number of different images, and steps of an episode of `Pictures`.
PICTURES, PICTURE_STEPS = 32, 40
# Shape of the heavy tail: a step takes its shortest time times U^(-1/TAIL) for a uniform U.
TAIL = 1.2


class Costly(ParallelEnv):  # type: ignore[misc]
    """Steps that take some time.

    Args:
        seconds: Shortest time of a step.
        longest: Longest time of a step; 0: every step takes `seconds`.
        waits: Whether a step sleeps instead of computing.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "costly_v0"}

    def __init__(self, seconds: float = 0.0, longest: float = 0.0, waits: bool = False) -> None:
        self.possible_agents = [f"agent_{number}" for number in range(AGENTS)]
        self.agents = list(self.possible_agents)
        self._seconds, self._longest, self._waits = seconds, longest, waits
        self._space = spaces.Box(-1.0, 1.0, (NUMBERS,), np.float32)
        self._generator = np.random.default_rng(0)
        self._step = 0
        self._seen = np.zeros(NUMBERS, np.float32)

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(ACTIONS)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._generator, self._step = np.random.default_rng(seed), 0
        self.agents = list(self.possible_agents)
        return dict.fromkeys(self.agents, self._seen), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        self._spend(self._duration())
        self._step += 1
        ended = self._step == LENGTH
        found: Any = (
            dict.fromkeys(self.agents, self._seen),
            dict.fromkeys(self.agents, 0.0),
            dict.fromkeys(self.agents, False),
            dict.fromkeys(self.agents, ended),
            {agent: {} for agent in self.agents},
        )
        if ended:
            self.agents = []
        return found

    def _duration(self) -> float:
        if not self._longest:
            return self._seconds
        share = float(self._generator.random())
        return min(self._longest, self._seconds / float(max(share, 1e-9) ** (1.0 / TAIL)))

    def _spend(self, seconds: float) -> None:
        if self._waits:
            time.sleep(seconds)
            return
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass


class Naming(Costly):
    """A small game with steps that take some time: an agent that names the number that it sees earns 1.

    An episode has NAMING_STEPS steps. Random play earns NAMING_STEPS / ACTIONS.
    """

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        _, infos = super().reset(seed)
        return self._show(), infos

    def _show(self) -> dict[str, np.ndarray]:
        self._numbers = self._generator.integers(ACTIONS, size=AGENTS)
        seen = np.eye(NUMBERS, dtype=np.float32)[self._numbers]
        return dict(zip(self.possible_agents, seen, strict=True))

    def step(self, actions: dict[str, int]) -> Any:
        numbers = dict(zip(self.possible_agents, self._numbers.tolist(), strict=True))
        _, _, terminated, _, infos = super().step(actions)
        rewards = {agent: float(action == numbers[agent]) for agent, action in actions.items()}
        ended = self._step == NAMING_STEPS
        if ended:
            self.agents = []
        return self._show(), rewards, terminated, dict.fromkeys(actions, ended), infos


class Pictures(ParallelEnv):  # type: ignore[misc]
    """Agents that see images, without a computation in a step.

    An agent that names the number of its image, modulo the number of actions, earns 1. An episode has
    PICTURE_STEPS steps.

    Args:
        agents: Number of agents.
        edge: Pixels along an edge of an image.
        channels: Colours of an image.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "pictures_v0"}

    def __init__(self, agents: int = 2, edge: int = 84, channels: int = 4) -> None:
        self.possible_agents = [f"agent_{number}" for number in range(agents)]
        self.agents: list[str] = []
        shape = (edge, edge, channels)
        self._space = spaces.Box(0, 255, shape, np.uint8)
        self._images = np.random.default_rng(0).integers(0, 256, (PICTURES, *shape), np.uint8)
        self._first = self._step = 0

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(ACTIONS)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._first, self._step = int(np.random.default_rng(seed).integers(PICTURES)), 0
        self.agents = list(self.possible_agents)
        return self._show(), {agent: {} for agent in self.agents}

    def _number(self, place: int) -> int:
        """Return the number of the image of an agent."""
        return (self._first + self._step + 7 * place) % PICTURES

    def _show(self) -> dict[str, Any]:
        return {agent: self._images[self._number(place)] for place, agent in enumerate(self.possible_agents)}

    def step(self, actions: dict[str, int]) -> Any:
        rewards = {
            agent: float(actions[agent] == self._number(place) % ACTIONS)
            for place, agent in enumerate(self.possible_agents)
        }
        self._step += 1
        ended = self._step == PICTURE_STEPS
        if ended:
            self.agents = []
        names = self.possible_agents
        return (
            self._show(),
            rewards,
            dict.fromkeys(names, False),
            dict.fromkeys(names, ended),
            {agent: {} for agent in names},
        )


def pictures_env(**arguments: Any) -> Pictures:
    """Return the environment of images, for `env.id: hpcmarl.envs.games.costly:pictures_env`."""
    return Pictures(**arguments)


def naming_env(**arguments: Any) -> Naming:
    """Return the game, for `env.id: hpcmarl.envs.games.costly:naming_env`."""
    return Naming(**arguments)


def parallel_env(**arguments: Any) -> Costly:
    """Return the environment, for `env.id: hpcmarl.envs.games.costly:parallel_env`."""
    return Costly(**arguments)
