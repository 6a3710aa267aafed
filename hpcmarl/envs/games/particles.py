"""The family of particle games in `envs/particles/family.py` as PettingZoo environments.

They serve `env.batched: false`, other programs, and inspection. `parallel_env` checks the arguments of
`env.id: hpcmarl.envs.games.particles:parallel_env`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo.utils.env import ParallelEnv

from hpcmarl.envs.particles.family import Family
from hpcmarl.envs.particles.world import PUSHES
from hpcmarl.errors import ConfigError
from hpcmarl.types import FloatArray

COUNTS = ("agents", "landmarks", "max_cycles")
VECTORS = ("wind", "offset")


def parallel_env(
    agents: int = 2,
    landmarks: int = 1,
    max_cycles: int = 15,
    mass: float = 1.0,
    thrust: float = 5.0,
    damping: float = 0.25,
    max_speed: float | None = None,
    wind: Sequence[float] = (0.0, 0.0),
    coverage: float = 1.0,
    offset: Sequence[float] = (0.0, 0.0),
    preferred_distance: float = 0.0,
    collisions: float = 0.0,
    effort: float = 0.0,
    bonus: float = 0.0,
) -> Particles:
    """Make one game of the family.

    Observations have shape [4 + 2·landmarks + 4·(agents - 1)]; no other argument changes them. Positions are
    in units of half the arena's side. A step lasts 0.1 time units, and a force F changes a velocity by 0.1 F
    / mass.

    Args:
        agents: Number of agents.
        landmarks: Number of landmarks.
        max_cycles: Steps in an episode.
        mass: Mass of an agent.
        thrust: Force of a push.
        damping: Share of its speed that an agent loses in a step.
        max_speed: Largest speed of an agent; None: no limit.
        wind: Constant force on every agent, [x, y].
        coverage: Cost to the team of the mean squared error of the distance between each target and its
            nearest agent.
        offset: Position of a target relative to its landmark, [x, y].
        preferred_distance: Distance from a target at which that error is 0.
        collisions: Cost to an agent for each agent that it touches.
        effort: Cost to an agent for a push.
        bonus: Reward of every agent in each step. A bonus that centres the returns removes much noise from
            REINFORCE, which has no baseline.

    Returns:
        The environment.

    Raises:
        ConfigError: If an argument is not allowed; the message names it and the allowed values.
    """
    given = dict(locals())
    _check(given)
    return Particles(
        Family(1, **{name: value for name, value in given.items() if name != "max_cycles"}), max_cycles
    )


def _check(given: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first invalid argument."""
    for name, value in given.items():
        if name in COUNTS:
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10_000:
                raise ConfigError(f"env.kwargs.{name} is {value!r}; allowed: a whole number from 1 to 10000")
        elif name in VECTORS:
            if (
                not isinstance(value, list | tuple)
                or len(value) != 2
                or not all(_is_number(part) and abs(part) <= 1e6 for part in value)
            ):
                raise ConfigError(
                    f"env.kwargs.{name} is {value!r}; allowed: two numbers from -1e+06 to 1e+06, for example "
                    "[0.5, 0]"
                )
        elif not (name == "max_speed" and value is None):
            low, high = (
                (0.0, 1.0)
                if name == "damping"
                else (1e-6, 1e6)
                if name in ("mass", "max_speed")
                else (-1e6, 1e6)
            )
            if not _is_number(value) or not low <= value <= high:
                raise ConfigError(
                    f"env.kwargs.{name} is {value!r}; allowed: a number from {low:g} to {high:g}"
                )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Particles(ParallelEnv):  # type: ignore[misc]
    """One game of the family.

    The five actions are stay, left, right, down and up. All agents are truncated after `max_cycles` steps.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "particles", "render_modes": [], "is_parallelizable": True}
    render_mode = None

    def __init__(self, world: Family, max_cycles: int) -> None:
        self.world, self.max_cycles = world, max_cycles
        self.possible_agents = [body.name for body in world.agents]
        self.agents: list[str] = []
        self.steps = 0
        self.generator = np.random.default_rng()
        size = world.observations()[0].shape[-1]
        self._observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._action_space = spaces.Discrete(PUSHES)
        self.state_space = spaces.Box(-np.inf, np.inf, (size * len(world.agents),), np.float32)

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_space

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Put every entity at a random place.

        Args:
            seed: Seed of a new random generator; None: continue with the current generator.
            options: Unused.

        Returns:
            Observations and infos, by agent.
        """
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.world.begin(np.array([0]), [self.generator])
        self.agents, self.steps = list(self.possible_agents), 0
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> tuple[dict[str, Any], ...]:
        """Take one step of all agents.

        Returns:
            Observations, rewards, terminations, truncations and infos, each by agent.
        """
        names = self.possible_agents
        chosen = [int(actions[name]) for name in names]
        self.world.step(self.world.pushes[range(len(names)), chosen][None], None)
        self.steps += 1
        rewards = dict(zip(names, self.world.rewards()[0].tolist(), strict=True))
        over = self.steps >= self.max_cycles
        if over:
            self.agents = []
        return (
            self._observations(),
            rewards,
            dict.fromkeys(names, False),
            dict.fromkeys(names, over),
            {name: {} for name in names},
        )

    def state(self) -> FloatArray:
        """Return the observations of all agents in one vector."""
        return self._seen().ravel()

    def close(self) -> None:
        """Do nothing: no resource is open."""

    def _seen(self) -> FloatArray:
        seen: FloatArray = self.world.observations()[0][0].astype(np.float32)
        return seen

    def _observations(self) -> dict[str, FloatArray]:
        return dict(zip(self.possible_agents, self._seen(), strict=True))
