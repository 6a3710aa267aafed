"""Evaluation matches between frozen policies on one rank, all slots in step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.algos.model import Model
from hpcmarl.config import Config, EvalConfig
from hpcmarl.envs import BatchedEnvironment
from hpcmarl.errors import FormatError
from hpcmarl.io.pool import Pool
from hpcmarl.league.runtime.opponent_env import OpponentEnv, side_of
from hpcmarl.league.runtime.opponents import Opponents, Played, Player
from hpcmarl.league.runtime.payloads import MatchResult, MatchTask
from hpcmarl.league.runtime.sides import GameSides, score_of
from hpcmarl.roles.evaluator import Match, evaluation_environment
from hpcmarl.types import EnvironmentSpec

DRAWN = 1000  # episodes for which the only opponent is drawn in advance


class Matches:
    """Plays one match at a time, all of them in the same environment slots.

    Args:
        config: Configuration of the run.
        spec: Specification of the environment.
        game: Sides of the game.
        pool: Pool with the snapshots.
        seed: Seed of the episodes, of this rank only.
        rules: Players by name that are not snapshots. A match may name them too.

    Attributes:
        task: The present match; None: none.
        match: Progress and episodes of the present or last match; None before it is set up.
        bad: Name of a snapshot of the last match whose file does not verify; None: all verify.
    """

    def __init__(
        self,
        config: Config,
        spec: EnvironmentSpec,
        game: GameSides,
        pool: Pool,
        seed: int,
        rules: Mapping[str, Player] | None = None,
    ) -> None:
        self.rules = rules or {}
        league = config.league
        assert league is not None
        self.config, self.spec, self.game, self.pool, self.league = config, spec, game, pool, league
        self.settings = EvalConfig(
            episodes=league.evaluation.episodes, environments=league.evaluation.environments, seed=seed
        )
        self.environment: BatchedEnvironment | None = None
        self.algorithms: dict[str, list[Model]] = {}  # by side: a model for the row and one for the column
        self.task: MatchTask | None = None
        self.match: Match | None = None
        self.bad: str | None = None

    @property
    def busy(self) -> bool:
        """Whether a match is in progress."""
        return self.task is not None

    def begin(self, task: MatchTask) -> None:
        """Accept a match. The first `step` sets it up."""
        self.task, self.match, self.bad = task, None, None

    def step(self) -> MatchResult | None:
        """Play one step of every slot; return the result at the end, without its time."""
        assert self.task is not None
        if self.match is None:
            self._set_up()
        if self.bad is None:
            assert self.match is not None
            self.match.step()
            if not self.match.done:
                return None
        task, self.task = self.task, None
        played = None if self.bad else self._played().row()
        return MatchResult(task.row, task.column, played, self.bad, 0.0)

    def _played(self) -> Played:
        assert self.match is not None
        played = Played()
        for episode in self.match.episodes:
            played.add(episode.outcome["win"], episode.return_mean, episode.outcome["other_return"])
        return played

    def _set_up(self) -> None:
        assert self.task is not None
        sides = self.game.from_side(self.task.side)
        try:
            row = self._player(self.task.row, self.task.side, 0)
            self._player(self.task.column, self.game.meets(self.task.side), 1)
        except FormatError:
            return
        if self.environment is None:
            self.environment = evaluation_environment(
                self.config.env, self.config.policies, self.settings, row.needs_state, spec=self.spec
            )
        generator = np.random.default_rng([self.settings.seed, self.task.seed])
        side = self.game.meets(self.task.side)
        opponents = Opponents(
            self.pool, lambda: self._algorithm(side, 1), generator, at_once=1, stay=DRAWN, rules=self.rules
        )
        opponents.change([self.task.column], np.ones(1), 0.0)
        greedy = self.league.evaluation.greedy
        versus = OpponentEnv(self.environment, sides, opponents, score_of(self.league), generator, greedy)
        self.match = Match(row, versus, self.settings.episodes, greedy, self.task.seed)

    def _player(self, name: str, side: str, place: int) -> Player:
        """Return a rule or a snapshot's policy.

        Raises:
            FormatError: If the snapshot's file does not verify. Its name is then in `bad`.
        """
        if name in self.rules:
            return self.rules[name]
        algorithm = self._algorithm(side, place)
        try:
            algorithm.load_parameters(self.pool.parameters(name, algorithm.size))
        except FormatError:
            self.bad = name
            raise
        return algorithm

    def _algorithm(self, side: str, place: int) -> Model:
        if side not in self.algorithms:
            spec = side_of(self.spec, self.game.sides[side])
            self.algorithms[side] = [make_model(spec, self.config.algo, self.config.seed) for _ in range(2)]
        return self.algorithms[side][place]

    def close(self) -> None:
        if self.environment is not None:
            self.environment.close()
