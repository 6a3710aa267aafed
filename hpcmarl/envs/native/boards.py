"""Connect four and tic-tac-toe as natively batched environments, with all boards in a few arrays.

They replace the games of OpenSpiel and PettingZoo in VIEWS with their usual sizes. Other sizes are driven one
by one (`games/openspiel.py`, `adapters/aec.py`). Seats, observations and rewards are the same in both forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds
from hpcmarl.envs.drawing import Colour, Scene, Shape
from hpcmarl.envs.games.search import CONNECT_FOUR, TIC_TAC_TOE, Board
from hpcmarl.envs.native.base import OneShapeBatch, random_steps, refuse_state
from hpcmarl.envs.native.game_tree import spec_of
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray


@dataclass(frozen=True)
class View:
    """Players of a board and their observations.

    The source planes hold the first player's marks, the second player's marks and the empty squares. Row 0 is
    the bottom.

    Attributes:
        board: The board.
        players: Names of the players.
        planes: Positions of these three planes in an absolute observation.
        relative: Whether an observation is [rows, columns, 2], with the player's own marks first. Otherwise
            it is [3, rows, columns], the same for both players.
        upside_down: Whether the rows of a relative observation are reversed.
    """

    board: Board
    players: tuple[str, str]
    planes: tuple[int, int, int] = (0, 1, 2)
    relative: bool = False
    upside_down: bool = False

    def seen(self, planes: FloatArray) -> FloatArray:
        """Return the observations of both players.

        Args:
            planes: Planes of marks and empty squares in the order of the attribute `planes`, [n, 3, rows,
                columns].

        Returns:
            Observations, [n, 2, *shape].
        """
        if not self.relative:
            return np.repeat(planes[:, None], 2, 1)
        marks = planes[:, :2, ::-1] if self.upside_down else planes[:, :2]
        first = marks.transpose(0, 2, 3, 1)
        return np.stack([first, first[..., ::-1]], 1)


VIEWS: dict[str, View] = {
    "openspiel:connect_four": View(CONNECT_FOUR, ("player_0", "player_1")),
    "openspiel:tic_tac_toe": View(TIC_TAC_TOE, ("player_0", "player_1"), planes=(2, 1, 0)),
    "pettingzoo.classic.connect_four_v3": View(
        CONNECT_FOUR, ("player_0", "player_1"), relative=True, upside_down=True
    ),
    "pettingzoo.classic.tictactoe_v3": View(TIC_TAC_TOE, ("player_1", "player_2"), relative=True),
}


def takes(config: EnvConfig) -> bool:
    """Return whether this module has the environment: a game of VIEWS without arguments."""
    return config.kind != "parallel" and config.id in VIEWS and not config.kwargs


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of a game, from the package that defines it.

    Args:
        config: The environment.
        policies: Agents of each policy.

    Raises:
        MissingPackageError: If the package is not installed.
        ConfigError: If `env` or `policies` does not fit the game.
    """
    package, _, game = config.id.partition(":")
    if package == "openspiel":
        from hpcmarl.envs.games.openspiel import Play, load

        return spec_of(Play(load(game, config)), config, policies)
    from hpcmarl.envs.probe import probe

    return probe(config, policies)[1].spec


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> BoardBatch:
    """Make `slots` games. Raises as `describe` does, and ConfigError if a state is required."""
    refuse_state(config, with_state)
    return BoardBatch(config, spec, slots, seeds, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Do nothing: making these games is fast."""


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of `slots` games with random, allowed actions.

    It is the baseline for training speed.
    """
    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)


TURNS = np.eye(2, dtype=np.bool_)  # [player to move, player]
GAINS = np.array([[1.0, -1.0], [-1.0, 1.0]])  # [winner, player]


class Drawn:
    """Changes of the observations by each move, as flat positions in the observations of both players.

    Attributes:
        empty: Observations of the empty board, [2, *shape].
        marked: Positions that become 1, [2 * squares, k]. The first half holds the squares marked by the
            first player, row by row. The second half holds those of the second player.
        taken: Positions that become 0, in the same order.
    """

    def __init__(self, view: View) -> None:
        board, (*marks, empty) = view.board, view.planes
        squares = np.arange(board.rows * board.columns)
        planes = np.zeros((2, len(squares), 3, board.rows * board.columns), np.float32)
        planes[:, :, empty] = 1.0
        shape = (3, board.rows, board.columns)
        self.empty = view.seen(planes[0, :1].reshape(1, *shape))[0]
        planes[:, squares, empty, squares] = 0.0
        for player, plane in enumerate(marks):
            planes[player, squares, plane, squares] = 1.0
        change = view.seen(planes.reshape(-1, *shape)).reshape(2 * len(squares), -1) - self.empty.reshape(-1)
        self.marked = (change > 0).nonzero()[1].reshape(2 * len(squares), -1)
        self.taken = (change < 0).nonzero()[1].reshape(2 * len(squares), -1)


class BoardBatch(OneShapeBatch):
    """E boards of two players with alternating turns.

    Observations are updated move by move.
    """

    def __init__(
        self, config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool
    ) -> None:
        self._view = VIEWS[config.id]
        super().__init__(config, spec, self._view.players, slots, seeds, record=record)
        self._board = board = self._view.board
        self._bits = board.bits.reshape(-1)
        self._drawn = Drawn(self._view)
        self._shown = np.zeros((slots, *self._drawn.empty.shape), np.float32)
        self._marks = np.zeros((slots, 2), np.uint64)  # bit sets, by player
        # allowed actions: columns whose top is empty, or empty squares
        self._open = np.ones((slots, board.actions), np.bool_)
        # number of marks in each column; valid only with gravity
        self._heights = np.zeros((slots, board.columns), np.int64)
        self._moves = np.zeros(slots, np.int64)

    def _begin_games(self, rows: IntArray) -> None:
        self._shown[rows] = self._drawn.empty
        self._marks[rows] = 0
        self._open[rows] = True
        self._heights[rows] = 0
        self._moves[rows] = 0

    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        board, moves = self._board, self._moves[rows]
        players = moves & 1
        chosen = actions[self._everywhere[: len(rows)], players]
        # indices into flat arrays
        place, owner = rows * board.actions + chosen, rows * 2 + players
        allowed = self._open.reshape(-1)[place]
        if np.count_nonzero(allowed) < len(rows):
            self._forbid(rows, players, chosen, ~allowed)
        square = chosen
        if board.gravity:
            height = self._heights.reshape(-1)[place]
            square = height * board.columns + chosen
            height += 1
            self._heights.reshape(-1)[place] = height
            self._open.reshape(-1)[place] = height < board.rows
        else:
            self._open.reshape(-1)[place] = False
        move, first = players * len(self._bits) + square, (rows * self._drawn.empty.size)[:, None]
        shown = self._shown.reshape(-1)
        shown[first + self._drawn.marked[move]] = 1.0
        if self._drawn.taken.size:
            shown[first + self._drawn.taken[move]] = 0.0
        marks = self._marks.reshape(-1)[owner] | self._bits[square]
        self._marks.reshape(-1)[owner] = marks
        moves += 1
        self._moves[rows] = moves
        won = board.wins(marks)
        return GAINS[players] * won[:, None], won | (moves == len(self._bits))

    def _seen(self, rows: IntArray) -> FloatArray:
        return self._shown if rows is self._everywhere else self._shown[rows]

    def _acting(self, rows: IntArray) -> BoolArray:
        acting: BoolArray = TURNS[self._moves[rows] & 1]
        return acting

    def _allowed(self, rows: IntArray) -> BoolArray:
        allowed: BoolArray = self._open[rows][:, None] | TURNS[~self._moves[rows] & 1][..., None]
        return allowed

    def drawing(self, slot: int) -> Scene:
        """Return the board with the marks of both players."""
        board = self._board
        owners: tuple[Colour, Colour] = ("agent", "rival")
        shapes = [
            Shape("box", "board", column + 0.5, row + 0.5, 0.94, 0.94)
            for row in range(board.rows)
            for column in range(board.columns)
        ]
        for player, marks in enumerate(self._marks[slot]):
            for square in np.flatnonzero(marks & self._bits).tolist():
                row, column = divmod(square, board.columns)
                place = (column + 0.5, row + 0.5, 0.38)
                shapes.append(Shape("disc", owners[player], *place, label="XO"[player]))
        return Scene((0.0, 0.0, float(board.columns), float(board.rows)), tuple(shapes))

    def _save_games(self) -> dict[str, Array]:
        """Return the state of the games for `_restore_games`.

        Returns:
            planes: marks of both players and empty squares in the order of `View.planes`, [E, 3, rows,
            columns]; moves: number of moves, [E].
        """
        board = self._board
        marks = (self._marks[..., None] & self._bits) != 0
        planes = np.empty((self.slots, 3, board.rows * board.columns), np.bool_)
        planes[:, self._view.planes] = np.concatenate([marks, ~marks.any(1, keepdims=True)], 1)
        return {
            "planes": planes.reshape(self.slots, 3, board.rows, board.columns),
            "moves": self._moves.copy(),
        }

    def _restore_games(self, state: Mapping[str, Any]) -> None:
        board, planes = self._board, np.asarray(state["planes"], np.bool_)
        first, second, empty = (planes[:, plane] for plane in self._view.planes)
        self._shown[...] = self._view.seen(planes.astype(np.float32))
        self._marks[...] = (np.stack([first, second], 1).reshape(self.slots, 2, -1) * self._bits).sum(
            -1, dtype=np.uint64
        )
        self._heights[...] = board.rows - empty.sum(1)
        self._open[...] = empty[:, -1] if board.gravity else empty.reshape(self.slots, -1)
        self._moves[:] = state["moves"]
