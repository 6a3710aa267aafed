"""Whole runs in this process: virtual ranks, stepped in turn, with the same roles as under MPI."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.respawned_actor import context_of
from hpcmarl.runtime.payloads import RespawnedStart
from hpcmarl.runtime.rank import Rank
from hpcmarl.training import make_rank, prepare

SPREAD = """
env: {id: mpe2.simple_spread_v3, kwargs: {max_cycles: 5}}
algo: {name: ma_trace, unroll: 6, network: {hidden: [8]}}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 6}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
ECHO = """
env: {id: "tests.support.environments:Echo"}
algo:
  name: vdn
  discount: 0.5
  network: {hidden: [16], body: mlp}
  epsilon_steps: 1500
  target_every: 20
  replay: {learning_starts: 16}
optimizer: {name: rmsprop, step_size: 0.005}
rounds: {batch: 16}
topology: {environments_per_actor: 4}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 6}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
LIMIT = 400_000  # passes over all ranks after which a run counts as stuck


def run_world(
    size: int,
    directory: Path,
    *overrides: str,
    text: str = SPREAD,
    resume: str | None = None,
    order: int = 0,
    deaths: Mapping[int, int | Callable[[list[Rank]], bool]] | None = None,
    interrupt: int | None = None,
) -> list[Rank]:
    """Train on virtual ranks until all have exited.

    Args:
        size: Number of ranks.
        directory: Run directory.
        overrides: Changes to the configuration.
        text: Configuration in YAML.
        resume: Checkpoint or run directory to resume from, or "auto".
        order: Seed of the order in which ranks are stepped; 0: in rank order.
        deaths: Rank -> version at which it dies, or a function that returns whether it dies now, given all
            ranks.
        interrupt: Version at which a signal arrives; in a league: number of changes of its state.

    Returns:
        The ranks. A process that replaces a dead one (topology.respawn) is a new Rank.
    """
    config = load_config(text, overrides)
    world = LocalWorld(size)
    generator = np.random.default_rng(order)
    ranks = [make_rank(prepare(transport, config, str(directory), resume)) for transport in world.transports]
    deaths = dict(deaths or {})
    try:
        for turn in itertools.count():
            assert turn < LIMIT, "the run does not end"
            version = _version(ranks[0])
            if interrupt is not None and version >= interrupt:
                interrupt = None
                ranks[0].interrupt()
            due = [rank for rank, at in deaths.items() if (at(ranks) if callable(at) else version >= at)]
            world.dead.update(rank for rank in due if deaths.pop(rank) is not None)
            while world.requested_respawns:
                place, payload = world.requested_respawns.pop()
                ranks[place] = Rank(context_of(world.transports[place], RespawnedStart.unpack(payload)))
            left = [rank for rank in ranks if rank.exit_code is None and rank.context.rank not in world.dead]
            if not left:
                break
            for rank in generator.permutation(len(left)) if order else range(len(left)):
                left[int(rank)].step()
    finally:
        # a checkpoint that is being written is completed
        for rank in ranks:
            rank.close()
    return ranks


def _version(rank: Rank) -> int:
    if "league" in rank.roles:
        return int(rank.roles["league"].state.changes)
    return int(rank.roles["server"].engine.version)


def final_state(directory: Path) -> dict[str, Any]:
    """Return the state of the newest checkpoint."""
    path = find_checkpoint(directory)
    assert path is not None
    return load_checkpoint(path)[0]


def final_parameters(directory: Path) -> np.ndarray:
    """Return the parameters of the newest checkpoint, [P]."""
    return np.asarray(final_state(directory)["engine"]["optimizer"]["parameters"])


def summary(directory: Path) -> dict[str, Any]:
    """Return the contents of summary.json."""
    return dict(json.loads((directory / "summary.json").read_text()))
