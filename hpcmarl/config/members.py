"""The section `league`: who is trained, what an episode counts, how members are frozen and judged. What
matchmakers read: league.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hpcmarl.config.algo_checks import common_reward_words
from hpcmarl.config.base import Count, Fraction, NonNegative, PositiveInt, Section, section
from hpcmarl.config.league import (
    AdaptiveConfig,
    EvaluationStrategyConfig,
    FreezeConfig,
    LiveConfig,
    MatchmakingConfig,
    MemberKindConfig,
    PfspConfig,
    matchmaking_contradictions,
    self_play_share,
)

if TYPE_CHECKING:
    from hpcmarl.config.schema import Config

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=60)]
Share = Annotated[float, Field(ge=0, le=0.9)]


class TermConfig(FreezeConfig):
    """When a member without a kind is frozen."""

    winning: Fraction = Field(
        1.0, description="live score against all that it meets above which it is frozen early; 1: never"
    )


class MemberConfig(Section):
    """One member of the league, or several alike."""

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
    """Matches between frozen policies."""

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
    """Many policies that are trained apart and judged together."""

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
        """Every member by its own name, copies one by one."""
        named: dict[str, MemberConfig] = {}
        for name, member in self.members.items():
            names = [name] if member.copies == 1 else [f"{name}-{copy + 1}" for copy in range(member.copies)]
            named |= dict.fromkeys(names, member)
        return named


def league_contradictions(config: Config) -> list[str]:
    """What does not go with a league, each as one line that names the keys, why, and what to change."""
    league = config.league
    if league is None and config.topology.evaluators:
        return [
            (
                f"topology.evaluators: {config.topology.evaluators} ranks play a league's matches, and there "
                "is no section league; set it to 0"
            )
        ]
    if league is None:
        return []
    found = []
    if league.score == "return" and (
        league.return_range is None or not league.return_range[0] < league.return_range[1]
    ):
        found.append(
            f"league.return_range is {league.return_range}; league.score: return needs two returns, [worst, "
            "best]"
        )
    if league.cooperative and league.score == "win":
        found.append(
            "league.cooperative: true has no winner; set league.score: return and league.return_range: "
            "[worst, best]"
        )
    makers: dict[str, MatchmakingConfig | MemberKindConfig] = {"league.matchmaking": league.matchmaking}
    for name, member in league.members.items():
        if (own := member.kind or member.matchmaking) is not None:
            makers[f"league.members.{name}.{'matchmaking' if member.kind is None else 'kind'}"] = own
    for key, maker in makers.items():
        found += matchmaking_contradictions(key, maker, cooperative=league.cooperative)
        if maker.name == "psro" and (strategy := league.evaluation.strategy.name) not in (
            "round_robin",
            "adaptive",
        ):
            found.append(
                f"{key}.name: psro answers to all of the payoff, which league.evaluation.strategy.name: "
                f"{strategy} leaves open; use round_robin or adaptive"
            )
    found += _excluded_by_league(config)
    shared = league.own_seats > 1 or (
        len(config.policies) == 1 and any("*" in policy.agents for policy in config.policies.values())
    )
    # reinforce has no common reward in games of turns, as only the environment tells
    if shared and config.algo.name != "reinforce":
        found += self_play_contradictions(config)
    return found + _without_training(config, league)


def _excluded_by_league(config: Config) -> list[str]:
    """Report keys of ordinary runs that leagues do not have, one line each."""
    found = []
    if config.rounds.collective:
        found.append(
            f"rounds.reduce: {config.rounds.reduce} does not go with a league, where every learner trains "
            "its own member; use server"
        )
    if config.deterministic:
        found.append(
            "deterministic: true does not go with a league, whose members advance at their own speed; set it "
            "to false"
        )
    if config.topology.respawn:
        found.append(
            "topology.respawn: true does not go with a league, where ranks without a team play matches; set "
            "it to false"
        )
    if config.stop.return_mean is not None:
        found.append(
            "stop.return_mean does not go with a league, whose members have returns of their own; use "
            "stop.env_steps, updates or seconds"
        )
    if not isinstance(config.topology.groups, int) and any(group.env for group in config.topology.groups):
        found.append(
            "topology.groups with an env of their own do not go with a league, where any group may train any "
            "member; remove env there"
        )
    return found


def self_play_contradictions(config: Config, *, constant_sum: bool = False) -> list[str]:
    """What self-play makes senseless where one policy plays all seats: a common reward of opponents.

    A league that is not cooperative says that seats have opposed aims. In an episode of a member against
    itself the mean reward over all seats is then nobody's aim; where rewards sum to zero it is always 0.
    Against others the mean is over the member's own seats.

    Args:
        config: A league in which one policy plays all seats.
        constant_sum: Whether the environment is known to be constant-sum; then a cooperative league has no
            aim either.

    Returns:
        At most one line, which names the key and the remedy.
    """
    league = config.league
    assert league is not None
    if config.algo.common_reward == "none" or (league.cooperative and not constant_sum):
        return []
    for key, maker in _makers_in_use(league).items():
        name, share = self_play_share(maker)
        if share > 0.0:
            common, remedy = common_reward_words(config.algo)
            why = "a constant-sum game" if constant_sum else "league.cooperative: false"
            return [
                f"{common} learns from the mean reward of all seats where a member plays itself "
                f"({key}.{name}), and of opponents ({why}) that is nobody's aim, 0 where their rewards sum "
                f"to zero; {remedy}"
            ]
    return []


def _makers_in_use(league: LeagueConfig) -> dict[str, MatchmakingConfig | MemberKindConfig]:
    """What chooses the opponents of the members that train, by key."""
    if not league.members:
        return {"league.matchmaking": league.matchmaking}
    makers: dict[str, MatchmakingConfig | MemberKindConfig] = {}
    for name, member in league.members.items():
        if not member.trains:
            continue
        if member.kind is not None:
            makers[f"league.members.{name}.kind"] = member.kind
        elif member.matchmaking is not None:
            makers[f"league.members.{name}.matchmaking"] = member.matchmaking
        else:
            makers["league.matchmaking"] = league.matchmaking
    return makers


def _without_training(config: Config, league: LeagueConfig) -> list[str]:
    """About members that do not train, and teams that would have none to train."""
    found = [
        (
            f"league.members.{name}.trains: false needs league.members.{name}.start, a snapshot's file: what "
            "does not train would stay random weights"
        )
        for name, member in league.members.items()
        if not member.trains and member.start is None
    ]
    groups, members = len(config.topology.group_list), league.member_list.values()
    training = sum(member.trains for member in members)
    if members and not training:
        found.append(
            "league.members: all of them have trains: false, so there is nothing to train; let one train, or "
            "use hpcmarl league match"
        )
    elif members and groups > training:
        found.append(
            f"topology.groups: {groups} learners for {training} members that train, and only one can train a "
            "member at a time; lower it, or add league.members"
        )
    return found
