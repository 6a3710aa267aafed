"""Opponents that search, as a measure of policies: negamax to a fixed depth for many games at once.

The games are connect four and tic-tac-toe.

Boards are bit sets (uint64) with bit = column * (rows + 1) + height. An empty bit above each column keeps
shifted lines from crossing an edge. All positions after d plies form one array [n, A, ..., A]. A search of n
games takes a few dozen numpy calls, for any n.

The value of a move to the player that makes it:

    WIN + plies left      it wins by force within the horizon (earlier is better)
    -(WIN + plies left)   it loses by force within the horizon
    0                     the board is full before the horizon
    own - other marks     otherwise: marks in the middle column at the horizon

Among equally good moves one is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpcmarl.errors import ConfigError
from hpcmarl.types import Array, BoolArray, IntArray

# larger than any value of the middle column and any depth
WIN = 100
# Positions at the horizon in one search. More games are searched in parts; a single game must not have more.
MAX_POSITIONS = 200_000
# Up to this number of bit sets, wins() searches all directions in one call.
FEW = 1000
Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Board:
    """A board on which `line` marks in a row win.

    With gravity an action is a column. Otherwise it is a square, numbered row by row.
    """

    rows: int
    columns: int
    line: int
    gravity: bool

    @cached_property
    def actions(self) -> int:
        """Number A of actions."""
        return self.columns if self.gravity else self.rows * self.columns

    def bit(self, row: int, column: int) -> int:
        """Return the number of a square's bit; row 0 is the bottom."""
        return column * (self.rows + 1) + row

    @property
    def places(self) -> Bits:
        """Bit where each action puts its mark, [A]: the lowest square of a column, or the square."""
        if self.gravity:
            squares = [(0, column) for column in range(self.columns)]
        else:
            squares = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return np.array([1 << self.bit(*square) for square in squares], np.uint64)

    @property
    def allowed(self) -> Bits:
        """Bits where an action's mark may lie, [A]: the squares of a column, or the square."""
        if not self.gravity:
            return self.places
        return np.array(
            [sum(1 << self.bit(row, column) for row in range(self.rows)) for column in range(self.columns)],
            np.uint64,
        )

    @property
    def bits(self) -> Bits:
        """Each square as a bit set with one bit, [rows, columns]."""
        return np.array(
            [[1 << self.bit(row, column) for column in range(self.columns)] for row in range(self.rows)],
            np.uint64,
        )

    @property
    def shifts(self) -> tuple[int, ...]:
        """Shift from a square to the next one in each of the four directions."""
        return (1, self.rows, self.rows + 1, self.rows + 2)

    @cached_property
    def _joins(self) -> Bits:
        """Shifts that join runs of marks to longer ones until a line remains, [joins, directions]."""
        steps, length = [], 1
        while length < self.line:
            steps.append(min(length, self.line - length))
            length += steps[-1]
        return np.outer(steps, self.shifts).astype(np.uint64)

    def wins(self, marks: Bits) -> BoolArray:
        """Return whether bit sets hold a line, bool in the shape of `marks`."""
        if marks.size <= FEW:
            shifts = self._joins.reshape(*self._joins.shape, *[1] * marks.ndim)
            few: BoolArray = np.bitwise_or.reduce(_joined(marks, shifts), 0) != 0
            return few
        found: BoolArray = np.zeros(marks.shape, np.bool_)
        for direction in range(len(self.shifts)):
            found |= _joined(marks, self._joins[:, direction]) != 0
        return found


def _joined(runs: Bits, shifts: Bits) -> Bits:
    """Return the bits where lines begin, from the bits of single marks."""
    for shift in shifts:
        runs = runs & (runs >> shift)
    return runs


@dataclass(frozen=True)
class Game:
    """A board and the way its observations are read.

    Attributes:
        board: The board.
        read: Function from observations [n, *shape] to the marks of the player to move and of the other
            player, each bool [n, rows, columns].
    """

    board: Board
    read: Callable[[Array], tuple[BoolArray, BoolArray]]


def _relative(observations: Array, upside_down: bool) -> tuple[BoolArray, BoolArray]:
    """Read PettingZoo's observations: own marks and the other's, [n, rows, columns, 2]."""
    seen = observations[:, ::-1] if upside_down else observations
    return seen[..., 0] > 0.5, seen[..., 1] > 0.5


def _absolute(observations: Array, first: int, second: int) -> tuple[BoolArray, BoolArray]:
    """Read OpenSpiel's observations, [n, 3, rows, columns].

    Args:
        observations: The observations.
        first: Plane of the player that begins.
        second: Plane of the other player.
    """
    one, two = observations[:, first] > 0.5, observations[:, second] > 0.5
    begins = (one.sum((1, 2)) == two.sum((1, 2)))[:, None, None]
    return np.where(begins, one, two), np.where(begins, two, one)


CONNECT_FOUR = Board(6, 7, 4, gravity=True)
TIC_TAC_TOE = Board(3, 3, 3, gravity=False)
GAMES: dict[str, Game] = {
    "pettingzoo.classic.connect_four_v3": Game(CONNECT_FOUR, lambda seen: _relative(seen, True)),
    "openspiel:connect_four": Game(CONNECT_FOUR, lambda seen: _absolute(seen, 0, 1)),
    "pettingzoo.classic.tictactoe_v3": Game(TIC_TAC_TOE, lambda seen: _relative(seen, False)),
    "openspiel:tic_tac_toe": Game(TIC_TAC_TOE, lambda seen: _absolute(seen, 2, 1)),
}


class Searcher:
    """Player of one of GAMES that searches `depth` plies.

    Depth 1 finds wins, depth 2 also blocks the other's wins, and depth 3 finds its own double threats.
    """

    def __init__(self, id: str, depth: int, generator: np.random.Generator) -> None:
        """Create a searching player.

        Args:
            id: An `env.id`.
            depth: Number of plies.
            generator: Random generator that draws among equally good moves.

        Raises:
            ConfigError: If the game has no search or the depth is out of range.
        """
        if id not in GAMES:
            raise ConfigError(f"env.id {id} has no searching opponent; allowed: {', '.join(GAMES)}")
        deepest = int(math.log(MAX_POSITIONS, GAMES[id].board.actions))
        if not 1 <= depth <= deepest:
            raise ConfigError(f"depth {depth} of a search in {id}; allowed: 1 to {deepest}")
        self._game, self._depth, self._generator = GAMES[id], depth, generator
        self._tree = Negamax(self._game.board)

    def __call__(self, observations: Array, masks: BoolArray) -> IntArray:
        """Choose actions.

        Args:
            observations: Observations of the agents to move, [n, *shape].
            masks: Their allowed actions, [n, A].

        Returns:
            Actions, int64 [n]; 0 if no action is allowed.
        """
        own, other = (self._bits(marks) for marks in self._game.read(np.asarray(observations)))
        worth = np.where(masks, self._tree.worth(own, other, self._depth), -np.inf)
        best = (worth == worth.max(-1, keepdims=True)) & masks
        drawn: IntArray = np.where(best, self._generator.random(best.shape), -1.0).argmax(-1)
        return drawn

    def _bits(self, marks: BoolArray) -> Bits:
        bits: Bits = (marks * self._game.board.bits).sum((1, 2), dtype=np.uint64)
        return bits


class Negamax:
    """Negamax search on bit sets."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._places, self._allowed = board.places, board.allowed
        middle = board.columns // 2
        self._low = np.uint64(board.bit(0, middle))
        self._column = np.uint64((1 << board.rows) - 1)
        self._counts = np.array([bits.bit_count() for bits in range(1 << board.rows)], np.int8)

    def worth(self, own: Bits, other: Bits, depth: int) -> Array:
        """Return the value of each move to the player to move.

        Args:
            own: Marks of the player to move, [n].
            other: Marks of the other player, [n].
            depth: Number of plies.

        Returns:
            Values, int16 [n, A]; values of forbidden moves have no meaning.
        """
        part = max(1, MAX_POSITIONS // self.board.actions**depth)
        found = [
            self._moves(own[start : start + part], other[start : start + part], depth)[0]
            for start in range(0, len(own), part)
        ]
        return np.concatenate(found) if found else np.zeros((0, self.board.actions), np.int16)

    def _moves(self, own: Bits, other: Bits, depth: int) -> tuple[Array, BoolArray]:
        """Return the value of each move and whether it is allowed, both [..., A] for positions [...]."""
        taken = (own | other)[..., None]
        drop = (taken + self._places if self.board.gravity else self._places & ~taken) & self._allowed
        possible = drop != 0
        after = own[..., None] | drop
        wins = self.board.wins(after)
        if depth == 1:
            further = self._middle(after) - self._middle(other)[..., None]
        else:
            replies, replied = self._moves(np.broadcast_to(other[..., None], after.shape), after, depth - 1)
            best = np.where(replied, replies, np.int16(-2 * WIN)).max(-1)
            further = np.where(replied.any(-1), -best, np.int16(0))
        return np.where(wins, np.int16(WIN + depth), further), possible

    def _middle(self, marks: Bits) -> NDArray[np.int16]:
        """Return the number of marks in the middle column."""
        counted: NDArray[np.int16] = self._counts[
            ((marks >> self._low) & self._column).astype(np.intp)
        ].astype(np.int16)
        return counted
