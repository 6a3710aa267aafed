"""OpenSpiel's connect four and tic-tac-toe as natively batched environments: all slots' boards in a few arrays.

Made through the package's make_environment for `env.id: openspiel:connect_four` and `openspiel:tic_tac_toe` with their usual sizes; others are
driven one by one (games/openspiel.py), with the same seats, views and rewards. Must not know networks, ranks or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds
from hpcmarl.envs.games.search import CONNECT_FOUR, TIC_TAC_TOE, Board
from hpcmarl.envs.native import NativeBatch, random_steps, refuse_state
from hpcmarl.envs.tree import spec_of
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, IntArray

# env.id -> the board, and the planes of an observation [3, rows, columns] for player_0's marks, player_1's and empty squares
BOARDS: dict[str, tuple[Board, tuple[int, int, int]]] = {
    "openspiel:connect_four": (CONNECT_FOUR, (0, 1, 2)),
    "openspiel:tic_tac_toe": (TIC_TAC_TOE, (2, 1, 0)),
}


def takes(config: EnvConfig) -> bool:
    """The games of BOARDS as they are without parameters."""
    return config.kind != "parallel" and config.id in BOARDS and not config.kwargs


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of a game. Raises MissingPackageError and ConfigError as games/openspiel.py does."""
    from hpcmarl.envs.games.openspiel import Play, load

    return spec_of(Play(load(config.id.partition(":")[2], config)), config, policies)


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
        super().__init__(config, spec, ("player_0", "player_1"), slots, seeds, record=record)
        self._board, planes = BOARDS[config.id]
        self._own, self._empty = np.array(planes[:2]), planes[2]
        self._bits = self._board.bits
        self._planes = np.zeros((slots, 3, self._board.rows, self._board.columns), np.float32)  # what both players see
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
        allowed: BoolArray = empty[:, -1] if self._board.gravity else empty.reshape(len(rows), -1)
        return allowed

    def _seen(self, rows: IntArray) -> FloatArray:
        return np.repeat(self._planes[rows][:, None], 2, 1)

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
