"""The section `league`: members, scores, freezing and evaluation.

league.py has the sections of matchmakers, member kinds and evaluation strategies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

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

if TYPE_CHECKING:
    pass

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)]
Share = Annotated[float, Field(ge=0, le=0.9)]


class TermConfig(FreezeConfig):
    """Conditions under which a member without a kind is frozen."""

    winning: Fraction = Field(
        1.0, description="live score against all that it meets above which it is frozen early; 1: never"
    )


class MemberConfig(Section):
    """One member of the league, or several with the same settings."""

    side: Name | None = Field(
        None, description="what it plays, where a game has two sides: a key of league.sides, or a policy"
    )
    copies: Count = Field(1, description="so many members with these settings, NAME-1, NAME-2 and so on")
    kind: MemberKindConfig | None = Field(
        None,
        description=(
            "one of AlphaStar's roles, which chooses opponents and resets by itself; default: matchmaking"
        ),
    )
    matchmaking: MatchmakingConfig | None = Field(
        None, description="whom it trains against; default: league.matchmaking"
    )
    start: str | None = Field(
        None,
        description=(
            "file of a snapshot that it begins as, and goes back to when it is reset (hpcmarl league "
            "carry); default: random weights"
        ),
    )
    trains: bool = Field(
        True,
        description="false: it stays what it starts as, is met and judged, and never trained; needs start",
    )


class LeagueEvaluationConfig(Section):
    """Matches between snapshots."""

    strategy: EvaluationStrategyConfig = section(AdaptiveConfig)
    share: Share = Field(
        0.1,
        description="of an actor's time, while its team trains; ranks without a team have nothing else to do",
    )
    episodes: Count = Field(32, description="episodes of a match")
    environments: Count = Field(16, description="environment slots stepped together in a match")
    greedy: bool = Field(
        False,
        description=(
            "frozen policies take their most probable action instead of sampling, in matches and as opponents"
        ),
    )
    final_seconds: NonNegative = Field(
        20.0, description="at the end of the run all ranks play matches for so long at most"
    )


class LeagueConfig(Section):
    """League: several policies that train against snapshots of each other and are evaluated together."""

    members: dict[Name, MemberConfig] = Field({}, description="by name; default: one for each side")
    sides: dict[Name, tuple[Name, ...]] = Field(
        {}, description="policies by side, where the game has more than two policies"
    )
    cooperative: bool = Field(
        False, description="all have the same aim: the score of an episode is everybody's"
    )
    score: Literal["win", "return"] = Field(
        "win",
        description=(
            "what an episode counts: 1, 0.5 or 0 as the own side's return is above, equal to or "
            "below the other's; or that return, scaled"
        ),
    )
    return_range: tuple[float, float] | None = Field(
        None, description="returns that count 0 and 1 with score: return; what lies outside counts as these"
    )
    own_seats: Count = Field(
        1, description="agents that the member plays in each episode where one policy can play all"
    )
    matchmaking: MatchmakingConfig = section(PfspConfig)
    freeze: TermConfig = section(TermConfig)
    fresh: bool = Field(
        False,
        description=(
            "a member begins each term with new weights: a best response that owes nothing to the last one"
        ),
    )
    live: LiveConfig = section(LiveConfig)
    evaluation: LeagueEvaluationConfig = section(LeagueEvaluationConfig)
    pool_memory: Count = Field(32, description="snapshots that each rank keeps in memory")
    opponents_at_once: Count = Field(4, description="different opponents in the slots of an actor")
    episodes_per_draw: PositiveInt = Field(
        4, description="episodes that an opponent serves once it was drawn"
    )

    @property
    def member_list(self) -> dict[str, MemberConfig]:
        """Every member by name, with an entry for each copy."""
        named: dict[str, MemberConfig] = {}
        for name, member in self.members.items():
            names = [name] if member.copies == 1 else [f"{name}-{copy + 1}" for copy in range(member.copies)]
            named |= dict.fromkeys(names, member)
        return named
