"""Connect four and tic-tac-toe as natively batched environments: all slots' boards in a few arrays.

Made through the package's make_environment for OpenSpiel's and PettingZoo's games (VIEWS) with their usual sizes; others are driven one by one
(games/openspiel.py, aec.py), with the same seats, views and rewards. Must not know networks, ranks or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds
from hpcmarl.envs.games.search import CONNECT_FOUR, TIC_TAC_TOE, Board
from hpcmarl.envs.native import NativeBatch, random_steps, refuse_state
from hpcmarl.envs.tree import spec_of
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray


@dataclass(frozen=True)
class View:
    """Who plays a board, and what they see of it: planes of the first player's marks, the second's, and the empty squares, row 0 the bottom.

    relative: [rows, columns, 2], one's own marks and the other's, `upside_down` or not; else [3, rows, columns], the same for both, in which
    `planes` says which is whose."""

    board: Board
    players: tuple[str, str]
    planes: tuple[int, int, int] = (0, 1, 2)
    relative: bool = False
    upside_down: bool = False

    def seen(self, planes: FloatArray) -> FloatArray:
        """[n, 3, rows, columns] -> [n, 2, *shape]: what each of the two players sees."""
        if not self.relative:
            return np.repeat(planes[:, None], 2, 1)
        marks = planes[:, :2, ::-1] if self.upside_down else planes[:, :2]
        first = marks.transpose(0, 2, 3, 1)
        return np.stack([first, first[..., ::-1]], 1)


VIEWS: dict[str, View] = {
    "openspiel:connect_four": View(CONNECT_FOUR, ("player_0", "player_1")),
    "openspiel:tic_tac_toe": View(TIC_TAC_TOE, ("player_0", "player_1"), planes=(2, 1, 0)),
    "pettingzoo.classic.connect_four_v3": View(CONNECT_FOUR, ("player_0", "player_1"), relative=True, upside_down=True),
    "pettingzoo.classic.tictactoe_v3": View(TIC_TAC_TOE, ("player_1", "player_2"), relative=True),
}


def takes(config: EnvConfig) -> bool:
    """The games of VIEWS as they are without parameters."""
    return config.kind != "parallel" and config.id in VIEWS and not config.kwargs


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of a game, from the package that it comes from. Raises MissingPackageError and ConfigError as that does."""
    package, _, game = config.id.partition(":")
    if package == "openspiel":
        from hpcmarl.envs.games.openspiel import Play, load

        return spec_of(Play(load(game, config)), config, policies)
    from hpcmarl.envs.survey import survey

    return survey(config, policies)[1].spec


def make(config: EnvConfig, policies: Mapping[str, PolicyConfig], slots: int, seeds: Seeds, *, record: bool, with_state: bool) -> BoardBatch:
    """`slots` games. Raises as describe() does, and where a state is wanted."""
    refuse_state(config, with_state)
    return BoardBatch(config, describe(config, policies), slots, seeds, record=record)


def prepare(config: EnvConfig, slots: int) -> None:
    """Nothing takes long."""


def bare(config: EnvConfig, slots: int, seeds: Seeds) -> Callable[[], None]:
    """A function that takes one step of `slots` games with random, allowed actions: what training is measured against."""
    return random_steps(make(config, {}, slots, seeds, record=False, with_state=False), seeds)


class BoardBatch(NativeBatch):
    """E boards of two players, who take turns."""

    def __init__(self, config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool) -> None:
        self._view = VIEWS[config.id]
        super().__init__(config, spec, self._view.players, slots, seeds, record=record)
        self._board, planes = self._view.board, self._view.planes
        self._own, self._empty = np.array(planes[:2]), planes[2]
        self._bits = self._board.bits
        self._planes = np.zeros((slots, 3, self._board.rows, self._board.columns), np.float32)
        self._marks = np.zeros((slots, 2), np.uint64)  # the same as bit sets, by player
        self._moves = np.zeros(slots, np.int64)

    def _begin_games(self, rows: IntArray) -> None:
        self._planes[rows] = 0.0
        self._planes[rows, self._empty] = 1.0
        self._marks[rows] = 0
        self._moves[rows] = 0

    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        board, players = self._board, self._moves[rows] % 2
        chosen = actions[np.arange(len(rows)), players]
        self._forbid(rows, players, chosen, ~self._open(rows)[np.arange(len(rows)), chosen])
        if board.gravity:
            row, column = board.rows - self._planes[rows, self._empty, :, chosen].sum(-1).astype(np.int64), chosen
        else:
            row, column = np.divmod(chosen, board.columns)
        self._planes[rows, self._own[players], row, column] = 1.0
        self._planes[rows, self._empty, row, column] = 0.0
        self._marks[rows, players] |= self._bits[row, column]
        self._moves[rows] += 1
        won = board.wins(self._marks[rows, players])
        gain = np.where(players == 0, 1.0, -1.0) * won
        return np.stack([gain, -gain], 1), won | (self._moves[rows] == board.rows * board.columns)

    def _open(self, rows: IntArray) -> BoolArray:
        """The actions that are allowed, [n, A]: columns whose top is empty, or empty squares."""
        empty = self._planes[rows, self._empty] > 0
        allowed: BoolArray = empty[:, -1] if self._board.gravity else empty.reshape(len(rows), self._board.actions)
        return allowed

    def _seen(self, rows: IntArray) -> FloatArray:
        return self._view.seen(self._planes[rows])

    def _acting(self, rows: IntArray) -> BoolArray:
        acting: BoolArray = (self._moves[rows] % 2)[:, None] == np.arange(2)
        return acting

    def _allowed(self, rows: IntArray) -> BoolArray:
        return self._open(rows)[:, None] | ~self._acting(rows)[..., None]

    def _standing(self) -> dict[str, Array]:
        return {"planes": self._planes > 0, "moves": self._moves.copy()}

    def _stand(self, state: Mapping[str, Any]) -> None:
        self._planes[...], self._moves[:] = state["planes"], state["moves"]
        self._marks[...] = (self._bits * (self._planes[:, self._own] > 0)).sum((-2, -1), dtype=np.uint64)
