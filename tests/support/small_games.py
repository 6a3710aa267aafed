"""Small cooperative games whose optimum is found by enumeration.

tests/runs/algos/test_known_problems.py requires every algorithm to solve them. The only random element of a
game is its start, one of `starts` equally likely ones. Rewards are common: all listed agents get the same.
Games can be imported by env.id, for instance tests.support.small_games:Leaving.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from scipy.optimize import nnls

Key = tuple[Any, ...]


class SmallGame(ParallelEnv):
    """A game with common rewards; subclasses define agents, observations and rewards.

    Attributes:
        sizes: Size of each agent's observation.
        actions: Number of each agent's actions.
        starts: Number of equally likely starts.
        start: Index of the start of this episode.
        time: Steps taken in this episode.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "small_game_v0", "common_reward": True}
    possible_agents: ClassVar[list[str]]
    sizes: ClassVar[tuple[int, ...]]
    actions: ClassVar[tuple[int, ...]]
    starts: ClassVar[int] = 1

    def observation_space(self, agent: str) -> spaces.Space:
        return spaces.Box(0.0, 1.0, (self.sizes[self.possible_agents.index(agent)],), np.float32)

    def action_space(self, agent: str) -> spaces.Space:
        return spaces.Discrete(self.actions[self.possible_agents.index(agent)])

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        chosen = (options or {}).get("start")
        self.start = int(np.random.default_rng(seed).integers(self.starts)) if chosen is None else int(chosen)
        self.time = 0
        self.agents = self.begin()
        return self._observations(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, Any]) -> Any:
        acted = list(self.agents)
        reward, going_on = self.play({agent: int(actions[agent]) for agent in acted})
        self.time += 1
        self.agents = going_on
        # an agent that leaves is terminated, even if the others continue
        ends = {agent: agent not in going_on for agent in acted}
        listed = [agent for agent in self.possible_agents if agent in acted or agent in going_on]
        return (
            self._observations(listed),
            dict.fromkeys(acted, reward),
            ends,
            dict.fromkeys(acted, False),
            {agent: {} for agent in listed},
        )

    def _observations(self, agents: list[str]) -> dict[str, np.ndarray]:
        return {agent: np.array(self.see(agent), np.float32) for agent in agents}

    @abstractmethod
    def begin(self) -> list[str]:
        """Set up an episode and return the agents of its first step."""

    @abstractmethod
    def see(self, agent: str) -> list[float]:
        """Return the current observation of an agent."""

    @abstractmethod
    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        """Return the reward of the step and the agents of the next step; no agents: the episode has ended."""


class Leaving(SmallGame):
    """Each step pays 1 if both agents are present and `alone` if one is.

    The episode ends after five steps, or when no agent is left.

    Args:
        alone: Reward of a step with one agent.
        movable: Number of agents that can leave, counted from the first. Action 1 leaves after the step.
    """

    possible_agents: ClassVar[list[str]] = ["first", "second"]
    sizes: ClassVar[tuple[int, ...]] = (4, 4)
    actions: ClassVar[tuple[int, ...]] = (2, 2)
    length = 5

    def __init__(self, alone: float, movable: int = 2) -> None:
        self.alone, self.movable = alone, movable

    def begin(self) -> list[str]:
        return list(self.possible_agents)

    def see(self, agent: str) -> list[float]:
        number = self.possible_agents.index(agent)
        return [float(number == 0), float(number == 1), self.time / self.length, float(len(self.agents) < 2)]

    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        stay = [
            agent
            for agent, action in actions.items()
            if action == 0 or self.possible_agents.index(agent) >= self.movable
        ]
        return (1.0 if len(actions) == 2 else self.alone), (stay if self.time + 1 < self.length else [])


class Lock(SmallGame):
    """Two agents each observe a number, out of two and out of three; one step pays 1 if both name theirs.

    The agents have different spaces.
    """

    possible_agents: ClassVar[list[str]] = ["pair", "triple"]
    sizes: ClassVar[tuple[int, ...]] = (2, 3)
    actions: ClassVar[tuple[int, ...]] = (2, 3)
    starts = 6

    def begin(self) -> list[str]:
        self.numbers = {"pair": self.start % 2, "triple": self.start // 2}
        return list(self.possible_agents)

    def see(self, agent: str) -> list[float]:
        size = self.sizes[self.possible_agents.index(agent)]
        return [float(place == self.numbers[agent]) for place in range(size)]

    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        return float(actions == self.numbers), []


class Relay(SmallGame):
    """The first agent is alone for two steps; the second joins for the last two; the third never does.

    In its first step the first agent can open the gate by naming the number that it observes; otherwise 0.5
    is paid at once. In each later step the second agent is paid 1 with an open gate, or 0.25 with a closed
    one, if it names the number.
    """

    possible_agents: ClassVar[list[str]] = ["first", "second", "third"]
    sizes: ClassVar[tuple[int, ...]] = (5, 5, 5)
    actions: ClassVar[tuple[int, ...]] = (2, 2, 2)
    starts = 2

    def begin(self) -> list[str]:
        self.open = False
        return ["first"]

    def see(self, agent: str) -> list[float]:
        return [
            float(self.start == 0),
            float(self.start == 1),
            float(agent == "first"),
            float(self.time == 0),
            float(self.open),
        ]

    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        later = [] if self.time == 3 else ["first", "second"] if self.time >= 1 else ["first"]
        if self.time == 0:
            self.open = actions["first"] == self.start
            return (0.0 if self.open else 0.5), later
        named = "second" in actions and actions["second"] == self.start
        return ((1.0 if self.open else 0.25) if named else 0.0), later


class Delayed(SmallGame):
    """One agent, five steps, of which the first decides.

    Action 0 is paid 0.5 at once; action 1 is paid 1 in the last step.
    """

    possible_agents: ClassVar[list[str]] = ["chooser"]
    sizes: ClassVar[tuple[int, ...]] = (6,)
    actions: ClassVar[tuple[int, ...]] = (2,)
    length = 5

    def begin(self) -> list[str]:
        self.patient = False
        return ["chooser"]

    def see(self, agent: str) -> list[float]:
        return [*(float(self.time == step) for step in range(self.length)), float(self.patient)]

    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        if self.time == 0:
            self.patient = actions["chooser"] == 1
            return (0.0 if self.patient else 0.5), ["chooser"]
        last = self.time == self.length - 1
        return float(last and self.patient), ([] if last else ["chooser"])


class Remember(SmallGame):
    """One agent observes a number in the first of three steps and is paid 1 for naming it in the last."""

    possible_agents: ClassVar[list[str]] = ["rememberer"]
    sizes: ClassVar[tuple[int, ...]] = (2,)
    actions: ClassVar[tuple[int, ...]] = (2,)
    starts = 2
    length = 3

    def begin(self) -> list[str]:
        return ["rememberer"]

    def see(self, agent: str) -> list[float]:
        return [float(self.time == 0 and self.start == number) for number in range(2)]

    def state(self) -> np.ndarray:
        return np.array(
            [self.start == 0, self.start == 1, *(self.time == step for step in range(self.length + 1))],
            np.float32,
        )

    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        last = self.time == self.length - 1
        return float(last and actions["rememberer"] == self.start), ([] if last else ["rememberer"])


class Matrix(SmallGame):
    """Two agents choose row and column of a matrix; one step pays the entry."""

    possible_agents: ClassVar[list[str]] = ["row", "column"]
    sizes: ClassVar[tuple[int, ...]] = (2, 2)

    def __init__(self, payoff: list[list[float]]) -> None:
        self.payoff = payoff
        self.actions = (len(payoff), len(payoff[0]))

    def begin(self) -> list[str]:
        return list(self.possible_agents)

    def see(self, agent: str) -> list[float]:
        return [float(agent == "row"), float(agent == "column")]

    def play(self, actions: dict[str, int]) -> tuple[float, list[str]]:
        return float(self.payoff[actions["row"]][actions["column"]]), []


# ---- exact solutions


def _episode(env: Any, start: int, choose: Callable[[str, Key], int]) -> float:
    """Play one episode from a start and return its total reward.

    Args:
        env: A game.
        start: Index of the start.
        choose: Returns the action of an agent, given all its observations in order.
    """
    observations, _ = env.reset(options={"start": start})
    seen: dict[str, Key] = {}
    total = 0.0
    while env.agents:
        for agent in env.agents:
            seen[agent] = (*seen.get(agent, ()), tuple(np.asarray(observations[agent]).tolist()))
        observations, rewards, *_ = env.step({agent: choose(agent, seen[agent]) for agent in env.agents})
        total += next(iter(rewards.values()))  # rewards are common
    return total


def _starts(env: Any) -> int:
    return getattr(env, "starts", 1)


class _Undecided(Exception):
    """Raised if a table of actions has no entry for an observation yet."""


def best_return(env: Any, memory: bool = False) -> float:
    """Return the highest mean return of deterministic decentralised policies.

    All tables of actions are tried. A table is extended when an episode needs a new entry, once for each
    action.

    Args:
        env: A game whose only random element is its start.
        memory: Agents decide by all observations of the episode; False: by the current one.
    """
    best = -np.inf
    waiting: list[dict[Key, int]] = [{}]
    while waiting:
        table = waiting.pop()

        def choose(agent: str, seen: Key, table: dict[Key, int] = table) -> int:
            key = (agent, seen if memory else seen[-1])
            if key not in table:
                raise _Undecided(key, env.action_space(agent).n)
            return table[key]

        try:
            best = max(best, float(np.mean([_episode(env, start, choose) for start in range(_starts(env))])))
        except _Undecided as undecided:
            key, actions = undecided.args
            waiting += [{**table, key: action} for action in range(int(actions))]
    return best


def random_return(env: Any) -> float:
    """Return the mean return of uniformly random actions, over all sequences of joint actions."""
    total = 0.0
    for start in range(_starts(env)):
        waiting: list[tuple[list[int], float]] = [([], 1.0 / _starts(env))]
        while waiting:
            drawn, chance = waiting.pop()
            left = iter(drawn)
            needed = 0

            def choose(agent: str, seen: Key, left: Any = left) -> int:
                nonlocal needed
                action = next(left, None)
                if action is None:
                    needed = int(env.action_space(agent).n)
                    raise _Undecided
                return int(action)

            try:
                total += chance * _episode(env, start, choose)
            except _Undecided:
                waiting += [([*drawn, action], chance / needed) for action in range(needed)]
    return total


def additive_fit(payoff: list[list[float]]) -> np.ndarray:
    """Return the least-squares fit of a matrix by sums of a row's and a column's number.

    VDN learns this matrix from uniform play.
    """
    matrix = np.array(payoff, np.float64)
    rows, columns = matrix.shape
    design = np.array(
        [
            [*np.eye(rows)[row], *np.eye(columns)[column]]
            for row, column in itertools.product(range(rows), range(columns))
        ]
    )
    solution = np.linalg.lstsq(design, matrix.ravel(), rcond=None)[0]
    return (design @ solution).reshape(matrix.shape)


def monotonic_fit(payoff: list[list[float]]) -> np.ndarray:
    """Return the least-squares fit of a matrix by one that is monotonic in a row's and a column's number.

    QMIX learns this matrix from uniform play. The numbers are free, so all orders of rows and of columns are
    tried. For one order, a matrix that rises along both is a constant plus a sum of upper sets with
    non-negative weights.
    """
    matrix = np.array(payoff, np.float64)
    rows, columns = matrix.shape
    # in an upper set each row contains the columns from its border on; borders never rise from row to row
    borders = [
        border
        for border in itertools.product(range(columns + 1), repeat=rows)
        if all(a >= b for a, b in itertools.pairwise(border))
    ]
    sets = np.array(
        [[[column >= first for column in range(columns)] for first in border] for border in borders],
        np.float64,
    )
    # the set of all entries and its negative give any constant
    design = np.concatenate([sets.reshape(-1, matrix.size), -np.ones((1, matrix.size))]).T
    best, least = matrix, np.inf
    for row_order in itertools.permutations(range(rows)):
        for column_order in itertools.permutations(range(columns)):
            place = np.ix_(row_order, column_order)
            weights, distance = nnls(design, matrix[place].ravel())
            if distance < least - 1e-9:
                best, least = np.empty_like(matrix), distance
                best[place] = (design @ weights).reshape(matrix.shape)
    return best


def gradient_ascent(payoff: list[list[float]], steps: int = 2000, step_size: float = 0.05) -> float:
    """Return the mean payoff after exact gradient ascent in the logits of two softmax policies.

    The policies are independent and start from uniform play.
    """
    matrix = np.array(payoff, np.float64)
    logits = [np.zeros(size) for size in matrix.shape]
    for _ in range(steps):
        row, column = (np.exp(own - own.max()) / np.exp(own - own.max()).sum() for own in logits)
        gains = matrix @ column, row @ matrix
        logits = [
            own + step_size * probabilities * (gain - probabilities @ gain)
            for own, probabilities, gain in zip(logits, (row, column), gains, strict=True)
        ]
    row, column = (np.exp(own - own.max()) / np.exp(own - own.max()).sum() for own in logits)
    return float(row @ matrix @ column)
