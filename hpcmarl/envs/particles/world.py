"""The physics of mpe2's particles for many games at once: forces, contacts, motion and words.

The base of the tasks (spread.py, tag.py, …), which add how a game begins, what it is worth and what is seen.
Called by batch.py; knows numpy alone. Positions are in units of half the arena's side, a step lasts TIME_STEP
time units. All numbers are mpe2's (tests compare both).

    A agents, M entities (agents, then landmarks), C letters of an agent's word, E games, n of them (`rows`)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hpcmarl.types import Array, BoolArray, DoubleArray, IntArray

TIME_STEP = 0.1
DAMPING = 0.25  # share of its speed that a particle loses a step, in mpe2's tasks
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3  # how soft contacts are
ACCELERATION = 5.0  # of an agent that has none of its own
STATE = ("position", "velocity", "word")
PUSHES = 5  # none, left, right, down, up
Generators = Sequence[np.random.Generator]
DIRECTIONS = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])


@dataclass(frozen=True)
class Body:
    """An agent or a landmark; of a landmark only `name`, `size`, `reach` and `collides` count.

    reach: how far from the middle it begins at most. speaks: it says a word each step. acceleration: of its
    pushes. max_speed: None: no limit.
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
    """Which entities can touch: pairs [K, 2] of them, the sum of their sizes [K], and for each agent which
    pairs push it, and which way."""

    first: IntArray
    second: IntArray
    reach: DoubleArray
    pushed: IntArray  # [A, k] numbers of pairs; K where there are fewer
    sign: DoubleArray  # [A, k, 1]: 1 for the first of a pair, -1 for the second, 0 where there is none

    @classmethod
    def of(cls, agents: Sequence[Body], landmarks: Sequence[Body]) -> Pairs:
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
        position: [E, M, 2].
        velocity: Of agents, [E, A, 2].
        word: What agents have said, [E, A, C].
        pushes: Force of each agent's pushes, [A, PUSHES, 2].
        acceleration: Force of a push, [A, 1]; 0 of agents that stand still.
        alphabet: One-hot words, [C, C].
    """

    max_cycles: int = 25  # steps of an episode where env.kwargs do not say
    # of arguments that count something; with fewer the package's environment is used
    least: Mapping[str, int] = MappingProxyType({})
    agents: Sequence[Body]
    landmarks: Sequence[Body]
    letters: int = 2
    mass: float = 1.0  # of an agent
    damping: float = DAMPING
    drawn: tuple[str, ...] = ()  # attributes [E, ...] that a game begins with, besides the places

    def __init__(self, slots: int) -> None:
        self.slots = slots
        count, entities = len(self.agents), len(self.agents) + len(self.landmarks)
        self._reach = np.array([[body.reach] for body in (*self.agents, *self.landmarks)])
        self.position = np.zeros((slots, entities, 2))
        # apart: bodies that stand on each other push with infinite force
        self.position[:, :, 0] = np.arange(entities)
        self.velocity = np.zeros((slots, count, 2))
        self.word = np.zeros((slots, count, self.letters))
        self._pairs = Pairs.of(self.agents, self.landmarks)
        self.acceleration = np.array([[body.acceleration if body.moves else 0.0] for body in self.agents])
        self.limit_speed([body.max_speed for body in self.agents])
        self.pushes = DIRECTIONS * self.acceleration[:, None]  # [A, 5, 2]
        self.alphabet = np.eye(self.letters)

    # ---- what a task adds

    def begin(self, rows: IntArray, generators: Generators) -> None:
        """Put new games into these slots, each with the random numbers that the package draws for it, in its
        order."""
        self.scatter(rows, generators)

    @abstractmethod
    def rewards(self) -> DoubleArray:
        """What the agents are paid for where they are, [E, A]."""

    @abstractmethod
    def observations(self) -> list[DoubleArray]:
        """What the agents see, in their order: an array [E, n, D] for each n neighbours of one shape."""

    def over(self) -> BoolArray | None:
        """Which games are over before their time, [E]; None in tasks where none is."""
        return None

    def standing(self) -> dict[str, Array]:
        """Where the games stand: what `stand` needs."""
        return {name: getattr(self, name).copy() for name in (*STATE, *self.drawn)}

    def stand(self, state: Mapping[str, Array]) -> None:
        """Put the games where they stood."""
        for name in (*STATE, *self.drawn):
            getattr(self, name)[...] = state[name]

    # ---- physics

    def limit_speed(self, limits: Sequence[float | None]) -> None:
        """Let no agent be faster than its limit; None: it has none."""
        self._limits = np.array([np.inf if limit is None else limit for limit in limits])
        self._limited = bool(np.isfinite(self._limits).any())

    def scatter(self, rows: IntArray, generators: Generators, first: int = 0) -> None:
        """Draw a place for each entity of these games, from `first` on, all agents at rest and silent."""
        reach = self._reach[first:]
        drawn = np.empty((len(rows), len(reach), 2))
        for place, generator in zip(drawn, generators, strict=True):
            generator.random(out=place)
        self.position[rows, first:] = 2.0 * reach * drawn - reach
        self.velocity[rows] = 0.0
        self.word[rows] = 0.0

    def step(self, pushes: DoubleArray, words: DoubleArray | None) -> None:
        """Let a step pass in all games.

        Args:
            pushes: Force of each agent, [E, A, 2].
            words: What each agent says, [E, A, C]; None in tasks where nobody speaks.
        """
        force = pushes + self._contacts() if len(self._pairs.first) else pushes
        position, velocity = self.places, self.velocity
        position += velocity * TIME_STEP
        velocity *= 1.0 - self.damping
        # agents that stand still push nobody and touch nobody, in all tasks
        velocity += force * (TIME_STEP / self.mass)
        if self._limited:
            speed = length(velocity)
            fast = speed > self._limits
            if fast.any():
                velocity[fast] *= (np.broadcast_to(self._limits, speed.shape)[fast] / speed[fast])[:, None]
        if words is not None:
            self.word[...] = words

    def _contacts(self) -> DoubleArray:
        """The force of all contacts on each agent, [E, A, 2]."""
        pairs = self._pairs
        apart = self.position[:, pairs.first] - self.position[:, pairs.second]
        distance = length(apart)
        depth = np.logaddexp(0.0, (pairs.reach - distance) / CONTACT_MARGIN) * CONTACT_MARGIN
        force = np.zeros((self.slots, len(pairs.first) + 1, 2))
        force[:, :-1] = apart * (CONTACT_FORCE * depth / distance)[..., None]
        total: DoubleArray = (force[:, pairs.pushed] * pairs.sign).sum(2)
        return total

    # ---- what tasks measure

    @property
    def places(self) -> DoubleArray:
        """Positions of the agents, [E, A, 2]."""
        return self.position[:, : len(self.agents)]

    @property
    def marks(self) -> DoubleArray:
        """Positions of the landmarks, [E, M - A, 2]."""
        return self.position[:, len(self.agents) :]

    def mark(self, number: IntArray) -> DoubleArray:
        """The position of one landmark in each game, [E, 1, 2]. number [E]: which."""
        return self.marks[np.arange(self.slots), number][:, None]

    def others(self, agents: Sequence[int], among: Sequence[int] | None = None) -> IntArray:
        """The other agents (of those in `among`) of each of these, in order: [n, k]."""
        among = range(len(self.agents)) if among is None else among
        return np.array([[other for other in among if other != agent] for agent in agents], np.int64).reshape(
            len(agents), -1
        )


def distances(first: Array, second: Array) -> DoubleArray:
    """Distances between places [E, I, 2] and [E, J, 2]: [E, I, J]."""
    return distance(first[:, :, None], second[:, None])


def distance(first: Array, second: Array) -> DoubleArray:
    """Distances between places [..., 2] and [..., 2]."""
    return length(first - second)


def length(apart: Array) -> DoubleArray:
    """Lengths of [..., 2]. A sum over so short an axis would take three times as long."""
    east, north = apart[..., 0], apart[..., 1]
    lengths: DoubleArray = np.sqrt(east * east + north * north)
    return lengths


def seen_from(places: Array, things: Array) -> DoubleArray:
    """Where things [E, J, 2], or for each agent its own [E, n, J, 2], are as seen from places [E, n, 2]: [E,
    n, 2 J]."""
    apart = (things if things.ndim == 4 else things[:, None]) - places[:, :, None]
    return apart.reshape(*places.shape[:2], -1)


def beside(*parts: Array) -> DoubleArray:
    """Parts of observations, each [E, n, d] or [E, d] of all n agents, one after the other: [E, n, D]."""
    games, agents = parts[0].shape[:2]
    return np.concatenate(
        [
            part if part.ndim == 3 else np.broadcast_to(part[:, None], (games, agents, part.shape[1]))
            for part in parts
        ],
        -1,
    )


def outside(places: Array) -> DoubleArray:
    """What it costs to leave the arena: [..., 2] -> [...], nothing within 0.9 and at most 10 for each
    coordinate."""
    far = np.abs(places)
    cost = np.where(far < 1.0, (far - 0.9) * 10.0, np.minimum(np.exp(2.0 * far - 2.0), 10.0))
    total: DoubleArray = np.where(far < 0.9, 0.0, cost).sum(-1)
    return total
