"""`hpcmarl league tournament`: matches between all pairs of players, and ratings on one scale.

Players may come from several leagues. All matches are played in this process. Ratings within a league are
relative to its own pool, but those of a tournament compare all entrants.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from hpcmarl.errors import UsageError
from hpcmarl.league.commands.match import Result, can_meet, enter, meet
from hpcmarl.league.commands.reader import LeagueRun
from hpcmarl.league.core.summary import known_cells, rating_rows


class Tournament:
    """A tournament. Pass each of `pairs` to `play`, then call `result`.

    Args:
        league: The league.
        names: Names of the players; see `enter`.
        episodes: Episodes of each match; None: the league's setting.
        greedy: Whether players take their most probable actions; None: the league's setting.
        seed: Seed of each match; None: eval.seed.

    Attributes:
        pairs: Pairs of the entrants' numbers whose sides meet.

    Raises:
        UsageError: If a name is unknown or given twice, there are fewer than two players, or no two of them
            can meet.
        ConfigError: If a player's league has another game.
        FormatError: If a file does not verify.
    """

    def __init__(
        self,
        league: LeagueRun,
        names: Sequence[str],
        episodes: int | None,
        greedy: bool | None,
        seed: int | None,
    ) -> None:
        self.league, self.settings = league, (episodes, greedy, seed)
        self.entrants = [enter(league, name) for name in names]
        self.names = [entrant.name for entrant in self.entrants]
        if len(self.names) < 2:
            raise UsageError(f"a tournament needs two or more players; given: {', '.join(names) or 'none'}")
        if twice := [entrant.given for entrant in self.entrants if self.names.count(entrant.name) > 1]:
            raise UsageError(f"{' and '.join(twice)} are the same player; name each once")
        numbered = combinations(range(len(self.names)), 2)
        self.pairs = [
            (row, column)
            for row, column in numbered
            if can_meet(league, self.entrants[row], self.entrants[column])
        ]
        if not self.pairs:
            raise UsageError(
                f"all of {', '.join(names)} play side {self.entrants[0].side} of {league.spec.id}; name "
                "players of both sides"
            )
        size = (len(self.names), len(self.names))
        self.conditions: Result = {}  # episodes, greedy and seed of the matches
        self.games, self.score, self.returns = np.zeros(size, np.int64), np.zeros(size), np.zeros(size)

    def play(self, row: int, column: int) -> None:
        """Play the match of one pair."""
        figures = meet(self.league, self.entrants[row], self.entrants[column], *self.settings).figures()
        self.conditions = {name: figures[name] for name in ("episodes", "greedy", "seed")}
        cooperative = self.league.config.league is not None and self.league.config.league.cooperative
        won = figures["score"] * figures["episodes"]
        self.games[row, column] = self.games[column, row] = figures["episodes"]
        self.score[row, column], self.score[column, row] = (
            won,
            won if cooperative else figures["episodes"] - won,
        )
        self.returns[row, column], self.returns[column, row] = (
            figures["row_return_mean"],
            figures["column_return_mean"],
        )

    def result(self) -> Result:
        """Return the results of the matches that were played.

        Returns:
            env, episodes, greedy and seed. entrants: a list of rows with entrant, side, mean_score, games and
            rating_elo with its 95 % interval rating_elo_low to rating_elo_high. mean_score gives all met
            players the same weight. Ratings are None in a cooperative game. score, mean_return, games:
            matrices of rows against columns, None for pairs that did not meet.
        """
        league = self.league.config.league
        assert league is not None
        met = self.games > 0
        score = np.divide(self.score, self.games, out=np.zeros(self.score.shape), where=met)
        ratings = rating_rows(self.games, self.score)
        entrants: list[Result] = []
        for number, (entrant, rating) in enumerate(zip(self.entrants, ratings, strict=True)):
            known = {
                name: None if league.cooperative and name != "games" else value
                for name, value in rating.items()
            }
            entrants.append(
                {
                    "entrant": entrant.name,
                    "side": entrant.side,
                    "mean_score": float(score[number][met[number]].mean()),
                    **known,
                }
            )
        return {
            "env": self.league.config.env.id,
            **self.conditions,
            "entrants": entrants,
            "score": known_cells(self.games, score),
            "mean_return": known_cells(self.games, self.returns),
            "games": self.games.tolist(),
        }
