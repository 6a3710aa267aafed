"""Payoffs of matrix games, from `env.id: matrix:rps` or from `env.kwargs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.errors import ConfigError
from hpcmarl.types import Array

PACKAGE = "matrix"  # ids begin with it: matrix:rps
OWN = "own"  # matrix:own: the payoffs are env.kwargs
# payoffs of the row player and of the column player; None: the negative of the row player's
GAMES: dict[str, tuple[list[list[float]], list[list[float]] | None]] = {
    "rps": ([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], None),  # rock, paper, scissors
    # The win of paper counts twice. Equilibrium: (1/4, 1/4, 1/2).
    "biased_rps": ([[0, -2, 1], [2, 0, -1], [-1, 1, 0]], None),
    "matching_pennies": ([[1, -1], [-1, 1]], None),
    "prisoners_dilemma": ([[3, 0], [4, 1]], [[3, 4], [0, 1]]),  # cooperate, defect
    "stag_hunt": ([[4, 0], [3, 2]], [[4, 3], [0, 2]]),  # stag, hare
    "chicken": ([[0, -1], [1, -4]], [[0, 1], [-1, -4]]),  # swerve, straight on
    "battle_of_the_sexes": ([[2, 0], [0, 1]], [[1, 0], [0, 2]]),
    "coordination": ([[1, 0], [0, 1]], [[1, 0], [0, 1]]),
}
LISTED = ", ".join(f"{PACKAGE}:{name}" for name in (*GAMES, OWN))


@dataclass(frozen=True)
class MatrixGame:
    """Rules of a matrix game.

    Attributes:
        payoffs: Payoffs of player_0 (row) and player_1 (column), float64 [2, rows, columns].
        rounds: Number of rounds in an episode.
    """

    payoffs: Array
    rounds: int

    @property
    def symmetric(self) -> bool:
        """Whether the players can exchange seats."""
        own, other = self.payoffs
        return own.shape[0] == own.shape[1] and np.array_equal(own, other.T)

    @property
    def constant_sum(self) -> bool:
        """Whether the sum of both payoffs is the same for all actions."""
        total = self.payoffs.sum(axis=0)
        return bool(np.allclose(total, total.flat[0], rtol=0.0, atol=1e-9 * np.abs(self.payoffs).max()))


def find_game(config: EnvConfig) -> MatrixGame:
    """Return the game that `env.id` and `env.kwargs` define.

    Raises:
        ConfigError: If the game is unknown or an argument does not fit.
    """
    name = config.id.partition(":")[2]
    if name not in GAMES and name != OWN:
        raise ConfigError(
            f"env.id {config.id}: there is no matrix game {name or '(no name)'}; allowed: {LISTED}"
        )
    if config.kind == "aec":
        raise ConfigError(f"env.kind aec: {config.id} is not turn-based; use parallel or auto")
    allowed = ("rounds", "payoff", "column_payoff") if name == OWN else ("rounds",)
    for key in config.kwargs:
        if key not in allowed:
            raise ConfigError(f"env.kwargs.{key} does not fit {config.id}; allowed: {', '.join(allowed)}")
    rounds = config.kwargs.get("rounds", 1)
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1:
        raise ConfigError(f"env.kwargs.rounds: {rounds!r}; allowed: a whole number of at least 1")
    row, column = (
        GAMES[name] if name != OWN else (config.kwargs.get("payoff"), config.kwargs.get("column_payoff"))
    )
    if row is None:
        raise ConfigError(
            f"env.kwargs.payoff is missing; env.id {config.id} needs the row player's payoff, a list of "
            f"rows; or choose among {LISTED}"
        )
    own = _matrix("payoff", row)
    other = -own if column is None else _matrix("column_payoff", column)
    if other.shape != own.shape:
        raise ConfigError(
            f"env.kwargs.column_payoff has the shape {other.shape}; allowed: that of env.kwargs.payoff, "
            f"{own.shape}"
        )
    return MatrixGame(np.stack([own, other]), rounds)


def _matrix(key: str, given: Any) -> Array:
    try:
        matrix = np.array(given, np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.ndim != 2 or matrix.size == 0 or not np.isfinite(matrix).all():
        raise ConfigError(
            f"env.kwargs.{key}: {given!r}; allowed: rows of finite numbers, all of one length, such as [[1, "
            "-1], [-1, 1]]"
        )
    return matrix
