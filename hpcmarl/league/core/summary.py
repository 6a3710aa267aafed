"""Summary of a league in plain values: members, snapshots, payoffs, ratings and opponents in training.

The values can be shown, drawn or written as JSON. None stands for an unknown value. If a whole part is
missing, `reasons` says why. Lists and matrices follow the order of `snapshots`, in which they were made.
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
# Standard errors on each side of a 95 % interval.
Z = 1.96
# Drawn games added to each pair before a mixture is computed, as by the matchmaker psro.
PRIOR_GAMES = 1.0
# Most snapshots of a side for which an equilibrium is computed. It takes up to 9 s with random payoffs.
MOST_NASH = 500
# Most games that are passed to openskill, one by one; each takes about 0.2 ms.
MOST_RATED_GAMES = 20_000


class UnknownError(Exception):
    """Signal, with its reason, that a part cannot be computed. Never raised to callers of this module."""


def summarise(league_state: LeagueState) -> Result:
    """Return the summary of a league. Units are in the keys or in docs/league.md."""
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
    """Return the rows of a table of values, with None for pairs without games.

    Args:
        games: Number of games, shape [N, N].
        values: Values, shape [N, N].
    """
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
    """Return each snapshot's mean score over the other snapshots that it met in matches.

    Each of these snapshots has the same weight. The result is None for a snapshot without matches.
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
    """Return Elo ratings of all snapshots, by a Bradley-Terry fit of all games (maths/ratings.py)."""
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
    """Return the numbers of the snapshots in rows and columns of the game between sides.

    Rows are the first side, columns the side that it meets. With one side, both are the same. Snapshots in
    quarantine are left out.
    """
    return league_state.side_numbers(league_state.sides[0]), league_state.side_numbers(league_state.sides[-1])


def _side_mixtures(league_state: LeagueState, solve: Callable[[Array], Mixtures], most: int) -> Mixtures:
    rows, columns = sides_met(league_state)
    if league_state.config.cooperative:
        raise UnknownError("a cooperative game has no opponents, so there is no equilibrium of opponents")
    if not len(rows) or not len(columns):
        raise UnknownError("a side has no snapshot")
    if max(len(rows), len(columns)) > most:
        raise UnknownError(f"{max(len(rows), len(columns))} snapshots on a side; the limit is {most}")
    return solve(league_state.payoff.mean_score(rows, columns, prior_games=PRIOR_GAMES))


def _alpha_rank(league_state: LeagueState) -> Mixtures:
    rows, columns = sides_met(league_state)
    symmetric = len(league_state.sides) == 1
    states = len(rows) if symmetric else len(rows) * len(columns)
    if states > ALPHA_RANK_STATES:
        raise UnknownError(f"{states} states; the limit is {ALPHA_RANK_STATES}")
    return _side_mixtures(league_state, lambda payoff: alpha_rank(payoff, symmetric=symmetric), states)


def _spread(league_state: LeagueState, mixtures: Mixtures) -> list[float]:
    """Return one share for each snapshot. Shares of a side sum to 1; snapshots in quarantine have share 0."""
    shares = np.zeros(len(league_state.snapshots))
    for numbers, mixture in zip(sides_met(league_state), mixtures, strict=True):
        shares[numbers] = mixture
    return shares.tolist()


def _openskill(league_state: LeagueState) -> list[Result]:
    """Return Weng and Lin's ratings, with the pairs in the order of the snapshots."""
    if league_state.config.cooperative:
        raise UnknownError("players of a cooperative game do not beat each other; see payoff")
    if league_state.payoff.recorded > MOST_RATED_GAMES:
        raise UnknownError(
            f"{league_state.payoff.recorded} games, rated one by one; the limit is {MOST_RATED_GAMES}"
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
    """Return the snapshots that a member trained against, those with the most games first.

    `live_score` is the member's recent mean score against the snapshot, with the league's prior games.
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
    """Return Elo ratings of players with 95 % intervals; None for players without games against others.

    Args:
        games: Number of games of each pair, shape [N, N].
        score: Summed scores of the rows, shape [N, N].

    Returns:
        For each player: rating_elo, rating_elo_low and rating_elo_high in Elo points, and games.
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
