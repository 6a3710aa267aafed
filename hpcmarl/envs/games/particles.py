"""A family of multi-particle games with one observation and one action space but different objectives: rewards and dynamics by keyword.

Built by resolve.py from `env.id: hpcmarl.envs.games.particles:parallel_env`. Groups with different members of the family are what Malenia
(arXiv 2509.24305) is for: nothing in an observation says which member is played, so that one policy has to serve all of them. World,
physics and observations are mpe2's simple_spread; must know nothing of groups, rounds or learners.

    r_a = bonus - coverage · mean_l ( min_b |x_b - x_l - offset| - preferred_distance )²  - collisions · (agents touching a)  - effort · [a pushes]

x: positions of agents a, b and of landmarks l, in units of half the arena's side. A step lasts 0.1 time units and each force F changes a
velocity by 0.1 F / mass; velocities lose the share `damping` a step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from mpe2.simple_spread.simple_spread import ExtendedWorld, Scenario
from pettingzoo.utils.env import ParallelEnv

from hpcmarl.errors import ConfigError
from hpcmarl.types import Array, FloatArray

PUSHES = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])  # as simple_spread numbers its actions


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
    """A member of the family; only agents and landmarks change its observations [4 + 2·landmarks + 4·(agents - 1)].

    mass, thrust (force of a push), damping (share of its speed that a particle loses a step), max_speed and wind (a constant force,
    [x, y]) are the dynamics; coverage, offset (of the wanted place from the landmark, [x, y]), preferred_distance (from that place),
    collisions, effort and bonus the rewards, of either sign. A bonus that centres returns spares REINFORCE, which has no baseline, much noise.
    Raises ConfigError, with the argument and what is allowed, for numbers that make no game."""
    whole = {"agents": agents, "landmarks": landmarks, "max_cycles": max_cycles}
    for name, value in whole.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 10_000:
            raise ConfigError(f"env.kwargs.{name} is {value!r}; allowed: a whole number from 1 to 10000")
    numbers: dict[str, float] = {"mass": mass, "thrust": thrust, "damping": damping, "coverage": coverage, "preferred_distance": preferred_distance}
    numbers |= {"collisions": collisions, "effort": effort, "bonus": bonus} | ({} if max_speed is None else {"max_speed": max_speed})
    for name, number in numbers.items():
        low, high = (0.0, 1.0) if name == "damping" else (1e-6, 1e6) if name in ("mass", "max_speed") else (-1e6, 1e6)
        if not _is_number(number) or not low <= number <= high:
            raise ConfigError(f"env.kwargs.{name} is {number!r}; allowed: a number from {low:g} to {high:g}")
    world = _world(agents, landmarks, Wind(_vector("wind", wind)), numbers | {"max_speed": max_speed})
    return Particles(world, max_cycles, thrust, coverage, _vector("offset", offset), preferred_distance, collisions, effort, bonus)


def _vector(name: str, value: Sequence[float]) -> Array:
    """An argument [x, y] as an array [2]."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(_is_number(part) and abs(part) <= 1e6 for part in value):
        raise ConfigError(f"env.kwargs.{name} is {value!r}; allowed: two numbers from -1e+06 to 1e+06, for example [0.5, 0]")
    return np.array(value, dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class Wind(ExtendedWorld):  # type: ignore[misc]
    """mpe2's world with a constant force on every agent."""

    def __init__(self, force: Array) -> None:
        super().__init__()
        self.wind = force

    def apply_environment_force(self, p_force: list[Any]) -> list[Any]:
        forces: list[Any] = super().apply_environment_force(p_force)
        for number in range(len(self.agents)):
            forces[number] = forces[number] + self.wind
        return forces


def _world(agents: int, landmarks: int, world: Wind, numbers: Mapping[str, Any]) -> Wind:
    """simple_spread's entities, so many of each, in a world with wind."""
    base = Scenario().make_world(max(agents, landmarks))
    world.dim_c = base.dim_c
    world.damping = float(numbers["damping"])
    world.agents, world.landmarks = base.agents[:agents], base.landmarks[:landmarks]
    for agent in world.agents:
        agent.initial_mass, agent.max_speed = float(numbers["mass"]), numbers["max_speed"]
    return world


class Particles(ParallelEnv):  # type: ignore[misc]
    """See the module's docstring. Five actions: stay, left, right, down, up; all agents are truncated after `max_cycles` steps."""

    metadata: ClassVar[dict[str, Any]] = {"name": "particles", "render_modes": [], "is_parallelizable": True}
    render_mode = None

    def __init__(
        self,
        world: Wind,
        max_cycles: int,
        thrust: float,
        coverage: float,
        offset: Array,
        preferred_distance: float,
        collisions: float,
        effort: float,
        bonus: float,
    ) -> None:
        self.scenario, self.world, self.max_cycles = Scenario(), world, max_cycles
        self.thrust, self.coverage, self.offset, self.preferred_distance = thrust, coverage, offset, preferred_distance
        self.collisions, self.effort, self.bonus = collisions, effort, bonus
        self.possible_agents = [agent.name for agent in world.agents]
        self.agents: list[str] = []
        self.steps = 0
        self.generator = np.random.default_rng()
        self.scenario.reset_world(world, self.generator)
        size = len(self.scenario.observation(world.agents[0], world))
        self._observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self._action_space = spaces.Discrete(len(PUSHES))
        self.state_space = spaces.Box(-np.inf, np.inf, (size * len(world.agents),), np.float32)

    def observation_space(self, agent: str) -> spaces.Box:
        return self._observation_space

    def action_space(self, agent: str) -> spaces.Discrete:
        return self._action_space

    def reset(self, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Everybody at a place of its own, drawn with `seed` where one is given, else with what follows of the former one."""
        if seed is not None:
            self.generator = np.random.default_rng(seed)
        self.scenario.reset_world(self.world, self.generator)
        self.agents, self.steps = list(self.possible_agents), 0
        return self._observations(), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, int]) -> tuple[dict[str, Any], ...]:
        """One step of everybody: observations, rewards, terminations, truncations, infos by agent."""
        for agent in self.world.agents:
            agent.action.u = self.thrust * PUSHES[int(actions[agent.name])]
            agent.action.c = np.zeros(self.world.dim_c)
        self.world.step()
        self.steps += 1
        team = self._team_reward()
        rewards = {agent.name: team + self._own_reward(agent, int(actions[agent.name])) for agent in self.world.agents}
        over = self.steps >= self.max_cycles
        names = self.possible_agents
        if over:
            self.agents = []
        return self._observations(), rewards, dict.fromkeys(names, False), dict.fromkeys(names, over), {name: {} for name in names}

    def state(self) -> FloatArray:
        """All observations, one after the other."""
        return np.concatenate(list(self._observations().values()))

    def close(self) -> None:
        """Nothing is open."""

    def _observations(self) -> dict[str, FloatArray]:
        return {agent.name: self.scenario.observation(agent, self.world).astype(np.float32) for agent in self.world.agents}

    def _team_reward(self) -> float:
        places = np.array([agent.state.p_pos for agent in self.world.agents])
        marks = np.array([landmark.state.p_pos for landmark in self.world.landmarks])
        nearest = np.sqrt(((places[:, None] - marks - self.offset) ** 2).sum(-1)).min(0)
        return self.bonus - self.coverage * float(((nearest - self.preferred_distance) ** 2).mean())

    def _own_reward(self, agent: Any, action: int) -> float:
        reward = -self.effort if action else 0.0
        if self.collisions:
            touching = sum(other is not agent and self.scenario.is_collision(other, agent) for other in self.world.agents)
            reward -= self.collisions * touching
        return reward
