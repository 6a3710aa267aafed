"""Measure a league's evaluation matches against bare environment stepping.

One process runs both in turn, in short windows, without MPI. Matches are the work of a rank that waits for a
training assignment. Two untrained snapshots play match after match; they are read from a pool on disk.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpcmarl.algos import make_model
from hpcmarl.bench.paired_throughput import paired_throughput
from hpcmarl.config import Config
from hpcmarl.envs import describe
from hpcmarl.errors import UsageError
from hpcmarl.io.pool import Pool, snapshot_name, write_snapshot
from hpcmarl.league.runtime.matches import Matches
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.league.runtime.payloads import MatchTask
from hpcmarl.league.runtime.sides import game_of

WINDOW = 1.0  # seconds of one window; the two alternate


class Playing:
    """Match after match between two snapshots.

    Args:
        config: Configuration of a league.
        pool: Directory for the snapshots.

    Attributes:
        slots: Environment steps in each step of a match.
        finished: Number of finished matches.
        games: Episodes that count in them.
        steps: Environment steps.
        counted_steps: Environment steps of episodes that count.
        seconds: Time of playing.
    """

    def __init__(self, config: Config, pool: Path) -> None:
        assert config.league is not None
        spec = describe(config.env, config.policies)
        game = game_of(config, spec)
        first = next(iter(game.sides))
        for number, side in enumerate((first, game.meets(first))):
            algorithm = make_model(side_of(spec, game.sides[side]), config.algo, config.seed + number)
            write_snapshot(pool, snapshot_name("member", number), algorithm.initial_parameters(), {})
        self.matches = Matches(config, spec, game, Pool(pool, 2), config.seed)
        self.task = MatchTask(snapshot_name("member", 0), snapshot_name("member", 1), first, seed=0)
        evaluation = config.league.evaluation
        self.slots = min(evaluation.environments, evaluation.episodes)
        self.forget()

    def forget(self) -> None:
        """Reset all counters."""
        self.finished = self.games = self.steps = self.counted_steps = 0
        self.seconds = 0.0

    def run(self, seconds: float) -> tuple[int, float]:
        """Play for about `seconds`.

        Returns:
            Environment steps, and seconds that they took.
        """
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            if not self.matches.busy:
                self.matches.begin(replace(self.task, seed=self.finished))
            count += self.slots
            if (result := self.matches.step()) is not None:
                assert self.matches.match is not None
                assert result.played is not None
                self.finished += 1
                self.games += int(result.played[0])
                self.counted_steps += sum(episode.length for episode in self.matches.match.episodes)
        took = time.perf_counter() - began
        self.steps, self.seconds = self.steps + count, self.seconds + took
        return count, took


def run(config: Config, seconds: float) -> dict[str, Any]:
    """Measure matches and bare stepping for about `seconds` each.

    Returns:
        Matches and games per second, the figures of `paired_throughput`, and `counted_share_of_steps`: the
        share of steps in episodes that count. The other steps are of slots that have finished their episodes.

    Raises:
        UsageError: The configuration has no league.
    """
    if config.league is None:
        raise UsageError(
            "bench matches needs the configuration of a league, for instance configs/league/connect_four.yaml"
        )
    torch.set_num_threads(config.topology.threads)
    with tempfile.TemporaryDirectory(prefix="hpcmarl-matches-") as directory:
        playing = Playing(config, Path(directory) / "pool")
        playing.run(0.5)
        playing.forget()
        figures = paired_throughput(
            "match", playing.run, config.env, config.seed, playing.slots, seconds, WINDOW
        )
        playing.matches.close()
    return {
        "matches_per_second": playing.finished / playing.seconds,
        "games_per_second": playing.games / playing.seconds,
        **figures,
        "counted_share_of_steps": min(1.0, playing.counted_steps / playing.steps),
    }
