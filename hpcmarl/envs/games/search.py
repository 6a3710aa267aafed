"""Opponents that search, to measure policies against: negamax to a fixed depth in connect four and
tic-tac-toe, many games at once.

Called by whoever evaluates policies. Knows boards and numpy; must not know networks, ranks or files.

Boards are bit sets (uint64): bit = column * (rows + 1) + height, with an empty bit above each column, so that
shifted lines never run over an edge. All positions after d plies are one array [n, A, ..., A]: a search of n
games is a few dozen numpy calls, whatever n is.

A move is worth, to its maker, WIN + (plies left) if it wins by force within the horizon (sooner is better),
as much less than nothing if it loses by force, 0 if the board is full before the horizon; else the marks in
the middle column at the horizon, its own less the other's. Among equally good moves one is drawn.
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

WIN = 100  # more than the middle column can be worth, and than any depth
MAX_POSITIONS = (
    200_000  # at the horizon, in one go: more games are searched in parts, and one game's may not be more
)
FEW = 1000  # bit sets whose lines are sought in all directions at once
Bits = NDArray[np.uint64]


@dataclass(frozen=True)
class Board:
    """A board on which `line` marks in a row win; with gravity an action is a column, else a square, numbered
    row by row."""

    rows: int
    columns: int
    line: int
    gravity: bool

    @cached_property
    def actions(self) -> int:
        return self.columns if self.gravity else self.rows * self.columns

    def bit(self, row: int, column: int) -> int:
        """The bit of a square; row 0 is the bottom."""
        return column * (self.rows + 1) + row

    @property
    def places(self) -> Bits:
        """[A] where an action puts its mark: the lowest square of a column, or the square."""
        if self.gravity:
            squares = [(0, column) for column in range(self.columns)]
        else:
            squares = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        return np.array([1 << self.bit(*square) for square in squares], np.uint64)

    @property
    def allowed(self) -> Bits:
        """[A] where an action's mark may lie: the squares of a column, or the square."""
        if not self.gravity:
            return self.places
        return np.array(
            [sum(1 << self.bit(row, column) for row in range(self.rows)) for column in range(self.columns)],
            np.uint64,
        )

    @property
    def bits(self) -> Bits:
        """[rows, columns]: each square as a bit set of one."""
        return np.array(
            [[1 << self.bit(row, column) for column in range(self.columns)] for row in range(self.rows)],
            np.uint64,
        )

    @property
    def shifts(self) -> tuple[int, ...]:
        """From a square to the next one in each of the four directions."""
        return (1, self.rows, self.rows + 1, self.rows + 2)

    @cached_property
    def _joins(self) -> Bits:
        """[joins, directions]: shifts by which runs of marks are joined to longer ones, until a line is
        left."""
        steps, length = [], 1
        while length < self.line:
            steps.append(min(length, self.line - length))
            length += steps[-1]
        return np.outer(steps, self.shifts).astype(np.uint64)

    def wins(self, marks: Bits) -> BoolArray:
        """Whether bit sets [...] hold a line."""
        if marks.size <= FEW:
            shifts = self._joins.reshape(*self._joins.shape, *[1] * marks.ndim)
            few: BoolArray = np.bitwise_or.reduce(_joined(marks, shifts), 0) != 0
            return few
        found: BoolArray = np.zeros(marks.shape, np.bool_)
        for direction in range(len(self.shifts)):
            found |= _joined(marks, self._joins[:, direction]) != 0
        return found


def _joined(runs: Bits, shifts: Bits) -> Bits:
    """Where lines begin, of runs of one mark."""
    for shift in shifts:
        runs = runs & (runs >> shift)
    return runs


@dataclass(frozen=True)
class Game:
    """A board, and how an observation [n, *shape] is read: whose marks are where, bool [n, rows, columns],
    the mover's and the other's."""

    board: Board
    read: Callable[[Array], tuple[BoolArray, BoolArray]]


def _relative(observations: Array, upside_down: bool) -> tuple[BoolArray, BoolArray]:
    """PettingZoo's: [n, rows, columns, 2], one's own marks and the other's."""
    seen = observations[:, ::-1] if upside_down else observations
    return seen[..., 0] > 0.5, seen[..., 1] > 0.5


def _absolute(observations: Array, first: int, second: int) -> tuple[BoolArray, BoolArray]:
    """OpenSpiel's: [n, 3, rows, columns], where `first` and `second` are the planes of the players who begin
    and who answer."""
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
    """Plays one of GAMES by looking `depth` plies ahead: 1 takes wins, 2 blocks them as well, 3 sees its own
    double threats."""

    def __init__(self, id: str, depth: int, generator: np.random.Generator) -> None:
        """id: an env.id; generator: draws among equally good moves. Raises ConfigError for other games and
        depths."""
        if id not in GAMES:
            raise ConfigError(f"env.id {id} has no searching opponent; allowed: {', '.join(GAMES)}")
        deepest = int(math.log(MAX_POSITIONS, GAMES[id].board.actions))
        if not 1 <= depth <= deepest:
            raise ConfigError(f"depth {depth} of a search in {id}; allowed: 1 to {deepest}")
        self._game, self._depth, self._generator = GAMES[id], depth, generator
        self._tree = Negamax(self._game.board)

    def __call__(self, observations: Array, masks: BoolArray) -> IntArray:
        """Actions int64 [n] for observations [n, *shape] of the agents to move, and their masks [n, A]; 0
        where nothing is allowed."""
        own, other = (self._bits(marks) for marks in self._game.read(np.asarray(observations)))
        worth = np.where(masks, self._tree.worth(own, other, self._depth), -np.inf)
        best = (worth == worth.max(-1, keepdims=True)) & masks
        drawn: IntArray = np.where(best, self._generator.random(best.shape), -1.0).argmax(-1)
        return drawn

    def _bits(self, marks: BoolArray) -> Bits:
        bits: Bits = (marks * self._game.board.bits).sum((1, 2), dtype=np.uint64)
        return bits


class Negamax:
    """The search itself, on bit sets."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._places, self._allowed = board.places, board.allowed
        middle = board.columns // 2
        self._low = np.uint64(board.bit(0, middle))
        self._column = np.uint64((1 << board.rows) - 1)
        self._counts = np.array([bits.bit_count() for bits in range(1 << board.rows)], np.int8)

    def worth(self, own: Bits, other: Bits, depth: int) -> Array:
        """int16 [n, A]: what each move is worth to the mover (own, other [n]); meaningless for moves that are
        not allowed."""
        part = max(1, MAX_POSITIONS // self.board.actions**depth)
        found = [
            self._moves(own[start : start + part], other[start : start + part], depth)[0]
            for start in range(0, len(own), part)
        ]
        return np.concatenate(found) if found else np.zeros((0, self.board.actions), np.int16)

    def _moves(self, own: Bits, other: Bits, depth: int) -> tuple[Array, BoolArray]:
        """What each move is worth, and whether it is allowed: [..., A] for positions [...]."""
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
        """How many marks lie in the middle column."""
        counted: NDArray[np.int16] = self._counts[
            ((marks >> self._low) & self._column).astype(np.intp)
        ].astype(np.int16)
        return counted
