"""Sides of a league's game and the members that play them.

They follow from the configuration and the environment's specification.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpcmarl.config import Config
from hpcmarl.config.members import LeagueConfig, MemberConfig
from hpcmarl.errors import ConfigError
from hpcmarl.league.runtime.opponent_env import Score, Sides, side_of
from hpcmarl.types import EnvironmentSpec


@dataclass(frozen=True)
class GameSides:
    """Sides of a game and members of a league.

    Attributes:
        sides: Policies of each side. There is one side if one policy can play all agents, otherwise two.
        members: Settings of each member.
        side: Side of each member.
        own_seats: Number of agents that a member plays if one policy plays all agents.
    """

    sides: dict[str, tuple[str, ...]]
    members: dict[str, MemberConfig]
    side: dict[str, str]
    own_seats: int

    def from_side(self, side: str) -> Sides:
        """Return the two sides as the given side sees them."""
        other = next((policies for name, policies in self.sides.items() if name != side), self.sides[side])
        return Sides(self.sides[side], other, self.own_seats)

    def meets(self, side: str) -> str:
        """Return the side that the given side plays against; with one side, the same."""
        return next((name for name in self.sides if name != side), side)


def game_of(config: Config, spec: EnvironmentSpec) -> GameSides:
    """Return the sides and members of a league.

    Raises:
        ConfigError: If the game does not have one or two sides, a side has no member, a member has no side,
            or `own_seats` or the number of groups does not fit.
    """
    league = config.league
    assert league is not None
    policies = {policy.name: policy for policy in spec.policies}
    sides = _sides(league, spec)
    if len(sides) == 1:
        (names,) = sides.values()
        seats = len(policies[names[0]].agents)
        if len(names) > 1 or seats < 2:
            raise ConfigError(
                f"league: {spec.id} has one agent; a league needs two or more agents that play with or "
                "against each other"
            )
        if not league.own_seats < seats:
            raise ConfigError(
                f"league.own_seats: {league.own_seats} of {seats} agents of {spec.id} leaves no seat for "
                f"opponents; allowed: 1 to {seats - 1}"
            )
    elif league.own_seats != 1:
        raise ConfigError(
            f"league.own_seats: {league.own_seats} requires a game in which one policy plays all agents, "
            f"but {spec.id} has sides {', '.join(sides)}; remove it"
        )
    members = league.member_list or {name: MemberConfig(side=name) for name in sides}
    side = {name: _side_of(name, member, sides, spec) for name, member in members.items()}
    for name in sides:
        if name not in side.values():
            raise ConfigError(
                f"league.members: no member plays side {name} of {spec.id}; give a member `side: {name}`, or "
                "remove league.members"
            )
    groups, training = len(config.topology.group_list), sum(member.trains for member in members.values())
    if groups > training:
        raise ConfigError(
            f"topology.groups: {groups} learners for {training} members that train; each has one learner "
            f"at a time; allowed: at most {training} learners"
        )
    return GameSides(sides, members, side, league.own_seats)


def _sides(league: LeagueConfig, spec: EnvironmentSpec) -> dict[str, tuple[str, ...]]:
    names = [policy.name for policy in spec.policies]
    sides = dict(league.sides) or {name: (name,) for name in names}
    given = [name for policies in sides.values() for name in policies]
    if unknown := [name for name in given if name not in names]:
        raise ConfigError(f"league.sides: {spec.id} has no policy {unknown[0]}; allowed: {', '.join(names)}")
    if sorted(given) != sorted(names):
        odd = next(name for name in names if given.count(name) != 1)
        raise ConfigError(
            f"league.sides: policy {odd} of {spec.id} is on {given.count(odd)} sides; each must be on one"
        )
    if len(sides) > 2:
        raise ConfigError(
            f"league: {spec.id} has the policies {', '.join(names)}; put them on two sides, league.sides: "
            "{NAME: [POLICY, ...], ...}"
        )
    return sides


def _side_of(
    name: str, member: MemberConfig, sides: dict[str, tuple[str, ...]], spec: EnvironmentSpec
) -> str:
    if member.side is None and len(sides) == 1:
        return next(iter(sides))
    if member.side not in sides:
        raise ConfigError(
            f"league.members.{name}.side is {member.side}; allowed: {', '.join(sides)}, the sides of "
            f"{spec.id}"
        )
    return member.side


def specs_of_sides(config: Config, spec: EnvironmentSpec) -> list[EnvironmentSpec]:
    """Return the specification of each side of a league; empty without a league.

    Raises:
        ConfigError: As in `game_of`.
    """
    if config.league is None:
        return []
    return [side_of(spec, policies) for policies in game_of(config, spec).sides.values()]


def score_of(league: LeagueConfig) -> Score:
    """Return the function that scores an episode for a side, from its own and the other side's return."""
    if league.score == "win":
        return lambda own, other: 0.5 if own == other else float(own > other)
    assert league.return_range is not None
    worst, best = league.return_range
    return lambda own, other: min(1.0, max(0.0, (own - worst) / (best - worst)))
