"""`hpcmarl league match`: play two players against each other, in this process.

Players are snapshots of this league or of another one, random moves, or a search. The match is played by
league/runtime/matches.py, as in a running league. This module adds the players that are not snapshots of this
league, and the figures of a match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.envs.games.search import GAMES, Searcher
from hpcmarl.envs.summary import describe_observations
from hpcmarl.errors import ConfigError, UsageError
from hpcmarl.league.commands.reader import LeagueRun, read_league
from hpcmarl.league.runtime.matches import Matches
from hpcmarl.league.runtime.opponents import Player
from hpcmarl.league.runtime.payloads import MatchTask
from hpcmarl.maths.ratings import wilson_interval
from hpcmarl.roles.evaluator import random_actions
from hpcmarl.types import (
    Array,
    Decision,
    EnvironmentSpec,
    Episode,
    FloatArray,
    Frame,
    PolicyFrame,
    PolicySpec,
)

RANDOM, SEARCH, OF = "random", "search:", "@"
Result = dict[str, Any]
OnProgress = Callable[[int, int], object]  # episodes that are finished, and all of them


def _ignore(done: int, total: int) -> None:
    """Ignore progress."""


class RandomPlayer:
    """Draw all allowed actions with the same probability, and continuous ones uniformly in their bounds."""

    needs_state = False

    def __init__(self, spec: EnvironmentSpec) -> None:
        self.spec = spec

    def initial_memory(self, slots: int) -> dict[str, FloatArray]:
        return {}

    def act(
        self,
        frame: Frame,
        memory: Mapping[str, FloatArray],
        generator: np.random.Generator,
        greedy: bool = False,
        with_logp: bool = False,
    ) -> dict[str, Decision]:
        return {
            name: self._decision(self.spec.policy(name), seen, generator)
            for name, seen in frame.policies.items()
        }

    def _decision(self, spec: PolicySpec, seen: PolicyFrame, generator: np.random.Generator) -> Decision:
        action = random_actions(spec.action, seen.alive.shape, seen.action_mask, generator)
        action[~seen.alive] = 0
        return Decision(action, None)


class SearchPlayer:
    """Search some plies ahead (envs/games/search.py)."""

    needs_state = False

    def __init__(self, id: str, depth: int, seed: int) -> None:
        self._search = Searcher(id, depth, np.random.default_rng([seed, depth]))

    def initial_memory(self, slots: int) -> dict[str, FloatArray]:
        return {}

    def act(
        self,
        frame: Frame,
        memory: Mapping[str, FloatArray],
        generator: np.random.Generator,
        greedy: bool = False,
        with_logp: bool = False,
    ) -> dict[str, Decision]:
        return {name: self._decision(seen) for name, seen in frame.policies.items()}

    def _decision(self, seen: PolicyFrame) -> Decision:
        acting = np.nonzero(seen.alive)
        action = np.zeros(seen.alive.shape, np.int64)
        assert seen.action_mask is not None
        if len(acting[0]):
            action[acting] = self._search(seen.obs[acting], seen.action_mask[acting])
        return Decision(action, None)


@dataclass(frozen=True)
class Entrant:
    """A player of a match or tournament.

    Attributes:
        given: Name as the user wrote it.
        name: Name of the snapshot or rule.
        side: Side that it plays; None: any side.
        make: Function of side and seed that returns the player; None: a snapshot of this league.
    """

    given: str
    name: str
    side: str | None
    make: Callable[[str, int], Player] | None = None


@dataclass(frozen=True)
class Met:
    """A match that was played.

    Attributes:
        row: Name of the row's player.
        column: Name of the column's player.
        side: Side of the row.
        greedy: Whether players took their most probable actions.
        seed: Seed of the match.
        episodes: Episodes as the row saw them.
        winners: Whether episodes are won or lost (league.score: win).
    """

    row: str
    column: str
    side: str
    greedy: bool
    seed: int
    episodes: list[Episode]
    winners: bool

    @property
    def returns(self) -> tuple[Array, Array]:
        """Returns of the row and of the column, each of shape [episodes]."""
        other = [episode.outcome["other_return"] for episode in self.episodes]
        return np.array([episode.return_mean for episode in self.episodes]), np.array(other)

    def figures(self) -> Result:
        """Return the figures that `play_match` describes."""
        scores = np.array([episode.outcome["win"] for episode in self.episodes])
        games, score = len(scores), float(scores.sum())
        low, high = wilson_interval(games, score)
        counts = {
            name: int((scores == value).sum()) if self.winners else None
            for name, value in (("wins", 1.0), ("draws", 0.5), ("losses", 0.0))
        }
        returns = {
            f"{name}_return_{what}": float(getattr(values, what)())
            for name, values in zip(("row", "column"), self.returns, strict=True)
            for what in ("mean", "std")
        }
        lengths = float(np.mean([episode.length for episode in self.episodes]))
        facts = {
            "row": self.row,
            "column": self.column,
            "side": self.side,
            "greedy": self.greedy,
            "seed": self.seed,
            "episodes": games,
        }
        return {
            **facts,
            "score": score / games,
            "score_low": float(low),
            "score_high": float(high),
            **counts,
            **returns,
            "length_mean": lengths,
        }


def play_match(
    league: LeagueRun,
    first: str,
    second: str,
    episodes: int | None = None,
    greedy: bool | None = None,
    seed: int | None = None,
    on_progress: OnProgress = _ignore,
) -> Result:
    """Play a match between two players and return its figures.

    Args:
        league: The league.
        first: Player of the row; for names see `enter`.
        second: Player of the column.
        episodes: Number of episodes; None: the league's setting.
        greedy: Whether players take their most probable actions; None: the league's setting.
        seed: Seed of the match; None: eval.seed.
        on_progress: Called after each step of all environments, with finished and all episodes.

    Returns:
        row, column, side, episodes, greedy and seed. score: mean score of the row, with its 95 % Wilson
        interval score_low to score_high. wins, draws, losses: None with league.score: return, where no
        episode is won. row_return_mean, column_return_mean and the standard deviations row_return_std and
        column_return_std. length_mean: mean length of the episodes, in steps.

    Raises:
        UsageError: If a name is unknown.
        ConfigError: If the players cannot meet.
        FormatError: If a file does not verify.
    """
    return meet(league, first, second, episodes, greedy, seed, on_progress).figures()


def meet(
    league: LeagueRun,
    first: str | Entrant,
    second: str | Entrant,
    episodes: int | None = None,
    greedy: bool | None = None,
    seed: int | None = None,
    on_progress: OnProgress = _ignore,
) -> Met:
    """Play a match between two players and return it with all its episodes.

    Args:
        league: The league.
        first: Player of the row; for names see `enter`.
        second: Player of the column.
        episodes: Number of episodes; None: the league's setting.
        greedy: Whether players take their most probable actions; None: the league's setting.
        seed: Seed of the match; None: eval.seed.
        on_progress: Called after each step of all environments, with finished and all episodes.

    Raises:
        UsageError: If a name is unknown.
        ConfigError: If the players cannot meet.
        FormatError: If a file does not verify.
    """
    assert league.config.league is not None
    given = {"episodes": episodes, "greedy": greedy}
    evaluation = league.config.league.evaluation.model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    evaluated = league.config.league.model_copy(update={"evaluation": evaluation})
    config = league.config.model_copy(update={"league": evaluated})
    seed = config.eval.seed if seed is None else seed
    row, column = (enter(league, player) if isinstance(player, str) else player for player in (first, second))
    side = _side(league, row, column)
    rules: dict[str, Player] = {}
    for entrant, plays in ((row, side), (column, league.game.meets(side))):
        if entrant.make is not None:
            rules[entrant.name] = entrant.make(plays, seed)
        else:
            _check(league, entrant.name, plays)
    matches = Matches(config, league.spec, league.game, league.pool, seed, rules)
    try:
        matches.begin(MatchTask(row.name, column.name, side, seed))
        while matches.step() is None:
            if matches.match is not None:
                on_progress(len(matches.match.episodes), evaluation.episodes)
        assert matches.match is not None
        played = matches.match.episodes
    finally:
        matches.close()
    return Met(row.name, column.name, side, evaluation.greedy, seed, played, evaluated.score == "win")


def enter(league: LeagueRun, name: str) -> Entrant:
    """Return the player with this name.

    Args:
        league: The league.
        name: A snapshot or member of this league, NAME@RUN of another league, random, or search:DEPTH.

    Raises:
        UsageError: If the name is unknown.
        ConfigError: If the other league plays another game.
        FormatError: If a file does not verify.
    """
    known = name in league.state.numbers or name in league.game.members
    if not known and (name == RANDOM or name.startswith(SEARCH)):
        return Entrant(name, name, None, lambda side, seed: _rule(league, name, side, seed))
    label, of, run = name.partition(OF)
    if of and not known:
        return _visitor(league, label, run)
    searches = (f"{SEARCH}1", f"{SEARCH}3") if league.config.env.id in GAMES else ()
    snapshot = league.snapshot(name, (RANDOM, *searches))
    return Entrant(name, snapshot.name, snapshot.side)


def _visitor(league: LeagueRun, label: str, run: str) -> Entrant:
    """Return a snapshot of another league of the same game. Its network may differ."""
    other = read_league(run)
    snapshot = other.snapshot(label)
    home, away = (_seen(each, snapshot.side) for each in (league, other))
    if home != away:
        raise ConfigError(
            f"{label}{OF}{run} plays {away}, but {league.directory} is {home}: they cannot meet; name "
            "players of one game"
        )
    player = other.algorithm(snapshot.side)
    player.load_parameters(other.pool.parameters(snapshot.name, player.size))
    return Entrant(f"{label}{OF}{run}", f"{snapshot.name}{OF}{run}", snapshot.side, lambda side, seed: player)


def _seen(league: LeagueRun, side: str) -> str:
    """Describe observations and actions of a side as a text. Players with equal texts can meet."""
    names = league.game.sides.get(side)
    if names is None:
        return f"{league.spec.id} with the sides {', '.join(league.game.sides)}"
    policies = [league.spec.policy(name) for name in names]
    spaces = [
        (
            f"{policy.name} ({', '.join(policy.agents)}; observations {describe_observations(policy)}, "
            f"{_actions(policy)})"
        )
        for policy in policies
    ]
    return f"{league.spec.id} with {' and '.join(spaces)}"


def _actions(policy: PolicySpec) -> str:
    action = policy.action
    bounds = f" from {list(action.low)} to {list(action.high)}" if action.kind == "continuous" else ""
    return f"{action.kind} actions {list(action.sizes)}{bounds}"


def can_meet(league: LeagueRun, first: Entrant, second: Entrant) -> bool:
    """Return whether the sides of two players play against each other."""
    return len(league.game.sides) == 1 or first.side is None or first.side != second.side


def _side(league: LeagueRun, row: Entrant, column: Entrant) -> str:
    """Return the side that the row plays.

    Raises:
        ConfigError: If both play the same side of an asymmetric game.
    """
    sides = list(league.game.sides)
    if row.side is None:
        return sides[0] if column.side is None else league.game.meets(column.side)
    if not can_meet(league, row, column):
        raise ConfigError(
            f"{row.given} and {column.given} both play side {row.side} of {league.spec.id}; "
            f"for one of them name a member or snapshot of side {league.game.meets(row.side)}"
        )
    return row.side


def _rule(league: LeagueRun, name: str, side: str, seed: int) -> Player:
    if name == RANDOM:
        return RandomPlayer(league.spec)
    depth = name.removeprefix(SEARCH)
    if not depth.isdigit():
        raise UsageError(f"{name}: the depth of a search is a number of plies, as in {SEARCH}3")
    return SearchPlayer(league.config.env.id, int(depth), seed)


def _check(league: LeagueRun, name: str, side: str) -> None:
    """Read a snapshot's file before the match, so that its error names the problem.

    Raises:
        FormatError: If the file does not verify.
    """
    league.pool.parameters(name, league.algorithm(side).size)
