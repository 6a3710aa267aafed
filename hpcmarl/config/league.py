"""Sections of matchmakers, member kinds and evaluation strategies of a league.

docs/league.md has their formulas and sources.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    section,
)
from hpcmarl.config.choice import Choice

MetaStrategyName = Literal["uniform", "nash", "replicator", "alpha_rank"]


class LatestConfig(Section):
    """Naive self-play: the member itself or the newest snapshot."""

    name: Literal["latest"] = "latest"
    self_share: Fraction = Field(
        1.0,
        description=(
            "share of episodes against the member's own present weights; the others are against the "
            "newest snapshot"
        ),
    )


class UniformConfig(Section):
    """Fictitious self-play: all snapshots with the same probability."""

    name: Literal["uniform"] = "uniform"
    self_share: Fraction = Field(
        0.0,
        description=(
            "share of episodes against the member's own present weights; the others are against any snapshot"
        ),
    )


class QualityConfig(Section):
    """Quality scores of OpenAI Five (arXiv 1912.06680): the member itself, or snapshots by quality."""

    name: Literal["quality"] = "quality"
    self_share: Fraction = Field(
        0.8,
        description=(
            "share of episodes against the member's own present weights; the others are against "
            "snapshots by quality"
        ),
    )
    rate: PositiveFloat = Field(
        0.01,
        description=(
            "eta: when a snapshot is beaten, its quality falls by eta / (N p), for N snapshots and its "
            "probability p"
        ),
    )


class PfspConfig(Section):
    """Prioritised fictitious self-play (AlphaStar): snapshots weighted by the member's score against them."""

    name: Literal["pfsp"] = "pfsp"
    self_share: Fraction = Field(
        0.0,
        description=(
            "share of episodes against the member's own present weights; the others are against "
            "snapshots by weight"
        ),
    )
    weighting: Literal["hard", "var", "linear", "linear_capped"] = Field(
        "hard",
        description=(
            "weight of a snapshot that the member beats with score x: hard: (1-x)^power; var: x(1-x); "
            "linear: 1-x; linear_capped: min(0.5, 1-x)"
        ),
    )
    power: PositiveFloat = Field(2.0, description="exponent of weighting: hard")


class PsroConfig(Section):
    """PSRO (arXiv 1711.00832): snapshots by the meta-strategy of the game between evaluated snapshots."""

    name: Literal["psro"] = "psro"
    self_share: Fraction = Field(
        0.0,
        description=(
            "share of episodes against the member's own present weights; the others are against "
            "snapshots by the meta-strategy"
        ),
    )
    meta_strategy: MetaStrategyName = Field(
        "nash",
        description=("solution concept of the game between snapshots; nash needs scipy (the extra league)"),
    )
    prior_games: PositiveFloat = Field(
        1.0, description="drawn games added to every pair, so that a pair without games counts as even"
    )
    refresh_games: PositiveInt = Field(
        100,
        description=(
            "evaluated games between solutions of the game; it is also solved after every new snapshot"
        ),
    )
    replicator_time: PositiveFloat = Field(
        1000.0, description="duration of the replicator dynamics, in units of 1 / (range of the payoffs)"
    )
    alpha: PositiveFloat = Field(100.0, description="ranking intensity of alpha_rank")
    population: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        50, description="individuals in each population of alpha_rank"
    )


class PartnersConfig(Section):
    """Cooperative leagues: partners from the pool, so that members learn to play with unknown partners."""

    name: Literal["partners"] = "partners"
    self_share: Fraction = Field(
        0.0, description="share of episodes in which the member's own present weights play all seats"
    )
    pool: Literal["others", "all"] = Field(
        "others",
        description="snapshots of the other members (others), or also of the member's own past (all)",
    )


class FixedConfig(Section):
    """Newest snapshots of given members, always the same."""

    name: Literal["fixed"] = "fixed"
    self_share: Fraction = Field(
        0.0,
        description=(
            "share of episodes against the member's own present weights; the others are against the "
            "newest snapshots of the members in against"
        ),
    )
    against: tuple[str, ...] = Field(
        (), description="members whose newest snapshots are the opponents; default: all other members"
    )


class MatchmakerConfig(Section):
    """Base of the configuration of matchmakers outside hpcmarl."""

    name: str = ""
    self_share: Fraction = Field(
        0.0, description="largest share of episodes against the member's own present weights"
    )


_Own = LatestConfig | UniformConfig | QualityConfig | PfspConfig | PsroConfig | PartnersConfig | FixedConfig
MatchmakingConfig = Annotated[_Own, Choice("matchmakers", Annotated[_Own, Field(discriminator="name")])]


class LiveConfig(Section):
    """Record of a training member's games against each snapshot."""

    decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="factor on the weight of older games after each game against the same snapshot"
    )
    prior_games: NonNegative = Field(
        1.0,
        description=(
            "drawn games added to every record, so that a snapshot that was beaten once is met again"
        ),
    )


class FreezeConfig(Section):
    """Conditions under which a member is frozen: it beats all required opponents, or its term is over."""

    winning: Fraction = Field(
        0.7,
        description=("live score against every required opponent above which the member may be frozen early"),
    )
    least_updates: Natural = Field(
        100,
        description=(
            "updates since the last snapshot before which the member is never frozen, not even at the "
            "end of the run"
        ),
    )
    most_updates: PositiveInt = Field(
        200, description="updates since the last snapshot after which the member is always frozen"
    )


class MainConfig(Section):
    """AlphaStar's main agent: self-play, PFSP over the pool, exploiters and forgotten snapshots."""

    name: Literal["main"] = "main"
    freeze: FreezeConfig = section(FreezeConfig, "conditions under which the member is frozen")
    pfsp_share: Fraction = Field(0.5, description="share of episodes by PFSP (hard) over the whole pool")
    verification_share: Fraction = Field(
        0.15,
        description=(
            "share of episodes against exploiters that beat the member and forgotten snapshots of mains; "
            "the rest is self-play"
        ),
    )
    power: PositiveFloat = Field(2.0, description="exponent of PFSP (hard)")
    too_strong: Fraction = Field(
        0.3,
        description=(
            "live score up to which another main is too strong; its past is met instead, by PFSP (var)"
        ),
    )
    exploited: Fraction = Field(
        0.3, description="live score below which a snapshot of an exploiter must be met again"
    )
    forgotten: Fraction = Field(
        0.7, description="live score below which an old snapshot of a main counts as forgotten"
    )


class MainExploiterConfig(Section):
    """AlphaStar's main exploiter: trains against the present main agents."""

    name: Literal["main_exploiter"] = "main_exploiter"
    freeze: FreezeConfig = section(FreezeConfig, "conditions under which the member is frozen")
    reset: Fraction = Field(
        1.0, description="probability that the member starts again from initial weights after a snapshot"
    )
    too_strong: Fraction = Field(
        0.1,
        description=("live score up to which a main is too strong; its past is met instead, by PFSP (var)"),
    )


class LeagueExploiterConfig(Section):
    """AlphaStar's league exploiter: trains against the whole pool."""

    name: Literal["league_exploiter"] = "league_exploiter"
    freeze: FreezeConfig = section(FreezeConfig, "conditions under which the member is frozen")
    reset: Fraction = Field(
        0.25, description="probability that the member starts again from initial weights after a snapshot"
    )
    weighting: Literal["hard", "var", "linear", "linear_capped"] = Field(
        "linear_capped", description="weighting of its PFSP over the whole pool, as for matchmaking.weighting"
    )
    power: PositiveFloat = Field(2.0, description="exponent of weighting: hard")


MemberKindConfig = Annotated[
    MainConfig | MainExploiterConfig | LeagueExploiterConfig, Field(discriminator="name")
]


class StrategySection(Section):
    """Keys of all evaluation strategies."""

    games_per_pair: Count | None = Field(
        None, description="games after which a pair is not played any more; null: no limit"
    )


class RoundRobinConfig(StrategySection):
    """All pairs, the pair with the fewest games first."""

    name: Literal["round_robin"] = "round_robin"


class LatestPairsConfig(StrategySection):
    """Each snapshot against those that were the newest when it was frozen."""

    name: Literal["latest"] = "latest"
    opponents: Count = Field(
        10, description="K, number of older snapshots against which each snapshot is played"
    )


class PanelConfig(StrategySection):
    """Each snapshot against the same few snapshots."""

    name: Literal["panel"] = "panel"
    panel: tuple[Natural, ...] = Field(
        (0,),
        min_length=1,
        max_length=1000,
        description="numbers of the snapshots against which every snapshot is played",
    )


class AdaptiveConfig(StrategySection):
    """All pairs, the pair with the least certain mean score first."""

    name: Literal["adaptive"] = "adaptive"
    prior_games: PositiveFloat = Field(
        2.0, description="drawn games added to every pair for the width of its interval"
    )


EvaluationStrategyConfig = Annotated[
    RoundRobinConfig | LatestPairsConfig | PanelConfig | AdaptiveConfig, Field(discriminator="name")
]


def self_play_share(maker: MatchmakingConfig | MemberKindConfig) -> tuple[str, float]:
    """Return the largest share of episodes that a member plays against its own present weights.

    Args:
        maker: Matchmaker or kind of the member.

    Returns:
        The key of the section that sets the share, and the share, 0 to 1. Kinds without such a key have 0.
    """
    if isinstance(maker, MainConfig):
        return "pfsp_share", 1.0 - maker.pfsp_share
    return "self_share", getattr(maker, "self_share", 0.0)


def matchmaking_contradictions(
    key: str, config: MatchmakingConfig | MemberKindConfig, *, cooperative: bool
) -> list[str]:
    """Return one line for each mistake in the section of a matchmaker or kind: keys, reason and remedy.

    Args:
        key: Dotted key of the section.
        config: The section.
        cooperative: Whether the league is cooperative.
    """
    found = []
    if cooperative and config.name == "psro":
        found.append(
            f"{key}.name: psro does not work with league.cooperative: true, because it needs opponents; use "
            f"{key}.name: partners"
        )
    if not cooperative and config.name == "partners":
        found.append(
            f"{key}.name: partners needs league.cooperative: true; use {key}.name: uniform for random "
            "opponents"
        )
    if isinstance(config, MainConfig) and config.pfsp_share + config.verification_share > 1:
        found.append(
            f"{key}.pfsp_share: {config.pfsp_share:g} and {key}.verification_share: "
            f"{config.verification_share:g} have a sum above 1; lower one of them"
        )
    if (
        isinstance(config, MainConfig | MainExploiterConfig | LeagueExploiterConfig)
        and config.freeze.least_updates > config.freeze.most_updates
    ):
        found.append(
            f"{key}.freeze.least_updates: {config.freeze.least_updates} is more than "
            f"{key}.freeze.most_updates: {config.freeze.most_updates}; lower {key}.freeze.least_updates"
        )
    return found
