"""Checks of the section `league` against the other sections of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from hpcmarl.config.algo_checks import common_reward_text
from hpcmarl.config.environment import PolicyConfig
from hpcmarl.config.league import (
    MatchmakingConfig,
    MemberKindConfig,
    matchmaking_contradictions,
    self_play_share,
)
from hpcmarl.config.members import LeagueConfig
from hpcmarl.config.rounds import RoundsConfig
from hpcmarl.config.run import StopConfig
from hpcmarl.config.topology import TopologyConfig


class LeagueRun(Protocol):
    """Sections of a run's configuration that a league depends on."""

    @property
    def league(self) -> LeagueConfig | None: ...
    @property
    def topology(self) -> TopologyConfig: ...
    @property
    def rounds(self) -> RoundsConfig: ...
    @property
    def algo(self) -> Any: ...
    @property
    def policies(self) -> Mapping[str, PolicyConfig]: ...
    @property
    def stop(self) -> StopConfig: ...
    @property
    def deterministic(self) -> bool: ...


def league_contradictions(run: LeagueRun) -> list[str]:
    """Return one line for each choice that a league excludes: keys, reason and remedy."""
    league = run.league
    if league is None and run.topology.evaluators:
        return [
            (
                f"topology.evaluators: {run.topology.evaluators} needs a section league, whose matches these "
                "ranks play; set topology.evaluators: 0"
            )
        ]
    if league is None:
        return []
    found = []
    if league.score == "return" and (
        league.return_range is None or not league.return_range[0] < league.return_range[1]
    ):
        shown = "null" if league.return_range is None else list(league.return_range)
        found.append(
            f"league.return_range is {shown}; league.score: return needs the worst and the best return; set "
            "league.return_range: [worst, best]"
        )
    if league.cooperative and league.score == "win":
        found.append(
            "league.cooperative: true does not work with league.score: win, because no side wins; set "
            "league.score: return and league.return_range: [worst, best]"
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
                f"{key}.name: psro needs evaluated games of all pairs, and league.evaluation.strategy.name: "
                f"{strategy} leaves pairs out; use round_robin or adaptive"
            )
    found += _excluded_by_league(run)
    shared = league.own_seats > 1 or (
        len(run.policies) == 1 and any("*" in policy.agents for policy in run.policies.values())
    )
    # REINFORCE has no common reward in turn-based games, which only the environment can report.
    if shared and run.algo.name != "reinforce":
        found += self_play_contradictions(run)
    return found + _without_training(run, league)


def _excluded_by_league(run: LeagueRun) -> list[str]:
    """Return one line for each key of ordinary runs that leagues do not support."""
    found = []
    if run.rounds.collective:
        found.append(
            f"rounds.reduce: {run.rounds.reduce} does not work with a league, in which every learner trains "
            "its own member; use rounds.reduce: server"
        )
    if run.deterministic:
        found.append(
            "deterministic: true does not work with a league, whose members advance at different speeds; set "
            "deterministic: false"
        )
    if run.topology.respawn:
        found.append(
            "topology.respawn: true does not work with a league, in which ranks without a learner play "
            "matches; set topology.respawn: false"
        )
    if run.stop.return_mean is not None:
        found.append(
            f"stop.return_mean: {run.stop.return_mean:g} does not work with a league, whose members have "
            "different returns; use stop.env_steps, stop.updates or stop.seconds"
        )
    changed = [index for index, group in enumerate(run.topology.group_list) if group.env]
    if changed:
        found.append(
            f"topology.groups.{changed[0]}.env does not work with a league, in which any group may train any "
            "member; remove env from all groups"
        )
    return found


def self_play_contradictions(run: LeagueRun, *, constant_sum: bool = False) -> list[str]:
    """Check that opponents do not learn from a common reward in self-play.

    In a league that is not cooperative, seats have opposed aims. In an episode of a member against itself the
    mean reward over all seats is no agent's aim; if rewards sum to zero, it is always 0. In episodes against
    others the mean is over the member's own seats only.

    Args:
        run: League in which one policy plays all seats.
        constant_sum: Whether the environment is known to be constant-sum. Then a common reward has no meaning
            in a cooperative league either.

    Returns:
        At most one line: key, reason and remedy.
    """
    league = run.league
    assert league is not None
    if run.algo.common_reward == "none" or (league.cooperative and not constant_sum):
        return []
    for key, maker in _makers_in_use(league).items():
        name, share = self_play_share(maker)
        if share > 0.0:
            common, remedy = common_reward_text(run.algo)
            why = "a constant-sum game" if constant_sum else "league.cooperative: false"
            return [
                f"{common} learns from the mean reward of all seats when a member plays itself "
                f"({key}.{name}); between opponents ({why}) this mean is no agent's aim, and 0 if the "
                f"rewards sum to zero; {remedy}"
            ]
    return []


def _makers_in_use(league: LeagueConfig) -> dict[str, MatchmakingConfig | MemberKindConfig]:
    """Return the matchmakers and kinds of the members that train, by the dotted key of their section."""
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


def _without_training(run: LeagueRun, league: LeagueConfig) -> list[str]:
    """Return one line for each untrained member without `start`, and one for surplus learners."""
    found = [
        (
            f"league.members.{name}: trains is false but start is not set; set league.members.{name}.start "
            "to a snapshot file"
        )
        for name, member in league.members.items()
        if not member.trains and member.start is None
    ]
    groups, members = len(run.topology.group_list), league.member_list.values()
    training = sum(member.trains for member in members)
    if members and not training:
        found.append(
            "league.members: trains is false for all members; set trains: true for one of them, or use "
            "hpcmarl league match for games without training"
        )
    elif members and groups > training:
        found.append(
            f"topology.groups: {groups} learners for {training} members that train, and a member has only "
            "one learner at a time; lower topology.groups, or add league.members"
        )
    return found
