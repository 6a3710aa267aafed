"""Measure training against bare environment stepping on the same cores of one world.

The two take turns in short windows. Training runs on all ranks as usual. Then it pauses, and as many ranks as
there are cores step bare environments with random actions. Only environment steps whose rollouts became part
of an update count as trained.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from typing import Any

import numpy as np

from hpcmarl.comm.transport import Backoff, Transport
from hpcmarl.config import AlgoConfig, Config
from hpcmarl.envs import Seeds
from hpcmarl.envs.bare import make_bare, step_bare
from hpcmarl.runtime.abort import AbortHook
from hpcmarl.runtime.rank import Rank
from hpcmarl.training import join_world, prepare, start_logging

WINDOW = 2.5  # seconds of one window; the two alternate
WARM_UP = 2.0  # seconds of training


def run(config: Config, seconds: float) -> dict[str, Any] | None:
    """Measure training and bare stepping for about `seconds` each. Collective.

    Returns:
        The result on rank 0; None on other ranks.
    """
    import torch

    torch.set_num_threads(config.topology.threads)
    transport = join_world()
    hook = AbortHook(transport)
    directory = tempfile.mkdtemp(prefix="hpcmarl-bench-") if transport.rank == 0 else None
    try:
        context = prepare(transport, config, directory, None)
        start_logging(context)
        rank = hook.rank = Rank(context)
        result = _measure(rank, transport, config, seconds)
        rank.close()
        transport.close()
        return result
    except BaseException as error:
        if transport.size > 1:
            hook.fail(error)
        raise
    finally:
        if directory is not None:
            shutil.rmtree(directory, ignore_errors=True)


def _measure(rank: Rank, transport: Transport, config: Config, seconds: float) -> dict[str, Any] | None:
    processes = min(transport.size, len(os.sched_getaffinity(0)))
    seeds = Seeds(config.seed, 1_000_000 + transport.rank)
    bare = (
        make_bare(config.env, config.topology.environments_per_actor, seeds)
        if transport.rank < processes
        else None
    )
    _train(rank, WARM_UP)
    step_bare(bare, 0.5)
    windows = max(2, round(seconds / WINDOW))
    trained, stepped, ratios = [], [], []
    for _ in range(windows):
        transport.broadcast(b"train" if transport.rank == 0 else None)  # all ranks start together
        before = _trained_steps(rank)
        took = _train(rank, WINDOW)
        trained.append((_trained_steps(rank) - before, took))
        transport.broadcast(b"bare" if transport.rank == 0 else None)
        count, took = step_bare(bare, WINDOW)
        stepped.append(_sum_over_ranks(transport, count / took))
        if transport.rank == 0:
            ratios.append(trained[-1][0] / trained[-1][1] / stepped[-1])
    if bare is not None:
        bare.close()
    if transport.rank != 0:
        return None
    train = sum(count for count, _ in trained) / sum(took for _, took in trained)
    alone = float(np.mean(stepped))
    server: Any = rank.roles["server"]
    return {
        "train_env_steps_per_second": train,
        "bare_env_steps_per_second": alone,
        "ratio": train / alone,
        "ratio_median": float(np.median(ratios)),
        "ratio_of_windows": ratios,
        "bare_processes": processes,
        "ranks": transport.size,
        "roles": [row["roles"] for row in rank.context.topology.table()],
        "environment": config.env.id,
        "window_seconds": WINDOW,
        "updates": server.engine.version,
        "staleness_mean": server.recorder.totals["staleness"]
        / max(1.0, server.recorder.totals["trajectories"]),
        "trajectories": config.trajectories.enabled,
    }


def _train(rank: Rank, seconds: float) -> float:
    """Step the rank's roles for about `seconds` and return the seconds that it took."""
    backoff = Backoff(transport=rank.transport)
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        if rank.step():
            backoff.reset()
        else:
            rank.rest(backoff)
    return time.perf_counter() - began


def _trained_steps(rank: Rank) -> int:
    """Return the environment steps in all updates so far on the server's rank; 0 on other ranks."""
    server: Any = rank.roles.get("server")
    return (
        0
        if server is None
        else trained_steps(
            rank.context.config.algo, int(server.engine.used), int(server.recorder.totals["env_steps"])
        )
    )


def trained_steps(algo: AlgoConfig, used: int, taken: int) -> int:
    """Return the number of environment steps that were learned from, each counted once.

    An unroll may be in several gradients (reuse, epochs); its steps count only once.

    Args:
        algo: Configuration of the algorithm.
        used: Trajectories in all gradients.
        taken: Environment steps that the learners received; the result if trajectories are whole episodes.
    """
    if algo.unroll_steps is None:
        return taken
    passes = algo.minibatch_passes
    return used * algo.unroll_steps // (algo.gradients_per_rollout if passes is None else passes.epochs)


def _sum_over_ranks(transport: Transport, value: float) -> float:
    """Return the sum of a number over all ranks, on rank 0. Collective."""
    return sum(
        float(np.frombuffer(part, np.float64)[0]) for part in transport.gather(np.float64(value).tobytes())
    )
