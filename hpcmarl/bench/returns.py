"""Wall-clock time to a fixed training return for each round rule, with one group SLOWER times slower: real ranks that sleep.

Called by `hpcmarl bench stragglers --until-return VALUE`. A server and n groups, each a learner with an actor on one rank, learn one small game
(envs/games/particles.py) with REINFORCE and NIGT. A run ends when the mean of its newest 100 training episodes reaches the value;
one that does not in time says None. Knows no message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.bench.runs import Stage, on_stage
from hpcmarl.bench.stragglers import compute_seconds
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.roles.run import join_world

CONFIG = """name: time-to-return
env: {id: "hpcmarl.envs.games.particles:parallel_env", kwargs: {agents: 2, landmarks: 1, max_cycles: 15, bonus: 1.0}}
algo: {name: reinforce, discount: 0.99, network: {hidden: [32]}}
optimizer: {name: nigt, momentum: 0.3}
topology: {actors_per_learner: 0, environments_per_actor: 4, server: dedicated, silence_seconds: null}
trajectories: {enabled: false}
checkpoint: {every_seconds: null}
eval: {episodes: 0}
logging: {progress: false, level: warning, every_seconds: 0.25}
"""
RULES = ("sync", "rennala", "afedpg")
SETTING = "one_rank_10x_slower"
WAVE = 4  # episodes that an actor plays side by side, and that take h together
# Of 0.03, 0.06, 0.12 and 0.25 the quickest on seed 1000; sync takes rennala's, whose gradients are much like its own.
STEP_SIZES = {"sync": 0.25, "rennala": 0.25, "afedpg": 0.12}


def run(target: float, limit: float, seeds: Sequence[int], unit: float, step_sizes: Mapping[str, float] = STEP_SIZES) -> dict[str, Any] | None:
    """Seconds of training until `target`, at most `limit`, for each rule and seed; `unit`: h of all groups but the slow one.

    The result on rank 0, None elsewhere. UsageError with fewer than three ranks."""
    transport = join_world()
    if transport.size < 3:
        raise UsageError("bench stragglers needs a server and at least two groups: start three ranks or more: hpcmarl bench stragglers -n 9")
    compute = compute_seconds(SETTING, transport.size - 1, unit)
    with on_stage(transport) as stage:
        stage.play(case("afedpg", 0, 1e-6, compute, limit, target, f"stop.updates={transport.size}"))  # what is imported late
        played = {rule: [_play(stage, case(rule, seed, step_sizes[rule], compute, limit, target)) for seed in seeds] for rule in RULES}
    if transport.rank != 0:
        return None
    settings = {"return": target, "limit_seconds": limit, "seeds": list(seeds), "ranks": transport.size, "trajectory_seconds": compute}
    return {**{f"{rule}_seconds": middle([run["seconds"] for run in runs]) for rule, runs in played.items()}, **settings, "runs": played}


def case(rule: str, seed: int, step_size: float, compute: Sequence[float], limit: float, target: float, *more: str) -> Config:
    """The configuration of one run."""
    groups = ", ".join(f"{{delay: {{trajectory: {time!r}}}}}" for time in compute)
    changes = [
        f"rounds.rule={rule}",
        f"rounds.batch={batch_of(rule, len(compute))}",
        f"seed={seed}",
        f"optimizer.step_size={step_size}",
        f"topology.groups=[{groups}]",
    ]
    return load_config(CONFIG, [*changes, f"stop.seconds={limit}", f"stop.return_mean={target}", *more])


def batch_of(rule: str, groups: int) -> int:
    """Episodes of a round: a wave of every group (sync) or of three in four (rennala); of a gradient: one wave (afedpg).

    All fast groups deliver at about the same time: with a wave more than that, a round would wait for their next ones and abandon most."""
    return WAVE * {"sync": groups, "rennala": max(1, 3 * groups // 4), "afedpg": 1}[rule]


def _play(stage: Stage, config: Config) -> dict[str, Any]:
    """One run: seconds (None: not reached in time), rounds before the last, the return in the end; seconds None where the server is not."""
    moments = stage.play(config)
    if stage.recorder is None:
        return {"seconds": None}
    recorder, limit = stage.recorder, config.stop.seconds
    assert limit is not None
    return {
        "seconds": recorder.seconds if recorder.seconds < limit else None,  # nothing but the return ends a run before its time
        "updates": len(moments),
        "return_mean": float(np.mean(recorder.recent)) if recorder.recent else None,  # with the last reports, which come after the end
        "step_size": config.optimizer.step_size,
    }


def middle(seconds: Sequence[float | None]) -> float | None:
    """The median, where a run that did not arrive took longer than all others; None where the median did not arrive."""
    ordered = sorted(float("inf") if value is None else value for value in seconds)
    value = float(np.median(ordered))
    return value if np.isfinite(value) else None
