"""The section `league`: members, scores, freezing and evaluation.

league.py has the sections of matchmakers, member kinds and evaluation strategies.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import Count, Fraction, NonNegative, PositiveInt, Section, section
from hpcmarl.config.league import (
    AdaptiveConfig,
    EvaluationStrategyConfig,
    FreezeConfig,
    LiveConfig,
    MatchmakingConfig,
    MemberKindConfig,
    PfspConfig,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)]
Share = Annotated[float, Field(ge=0, le=0.9)]


class TermConfig(FreezeConfig):
    """Conditions under which a member without a kind is frozen."""

    winning: Fraction = Field(
        1.0,
        description=("live score against every opponent above which the member is frozen early; 1: never"),
    )


class MemberConfig(Section):
    """One member of the league, or several with the same settings."""

    side: Name | None = Field(
        None,
        description=("side that the member plays in a game of two sides: a key of league.sides, or a policy"),
    )
    copies: Count = Field(
        1, description="number of members with these settings, named NAME-1, NAME-2 and so on"
    )
    kind: MemberKindConfig | None = Field(
        None,
        description=(
            "role of AlphaStar, which chooses opponents and resets; null: matchmaking chooses opponents"
        ),
    )
    matchmaking: MatchmakingConfig | None = Field(
        None, description="choice of the member's opponents; null: league.matchmaking"
    )
    start: str | None = Field(
        None,
        description=(
            "snapshot file with the initial weights, also after a reset (hpcmarl league transfer writes "
            "one); null: random weights"
        ),
    )
    trains: bool = Field(
        True,
        description=(
            "whether the member trains; false: it keeps the weights of start, is an opponent of others "
            "and is evaluated"
        ),
    )


class LeagueEvaluationConfig(Section):
    """Matches between snapshots."""

    strategy: EvaluationStrategyConfig = section(
        AdaptiveConfig, "choice of the pairs of snapshots to compare"
    )
    share: Share = Field(
        0.1,
        description=(
            "share of an actor's time for matches while its learner trains; ranks without a learner play "
            "matches only"
        ),
    )
    episodes: Count = Field(32, description="episodes of a match")
    environments: Count = Field(16, description="environment slots that a match steps together")
    greedy: bool = Field(
        False,
        description=(
            "let snapshots take their most probable action instead of sampling, in matches and as opponents"
        ),
    )
    final_seconds: NonNegative = Field(
        20.0, description="longest time at the end of the run in which all ranks play matches, in seconds"
    )


class LeagueConfig(Section):
    """League: several policies that train against snapshots of each other and are evaluated together."""

    members: dict[Name, MemberConfig] = Field({}, description="members by name; default: one for each side")
    sides: dict[Name, tuple[Name, ...]] = Field(
        {}, description="policies of each side, if the game has more than two policies"
    )
    cooperative: bool = Field(
        False,
        description=("whether all members have the same aim, so that the score of an episode counts for all"),
    )
    score: Literal["win", "return"] = Field(
        "win",
        description=(
            "score of an episode: 1, 0.5 or 0 if the own side's return is above, equal to or below the "
            "other's (win), or the own return, scaled by return_range (return)"
        ),
    )
    return_range: tuple[float, float] | None = Field(
        None, description="returns that score 0 and 1 with score: return; returns outside are clipped"
    )
    own_seats: Count = Field(
        1,
        description=(
            "number of agents that the member plays in each episode, if one policy can play all agents"
        ),
    )
    matchmaking: MatchmakingConfig = section(PfspConfig, "choice of opponents")
    freeze: TermConfig = section(TermConfig, "conditions under which members without a kind are frozen")
    fresh: bool = Field(
        False,
        description=(
            "start every term of a member from new weights, so that each snapshot is an independent best "
            "response"
        ),
    )
    live: LiveConfig = section(LiveConfig, "records of training members against snapshots")
    evaluation: LeagueEvaluationConfig = section(LeagueEvaluationConfig, "matches between snapshots")
    pool_memory: Count = Field(32, description="number of snapshots that each rank keeps in memory")
    opponents_at_once: Count = Field(4, description="number of different opponents in the slots of an actor")
    episodes_per_draw: PositiveInt = Field(
        4, description="number of episodes that a drawn opponent plays before the next draw"
    )

    @property
    def member_list(self) -> dict[str, MemberConfig]:
        """Every member by name, with an entry for each copy."""
        named: dict[str, MemberConfig] = {}
        for name, member in self.members.items():
            names = [name] if member.copies == 1 else [f"{name}-{copy + 1}" for copy in range(member.copies)]
            named |= dict.fromkeys(names, member)
        return named
