"""Evaluation matches of a league against bare environment stepping: one process without MPI; the two alternated in short windows.

Called by cli_bench.py. What a rank does that waits for a term: matches/s between two untrained snapshots, read from a pool on disk.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.bench.throughput import step_bare
from hpcmarl.config import Config
from hpcmarl.envs import Seeds, describe
from hpcmarl.envs.bare import make_bare
from hpcmarl.errors import UsageError
from hpcmarl.io.pool import Pool, snapshot_name, write_snapshot
from hpcmarl.roles.matches import Matches
from hpcmarl.roles.sides import game_of
from hpcmarl.roles.versus import side_of

WINDOW = 1.0  # seconds of each kind in turn


class Playing:
    """Match after match; `slots` environment steps in each step."""

    def __init__(self, config: Config, pool: Path) -> None:
        assert config.league is not None
        spec = describe(config.env, config.policies)
        game = game_of(config, spec)
        first = next(iter(game.sides))
        for number, side in enumerate((first, game.meets(first))):
            algorithm = make_algorithm(side_of(spec, game.sides[side]), config.algo, config.seed + number)
            write_snapshot(pool, snapshot_name("member", number), algorithm.initial_parameters(), {})
        self.matches = Matches(config, spec, game, Pool(pool, 2), config.seed)
        self.task = {"row": snapshot_name("member", 0), "column": snapshot_name("member", 1), "side": first}
        evaluation = config.league.evaluation
        self.slots = min(evaluation.environments, evaluation.episodes)
        self.finished = self.games = self.counted_steps = 0

    def run(self, seconds: float) -> tuple[int, float]:
        """Play for a while: environment steps and time."""
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            if not self.matches.busy:
                self.matches.begin({**self.task, "seed": self.finished})
            count += self.slots
            if (outcome := self.matches.step()) is not None:
                assert self.matches.match is not None
                self.finished += 1
                self.games += int(outcome["played"][0])
                self.counted_steps += sum(episode.length for episode in self.matches.match.episodes)
        return count, time.perf_counter() - began


def run(config: Config, seconds: float) -> dict[str, Any]:
    """Measure for about `seconds` of each kind. Raises UsageError without a league."""
    if config.league is None:
        raise UsageError("bench matches needs the configuration of a league, for instance configs/league/connect_four.yaml")
    torch.set_num_threads(config.topology.threads)
    with tempfile.TemporaryDirectory(prefix="hpcmarl-matches-") as directory:
        playing = Playing(config, Path(directory) / "pool")
        bare = make_bare(config.env, playing.slots, Seeds(config.seed, 1_000_000))
        playing.run(0.5)
        step_bare(bare, 0.5)
        playing.finished = playing.games = playing.counted_steps = 0
        played, stepped, all_steps, took_in_all = [], [], 0, 0.0
        for _ in range(max(2, round(seconds / WINDOW))):
            count, took = playing.run(WINDOW)
            all_steps, took_in_all = all_steps + count, took_in_all + took
            played.append(count / took)
            count, took = step_bare(bare, WINDOW)
            stepped.append(count / took)
        playing.matches.close()
        bare.close()
    ratios = (np.array(played) / np.array(stepped)).tolist()
    return {
        "matches_per_second": playing.finished / took_in_all,
        "games_per_second": playing.games / took_in_all,
        "match_env_steps_per_second": float(np.mean(played)),
        "bare_env_steps_per_second": float(np.mean(stepped)),
        "ratio": float(np.mean(played) / np.mean(stepped)),
        "ratio_median": float(np.median(ratios)),
        "ratio_of_windows": ratios,
        "counted_share_of_steps": min(1.0, playing.counted_steps / all_steps),
        "slots": playing.slots,
        "environment": config.env.id,
        "window_seconds": WINDOW,
    }
