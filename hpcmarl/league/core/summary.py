"""A league in plain values, for people and for JSON: members, snapshots, payoffs, ratings, and whom each
member trained against.

Called by `hpcmarl league show` and by what draws and exports leagues. Knows the book; no file, network or
terminal. None stands for what is not known, and `reasons` says why where a whole part is missing. Lists and
matrices follow the order of `snapshots`, the order of their making.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.errors import MissingPackageError
from hpcmarl.league.core.psro import ALPHA_RANK_STATES
from hpcmarl.league.core.ratings import SkillRatings
from hpcmarl.league.core.state import LeagueState, Member
from hpcmarl.maths.meta_strategies import Mixtures, alpha_rank, nash
from hpcmarl.maths.ratings import elo
from hpcmarl.types import Array

Result = dict[str, Any]
Z = 1.96  # deviations to each side in an interval of 95 %
PRIOR_GAMES = (
    1.0  # drawn games added to each pair before a mixture is solved for, as the matchmaker psro does
)
MOST_NASH = 500  # snapshots of a side whose equilibrium is solved for: up to 9 s here, with payoffs at random
MOST_RATED_GAMES = 20_000  # games that are told to openskill one by one, some 0.2 ms each


class UnknownError(Exception):
    """A part that cannot be had, and why; never leaves this module."""


def summarise(league_state: LeagueState) -> Result:
    """See the module's docstring; units are in the keys or in docs/league.md."""
    reasons: dict[str, str] = {}
    means = mean_against_all(league_state)
    ratings = _part(reasons, "ratings", lambda: _ratings(league_state, means))
    mixtures = {
        "nash": _part(
            reasons, "nash", lambda: _spread(league_state, _side_mixtures(league_state, nash, MOST_NASH))
        ),
        "alpha_rank": _part(reasons, "alpha_rank", lambda: _spread(league_state, _alpha_rank(league_state))),
    }
    return {
        "sides": list(league_state.sides),
        "cooperative": league_state.config.cooperative,
        "score": league_state.config.score,
        "matches": league_state.matches,
        "evaluation_games": league_state.payoff.recorded,
        "members": [_member(league_state, member, ratings, means) for member in league_state.members],
        "snapshots": [_snapshot(league_state, number) for number in range(len(league_state.snapshots))],
        "ratings": ratings,
        "payoff": known_cells(league_state.payoff.games(), league_state.payoff.mean_score()),
        "games": league_state.payoff.games().tolist(),
        "mean_return": known_cells(league_state.payoff.games(), league_state.payoff.mean_return()),
        **mixtures,
        "openskill": _part(reasons, "openskill", lambda: _openskill(league_state)),
        "trained_against": {member.name: _met(league_state, member) for member in league_state.members},
        "reasons": reasons,
    }


def _part(reasons: dict[str, str], name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except (UnknownError, MissingPackageError) as error:
        reasons[name] = str(error)
        return None


def known_cells(games: Array, values: Array) -> list[list[float | None]]:
    """Rows of a table [N, N], None where no game was played."""
    return [
        [value if count else None for value, count in zip(row, counts, strict=True)]
        for row, counts in zip(values.tolist(), games.tolist(), strict=True)
    ]


def _snapshot(league_state: LeagueState, number: int) -> Result:
    snapshot = league_state.snapshots[number]
    met = [
        {"snapshot": league_state.snapshots[other].name, "games": games}
        for other, games in snapshot.met.tolist()
    ]
    return {
        "name": snapshot.name,
        "member": league_state.members[snapshot.member].name,
        "side": snapshot.side,
        "term": snapshot.term,
        "updates": snapshot.updates,
        "env_steps": snapshot.env_steps,
        "seconds": snapshot.seconds,
        "generation": snapshot.generation,
        "bad": snapshot.bad,
        "met_most": met,
    }


def _member(
    league_state: LeagueState, member: Member, ratings: list[Result] | None, means: list[float | None]
) -> Result:
    newest = league_state.newest(member)
    number = None if newest is None else league_state.numbers[newest.name]
    rated = {} if ratings is None or number is None else ratings[number]
    maker = member.config.matchmaking or league_state.config.matchmaking
    chooses = member.config.trains and member.config.kind is None
    return {
        "name": member.name,
        "side": member.side,
        "kind": None if member.config.kind is None else member.config.kind.name,
        "matchmaking": maker.name if chooses else None,
        "trains": member.config.trains,
        "newest": None if newest is None else newest.name,
        "snapshots": sum(snapshot.member == member.index for snapshot in league_state.snapshots),
        "generations": member.generation,
        "updates": member.updates,
        "env_steps": member.all_env_steps,
        **{name: rated.get(name) for name in ("rating_elo", "rating_elo_low", "rating_elo_high")},
        "mean_score": None if number is None else means[number],
        "games": 0 if number is None else int(league_state.payoff.games([number]).sum()),
        "training_games": sum(member.against.values()),
    }


def mean_against_all(league_state: LeagueState) -> list[float | None]:
    """Each snapshot's mean score over those that it has met in matches (itself left out), each of them
    weighing the same.
    """
    games, score = league_state.payoff.games().copy(), league_state.payoff.mean_score()
    np.fill_diagonal(games, 0)
    met = games > 0
    count = met.sum(1)
    total = np.where(met, score, 0.0).sum(1)
    return [
        value / number if number else None
        for value, number in zip(total.tolist(), count.tolist(), strict=True)
    ]


def _ratings(league_state: LeagueState, means: list[float | None]) -> list[Result]:
    """Elo of each snapshot by a Bradley-Terry fit of all games (maths/ratings.py)."""
    if league_state.config.cooperative:
        raise UnknownError("players of a cooperative game do not beat each other; see payoff")
    names = [snapshot.name for snapshot in league_state.snapshots]
    rows = [
        {"snapshot": name, **rated}
        for name, rated in zip(
            names, rating_rows(league_state.payoff.games(), league_state.payoff.score()), strict=True
        )
    ]
    for row, mean in zip(rows, means, strict=True):
        row["mean_score"] = mean
    return rows


def sides_met(league_state: LeagueState) -> tuple[Array, Array]:
    """The good snapshots of the first side, and of the side that it meets (the same ones where there is one
    side). Rows and columns.
    """
    return league_state.side_numbers(league_state.sides[0]), league_state.side_numbers(league_state.sides[-1])


def _side_mixtures(league_state: LeagueState, solve: Callable[[Array], Mixtures], most: int) -> Mixtures:
    rows, columns = sides_met(league_state)
    if league_state.config.cooperative:
        raise UnknownError("a cooperative game has no opponents to mix against")
    if not len(rows) or not len(columns):
        raise UnknownError("a side has no snapshot")
    if max(len(rows), len(columns)) > most:
        raise UnknownError(f"{max(len(rows), len(columns))} snapshots on a side; solved for up to {most}")
    return solve(league_state.payoff.mean_score(rows, columns, prior_games=PRIOR_GAMES))


def _alpha_rank(league_state: LeagueState) -> Mixtures:
    rows, columns = sides_met(league_state)
    symmetric = len(league_state.sides) == 1
    states = len(rows) if symmetric else len(rows) * len(columns)
    if states > ALPHA_RANK_STATES:
        raise UnknownError(f"{states} states; solved for up to {ALPHA_RANK_STATES}")
    return _side_mixtures(league_state, lambda payoff: alpha_rank(payoff, symmetric=symmetric), states)


def _spread(league_state: LeagueState, mixtures: Mixtures) -> list[float]:
    """One share for each snapshot; those of a side add up to 1, bad ones have none."""
    shares = np.zeros(len(league_state.snapshots))
    for numbers, mixture in zip(sides_met(league_state), mixtures, strict=True):
        shares[numbers] = mixture
    return shares.tolist()


def _openskill(league_state: LeagueState) -> list[Result]:
    """Weng and Lin's ratings, the pairs told in the order of the snapshots."""
    if league_state.config.cooperative:
        raise UnknownError("players of a cooperative game do not beat each other; see payoff")
    if league_state.payoff.recorded > MOST_RATED_GAMES:
        raise UnknownError(
            f"{league_state.payoff.recorded} games; told one by one for up to {MOST_RATED_GAMES}"
        )
    skill = SkillRatings()
    skill.grow(len(league_state.snapshots))
    games, score = league_state.payoff.games(), league_state.payoff.score()
    for row, column in np.argwhere(np.triu(games, 1)).tolist():
        skill.record_sum(row, column, int(games[row, column]), float(score[row, column]))
    columns = zip(
        league_state.snapshots,
        skill.mean.tolist(),
        skill.deviation.tolist(),
        skill.ordinal().tolist(),
        strict=True,
    )
    return [
        {"snapshot": each.name, "mean": mean, "deviation": deviation, "ordinal": ordinal}
        for each, mean, deviation, ordinal in columns
    ]


def _met(league_state: LeagueState, member: Member) -> list[Result]:
    """Whom it trained against, most games first; live_score: what it scores against them of late, with the
    league's prior.
    """
    numbers = np.array(sorted(member.against, key=lambda number: (-member.against[number], number)), np.int64)
    scores = member.live.mean_score(numbers).tolist()
    return [
        {
            "snapshot": league_state.snapshots[number].name,
            "games": member.against[number],
            "live_score": score,
        }
        for number, score in zip(numbers.tolist(), scores, strict=True)
    ]


def rating_rows(games: Array, score: Array) -> list[Result]:
    """Elo points with intervals of 95 % of players [N] by their games and summed scores [N, N]; None where
    one has played nobody.
    """
    fitted = elo(games, score)
    rows = []
    for rating, error, count in zip(
        fitted.rating.tolist(), fitted.error.tolist(), (games.sum(1) - games.diagonal()).tolist(), strict=True
    ):
        low, high = rating - Z * error, rating + Z * error
        known = {"rating_elo": rating, "rating_elo_low": low, "rating_elo_high": high}
        rows.append({**(known if count else dict.fromkeys(known)), "games": int(count)})
    return rows
