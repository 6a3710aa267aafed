"""Matchmakers, kinds of members and evaluation strategies by name.

Adding a matchmaker, a kind of member or an evaluation strategy: a class, a section in
config/league.py and a line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    """A matchmaker for one member, of the kind that `config.name` asks for."""
    constructor: Any = MATCHMAKERS[config.name]
    matchmaker: Matchmaker = constructor(config)
    return matchmaker


def make_kind(config: MemberKindConfig) -> MemberKind:
    """What decides for one member of the kind that `config.name` asks for."""
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
    """The evaluation strategy that `config.name` asks for, over this payoff; `sides` and `cooperative` as in
    `EvaluationStrategy`.
    """
    constructor: Any = STRATEGIES[config.name]
    strategy: EvaluationStrategy = constructor(config, payoff, sides, cooperative=cooperative)
    return strategy
