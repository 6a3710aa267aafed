"""Physics of mpe2's particles for many games at once: forces, contacts, motion and words.

World is the base class of the tasks (spread.py, tag.py and others). A task adds the start of a game, rewards
and observations. Positions are in units of half the arena's side. A step lasts TIME_STEP time units. All
constants are those of mpe2, and tests compare both.

Letters in the shapes:

    A   agents                          E   games
    M   entities: agents, landmarks     n   some of the games (`rows`)
    C   letters of an agent's word
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hpcmarl.types import Array, BoolArray, DoubleArray, IntArray

TIME_STEP = 0.1
# share of its speed that a particle loses in a step, in mpe2's tasks
DAMPING = 0.25
CONTACT_FORCE = 100.0
# softness of contacts, as a distance
CONTACT_MARGIN = 1e-3
# default acceleration of an agent
ACCELERATION = 5.0
STATE = ("position", "velocity", "word")
PUSHES = 5  # none, left, right, down, up
Generators = Sequence[np.random.Generator]
DIRECTIONS = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])


@dataclass(frozen=True)
class Body:
    """An agent or a landmark.

    Only `name`, `size`, `reach` and `collides` apply to a landmark.

    Attributes:
        name: Name of the entity.
        size: Radius.
        reach: Largest initial distance from the middle, in each coordinate.
        collides: Whether contacts with it cause forces.
        moves: Whether it can move.
        speaks: Whether it says a word in each step.
        acceleration: Force of its pushes.
        max_speed: Largest speed; None: no limit.
    """

    name: str
    size: float = 0.05
    reach: float = 1.0
    collides: bool = True
    moves: bool = True
    speaks: bool = False
    acceleration: float = ACCELERATION
    max_speed: float | None = None


@dataclass(frozen=True)
class Pairs:
    """Pairs of entities that can touch, K of them.

    Attributes:
        first: First entity of each pair, [K].
        second: Second entity of each pair, [K].
        reach: Sum of the sizes of each pair, [K].
        pushed: Numbers of the pairs that push each agent, [A, k]; padded with K.
        sign: Direction in which each of these pairs pushes the agent, [A, k, 1]. It is 1 for the first entity
            of a pair, -1 for the second, 0 for padding.
    """

    first: IntArray
    second: IntArray
    reach: DoubleArray
    pushed: IntArray
    sign: DoubleArray

    @classmethod
    def of(cls, agents: Sequence[Body], landmarks: Sequence[Body]) -> Pairs:
        """Return the pairs that can touch: both entities collide, and at least one of them moves."""
        bodies = [*agents, *landmarks]
        both = [
            (a, b)
            for a in range(len(agents))
            for b in range(a + 1, len(bodies))
            if bodies[a].collides and bodies[b].collides
        ]
        both = [(a, b) for a, b in both if agents[a].moves or (b < len(agents) and agents[b].moves)]
        each = [
            [(number, 1.0 if pair[0] == agent else -1.0) for number, pair in enumerate(both) if agent in pair]
            for agent in range(len(agents))
        ]
        most = max(map(len, each), default=0)
        padded = [own + [(len(both), 0.0)] * (most - len(own)) for own in each]
        table = np.array(padded, np.float64).reshape(len(agents), most, 2)
        places = np.array(both, np.int64).reshape(-1, 2)
        reach = np.array([bodies[a].size + bodies[b].size for a, b in both])
        return cls(places[:, 0], places[:, 1], reach, table[..., 0].astype(np.int64), table[..., 1:])


class World(ABC):
    """E games of one task.

    Attributes:
        max_cycles: Steps of an episode if `env.kwargs` does not set them.
        least: Smallest value of arguments that count entities. Below it, the package's environment is used.
        agents: Agents of the task.
        landmarks: Landmarks of the task.
        letters: Number C of letters in a word.
        mass: Mass of an agent.
        damping: Share of its speed that an agent loses in a step.
        drawn: Names of attributes [E, ...] that are drawn at the start of a game, besides positions.
        position: Positions of entities, [E, M, 2].
        velocity: Velocities of agents, [E, A, 2].
        word: Last words of agents, [E, A, C].
        pushes: Force of each agent's pushes, [A, PUSHES, 2].
        acceleration: Force of a push, [A, 1]; 0 for agents that do not move.
        alphabet: One-hot words, [C, C].
    """

    max_cycles: int = 25
    least: Mapping[str, int] = MappingProxyType({})
    agents: Sequence[Body]
    landmarks: Sequence[Body]
    letters: int = 2
    mass: float = 1.0
    damping: float = DAMPING
    drawn: tuple[str, ...] = ()

    def __init__(self, slots: int) -> None:
        self.slots = slots
        count, entities = len(self.agents), len(self.agents) + len(self.landmarks)
        self._reach = np.array([[body.reach] for body in (*self.agents, *self.landmarks)])
        self.position = np.zeros((slots, entities, 2))
        # Put the bodies at different places: two bodies at the same place push with infinite force.
        self.position[:, :, 0] = np.arange(entities)
        self.velocity = np.zeros((slots, count, 2))
        self.word = np.zeros((slots, count, self.letters))
        self._pairs = Pairs.of(self.agents, self.landmarks)
        self.acceleration = np.array([[body.acceleration if body.moves else 0.0] for body in self.agents])
        self.limit_speed([body.max_speed for body in self.agents])
        self.pushes = DIRECTIONS * self.acceleration[:, None]  # [A, 5, 2]
        self.alphabet = np.eye(self.letters)

    # ---- methods that a task defines

    def begin(self, rows: IntArray, generators: Generators) -> None:
        """Begin new games in these slots.

        Each game draws the same random numbers as the package, in the same order.

        Args:
            rows: Slots, [n].
            generators: Random generator of each game, [n].
        """
        self.scatter(rows, generators)

    @abstractmethod
    def rewards(self) -> DoubleArray:
        """Return the rewards of the agents in the current state, [E, A]."""

    @abstractmethod
    def observations(self) -> list[DoubleArray]:
        """Return the observations of the agents, in their order.

        Returns:
            One array [E, n, D] for each run of n consecutive agents with the same size of observation.
        """

    def over(self) -> BoolArray | None:
        """Return which games end before their time limit, [E].

        Returns:
            The flags; None if no game of the task ends early.
        """
        return None

    def standing(self) -> dict[str, Array]:
        """Return the state of the games for `stand`."""
        return {name: getattr(self, name).copy() for name in (*STATE, *self.drawn)}

    def stand(self, state: Mapping[str, Array]) -> None:
        """Restore the games from the state that `standing` returned."""
        for name in (*STATE, *self.drawn):
            getattr(self, name)[...] = state[name]

    # ---- physics

    def limit_speed(self, limits: Sequence[float | None]) -> None:
        """Set the largest speed of each agent; None: no limit."""
        self._limits = np.array([np.inf if limit is None else limit for limit in limits])
        self._limited = bool(np.isfinite(self._limits).any())

    def scatter(self, rows: IntArray, generators: Generators, first: int = 0) -> None:
        """Draw the positions of entities in these games. All agents are at rest and silent.

        Args:
            rows: Slots, [n].
            generators: Random generator of each game, [n].
            first: First entity to place; entities before it keep their positions.
        """
        reach = self._reach[first:]
        drawn = np.empty((len(rows), len(reach), 2))
        for place, generator in zip(drawn, generators, strict=True):
            generator.random(out=place)
        self.position[rows, first:] = 2.0 * reach * drawn - reach
        self.velocity[rows] = 0.0
        self.word[rows] = 0.0

    def step(self, pushes: DoubleArray, words: DoubleArray | None) -> None:
        """Advance all games by one step.

        Args:
            pushes: Force of each agent, [E, A, 2].
            words: Word of each agent, [E, A, C]; None in tasks without speaking agents.
        """
        force = pushes + self._contacts() if len(self._pairs.first) else pushes
        position, velocity = self.places, self.velocity
        position += velocity * TIME_STEP
        velocity *= 1.0 - self.damping
        # Agents that do not move have no pushes and no contacts in any task.
        velocity += force * (TIME_STEP / self.mass)
        if self._limited:
            speed = length(velocity)
            fast = speed > self._limits
            if fast.any():
                velocity[fast] *= (np.broadcast_to(self._limits, speed.shape)[fast] / speed[fast])[:, None]
        if words is not None:
            self.word[...] = words

    def _contacts(self) -> DoubleArray:
        """Return the force of all contacts on each agent, [E, A, 2]."""
        pairs = self._pairs
        apart = self.position[:, pairs.first] - self.position[:, pairs.second]
        distance = length(apart)
        depth = np.logaddexp(0.0, (pairs.reach - distance) / CONTACT_MARGIN) * CONTACT_MARGIN
        force = np.zeros((self.slots, len(pairs.first) + 1, 2))
        force[:, :-1] = apart * (CONTACT_FORCE * depth / distance)[..., None]
        total: DoubleArray = (force[:, pairs.pushed] * pairs.sign).sum(2)
        return total

    # ---- quantities that tasks use

    @property
    def places(self) -> DoubleArray:
        """Positions of the agents, [E, A, 2]."""
        return self.position[:, : len(self.agents)]

    @property
    def marks(self) -> DoubleArray:
        """Positions of the landmarks, [E, M - A, 2]."""
        return self.position[:, len(self.agents) :]

    def mark(self, number: IntArray) -> DoubleArray:
        """Return the position of one landmark in each game, [E, 1, 2].

        Args:
            number: Number of the landmark in each game, [E].
        """
        return self.marks[np.arange(self.slots), number][:, None]

    def others(self, agents: Sequence[int], among: Sequence[int] | None = None) -> IntArray:
        """Return the other agents for each of some agents.

        Args:
            agents: The agents, [n].
            among: Agents to choose from; None: all.

        Returns:
            Numbers of the other agents in order, [n, k].
        """
        among = range(len(self.agents)) if among is None else among
        return np.array([[other for other in among if other != agent] for agent in agents], np.int64).reshape(
            len(agents), -1
        )


def distances(first: Array, second: Array) -> DoubleArray:
    """Return the distances between places [E, I, 2] and [E, J, 2], as [E, I, J]."""
    return distance(first[:, :, None], second[:, None])


def distance(first: Array, second: Array) -> DoubleArray:
    """Return the distances between places [..., 2] and [..., 2]."""
    return length(first - second)


def length(apart: Array) -> DoubleArray:
    """Return the lengths of vectors [..., 2].

    `sum()` over such a short axis would take three times as long.
    """
    east, north = apart[..., 0], apart[..., 1]
    lengths: DoubleArray = np.sqrt(east * east + north * north)
    return lengths


def seen_from(places: Array, things: Array) -> DoubleArray:
    """Return the positions of points relative to places.

    Args:
        places: Places, [E, n, 2].
        things: Points [E, J, 2], or separate points for each place [E, n, J, 2].

    Returns:
        Relative positions, [E, n, 2 J].
    """
    apart = (things if things.ndim == 4 else things[:, None]) - places[:, :, None]
    return apart.reshape(*places.shape[:2], -1)


def beside(*parts: Array) -> DoubleArray:
    """Concatenate parts of the observations of n agents.

    Args:
        *parts: Arrays [E, n, d], or [E, d] for parts that are the same for all n agents.

    Returns:
        Observations, [E, n, D].
    """
    games, agents = parts[0].shape[:2]
    return np.concatenate(
        [
            part if part.ndim == 3 else np.broadcast_to(part[:, None], (games, agents, part.shape[1]))
            for part in parts
        ],
        -1,
    )


def outside(places: Array) -> DoubleArray:
    """Return the cost of leaving the arena.

    Args:
        places: Positions, [..., 2].

    Returns:
        Costs [...]; each coordinate costs 0 within 0.9 and at most 10.
    """
    far = np.abs(places)
    cost = np.where(far < 1.0, (far - 0.9) * 10.0, np.minimum(np.exp(2.0 * far - 2.0), 10.0))
    total: DoubleArray = np.where(far < 0.9, 0.0, cost).sum(-1)
    return total
