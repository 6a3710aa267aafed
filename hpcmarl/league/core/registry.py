"""Matchmakers, kinds of members and evaluation strategies by name.

To add one, write its class, a section in config/league.py and an entry in a table below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcmarl import plugins
from hpcmarl.config.league import EvaluationStrategyConfig, MatchmakingConfig, MemberKindConfig
from hpcmarl.league.core.kinds import LeagueExploiter, Main, MainExploiter, MemberKind
from hpcmarl.league.core.matchmaking import Fixed, Latest, Matchmaker, Partners, Pfsp, Quality, Uniform
from hpcmarl.league.core.payoff import Payoff
from hpcmarl.league.core.psro import Psro
from hpcmarl.league.core.schedule import Adaptive, EvaluationStrategy, LatestPairs, Panel, RoundRobin

MATCHMAKERS: dict[str, type[Matchmaker]] = {
    "latest": Latest,
    "uniform": Uniform,
    "quality": Quality,
    "pfsp": Pfsp,
    "psro": Psro,
    "partners": Partners,
    "fixed": Fixed,
}
KINDS: dict[str, type[MemberKind]] = {
    "main": Main,
    "main_exploiter": MainExploiter,
    "league_exploiter": LeagueExploiter,
}
STRATEGIES: dict[str, type[EvaluationStrategy]] = {
    "round_robin": RoundRobin,
    "latest": LatestPairs,
    "panel": Panel,
    "adaptive": Adaptive,
}


def make_matchmaker(config: MatchmakingConfig) -> Matchmaker:
    """Return a new matchmaker of the type `config.name`, for one member."""
    constructor: Any = MATCHMAKERS.get(config.name) or plugins.need("matchmakers", config.name, MATCHMAKERS)
    matchmaker: Matchmaker = constructor(config)
    return matchmaker


def make_kind(config: MemberKindConfig) -> MemberKind:
    """Return a new member kind of the type `config.name`, for one member."""
    constructor: Any = KINDS[config.name]
    kind: MemberKind = constructor(config)
    return kind


def make_strategy(
    config: EvaluationStrategyConfig,
    payoff: Payoff,
    sides: Sequence[str] = ("",),
    *,
    cooperative: bool = False,
) -> EvaluationStrategy:
    """Return a new evaluation strategy of the type `config.name`.

    Args:
        config: Settings of the strategy.
        payoff: Results of the matches, which the caller records.
        sides: Names of the sides; see `EvaluationStrategy`.
        cooperative: Whether the league is cooperative; see `EvaluationStrategy`.
    """
    constructor: Any = STRATEGIES[config.name]
    strategy: EvaluationStrategy = constructor(config, payoff, sides, cooperative=cooperative)
    return strategy
