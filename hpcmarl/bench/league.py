"""Measure the time of a league's decisions on its server.

Matchmaking, evaluation strategies and ratings run over a pool of simulated results in one process. Each
snapshot has a true strength and results are drawn from the strengths. Mixtures and pairs therefore look as in
a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from hpcmarl.config.league import EvaluationStrategyConfig, MatchmakingConfig, MemberKindConfig
from hpcmarl.league.core.matchmaking import Matchmaker, View
from hpcmarl.league.core.payoff import LiveRecord, Payoff
from hpcmarl.league.core.ratings import SkillRatings
from hpcmarl.league.core.registry import (
    KINDS,
    MATCHMAKERS,
    STRATEGIES,
    make_kind,
    make_matchmaker,
    make_strategy,
)
from hpcmarl.maths.ratings import elo, expected_score
from hpcmarl.types import Array

META_STRATEGIES = ("uniform", "nash", "replicator", "alpha_rank")
MEMBERS = 8
ROLES = (
    "main",
    "main_exploiter",
    "league_exploiter",
    "league_exploiter",
    "main",
    "main_exploiter",
    "league_exploiter",
    "league_exploiter",
)
GAMES = 4  # games of one match
STRENGTHS = 200.0  # standard deviation of the snapshots' strengths, in Elo points


class Pool:
    """A symmetric league in which each snapshot has met about twenty others.

    Args:
        snapshots: Number of snapshots.
        generator: Draws strengths and results.

    Attributes:
        numbers: Numbers of the snapshots, shape [snapshots].
        strength: True strengths in Elo points, shape [snapshots].
    """

    def __init__(self, snapshots: int, generator: np.random.Generator) -> None:
        self.generator = generator
        self.numbers = np.arange(snapshots)
        self.strength: Array = generator.normal(0.0, STRENGTHS, snapshots)
        self.payoff, self.live = Payoff(), LiveRecord()
        self.payoff.grow(snapshots)
        for row, column in generator.integers(0, snapshots, (10 * snapshots, 2)).tolist():
            if row != column:
                self.play(row, column)

    def play(self, row: int, column: int) -> float:
        """Play one match, record it in the payoff, and return the score of the row."""
        chance = float(expected_score(self.strength[row] - self.strength[column]))
        score = float(self.generator.binomial(GAMES, chance))
        self.payoff.record(row, column, GAMES, score, score, score, GAMES - score, GAMES - score)
        return score

    def draw(self, matchmaker: Matchmaker) -> None:
        """Compute a mixture from new scores, draw an opponent from it, and record one episode."""
        view = View(
            self.numbers,
            self.live.mean_score(self.numbers),
            self.numbers % MEMBERS,
            0,
            self.numbers,
            self.payoff,
            ROLES,
        )
        opponent = matchmaker.mixture(view).draw(self.generator)
        if opponent >= 0:
            score = float(self.generator.random() < expected_score(-self.strength[opponent]))
            self.live.record(opponent, 1, score)
            matchmaker.on_result(opponent, 1, score)


def _row(what: str, seconds: float, first: Callable[[], Any], call: Callable[[], Any]) -> dict[str, Any]:
    """Time `first` once, then time `call` repeatedly for about `seconds`."""
    began = time.perf_counter()
    first()
    row: dict[str, Any] = {"what": what, "first_ms": round(1e3 * (time.perf_counter() - began), 3)}
    taken: list[float] = []
    began = time.perf_counter()
    while not taken or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return row | {
        "median_ms": round(float(np.median(taken)), 3),
        "late_ms": round(float(np.quantile(taken, 0.95)), 3),
        "times": len(taken),
    }


def run(snapshots: int, seconds: float) -> list[dict[str, Any]]:
    """Time every matchmaker, kind of member, evaluation strategy and rating.

    Args:
        snapshots: Number of snapshots in the pool.
        seconds: Time for all rows together, apart from the first call of each.

    Returns:
        One row for each of them, in milliseconds.

    Raises:
        MissingPackageError: The packages of the extra `league` are missing.
    """
    skills = SkillRatings()
    pool = Pool(snapshots, np.random.default_rng(0))
    rules: dict[str, Matchmaker] = {
        f"matchmaking {name}": make_matchmaker(TypeAdapter(MatchmakingConfig).validate_python({"name": name}))
        for name in MATCHMAKERS
        if name != "psro"
    }
    for name in META_STRATEGIES:
        keys = {"name": "psro", "meta_strategy": name}
        rules[f"matchmaking psro, {name}"] = make_matchmaker(
            TypeAdapter(MatchmakingConfig).validate_python(keys)
        )
    rules |= {
        f"member kind {name}": make_kind(TypeAdapter(MemberKindConfig).validate_python({"name": name}))
        for name in KINDS
    }
    each = seconds / (len(rules) + len(STRATEGIES) + 2)
    rows = [
        _row(what, each, partial(pool.draw, rule), partial(pool.draw, rule)) for what, rule in rules.items()
    ]
    rows += [_strategy_row(pool, name, each) for name in STRATEGIES]
    games, score = pool.payoff.games(), pool.payoff.score()
    ratings = elo(games, score).rating
    rows.append(
        _row(
            "rating elo, all games", each, lambda: elo(games, score), lambda: elo(games, score, start=ratings)
        )
    )
    rows.append(
        _row(
            "rating skill, one game",
            each,
            lambda: skills.grow(snapshots),
            lambda: skills.record(0, snapshots - 1, 1.0),
        )
    )
    return rows


def _strategy_row(pool: Pool, name: str, seconds: float) -> dict[str, Any]:
    """Time one evaluation strategy.

    The first call adds the whole pool, as after a resume. Later calls choose a pair, start its match and
    record its result.
    """
    strategy = make_strategy(
        TypeAdapter(EvaluationStrategyConfig).validate_python({"name": name}), pool.payoff
    )

    def resume() -> None:
        for number in pool.numbers.tolist():
            strategy.add(number)

    def match() -> None:
        pair = strategy.next(pool.generator)
        if pair is not None:
            strategy.begun(*pair, GAMES)
            pool.play(*pair)
            strategy.ended(*pair, GAMES)

    return _row(f"evaluation {name}", seconds, resume, match)
