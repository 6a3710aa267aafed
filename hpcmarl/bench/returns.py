"""Measure the time to a fixed training return for each round rule with unequal groups.

`hpcmarl bench stragglers --until-return VALUE` starts a server and n groups of real ranks that sleep. Each
group is a learner with an actor on one rank. The groups learn one small game (envs/games/particles.py) with
REINFORCE and NIGT. A run ends when the mean of its newest 100 training episodes reaches the value; it yields
None if that does not happen in time.

In each setting the first run measures the times of the groups. predicted_returns.py predicts all runs from
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.bench.predicted_returns import Seconds, predicted_seconds
from hpcmarl.bench.runs import Stage, on_stage
from hpcmarl.bench.stragglers import SETTINGS, compute_seconds
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.roles.server.recorder import RECENT_EPISODES
from hpcmarl.sim.plan import FEWEST, Measured
from hpcmarl.training import join_world

CONFIG = """name: time-to-return
env:
  id: "hpcmarl.envs.games.particles:parallel_env"
  kwargs: {agents: 2, landmarks: 1, max_cycles: 15, bonus: 1.0}
algo: {name: reinforce, discount: 0.99, network: {hidden: [32]}}
optimizer: {name: nigt, momentum: 0.3}
topology:
  {actors_per_learner: 0, environments_per_actor: 4, server: dedicated, heartbeat_timeout_seconds: null}
trajectories: {enabled: false}
checkpoint: {every_seconds: null}
eval: {episodes: 0}
logging: {progress: false, level: warning, every_seconds: 0.25}
"""
RULES = ("sync", "rennala", "malenia", "afedpg")
WAVE = 4  # episodes that an actor plays in parallel and that take h seconds together
# The best of 0.06, 0.12, 0.25 and 0.5 for each rule. Criterion: the predicted time to a return of 9 over both
# settings, with 16 groups and seeds 1000 to 1002.
STEP_SIZES = {"sync": 0.25, "rennala": 0.25, "malenia": 0.5, "afedpg": 0.06}


def run(
    target: float,
    limit: float,
    seeds: Sequence[int],
    unit: float,
    measured_run: Callable[[Path], Measured],
    step_sizes: Mapping[str, float] = STEP_SIZES,
) -> dict[str, Any] | None:
    """Measure and predict the training time to a return for each setting, rule and seed. Collective.

    Args:
        target: The return.
        limit: Most seconds of a run.
        seeds: Seeds of the runs of each case.
        unit: Seconds h of the fastest group.
        measured_run: Reads the measured times from a run directory.
        step_sizes: Step size of each rule.

    Returns:
        The result on rank 0; None on other ranks.

    Raises:
        UsageError: There are fewer than three ranks.
    """
    transport = join_world()
    if transport.size < 3:
        raise UsageError(
            "bench stragglers needs a server and at least two groups: start three ranks or more: hpcmarl "
            "bench stragglers -n 9"
        )
    times = {setting: compute_seconds(setting, transport.size - 1, unit) for setting in SETTINGS}
    cases = {
        setting: {
            rule: [case(rule, seed, step_sizes[rule], compute, limit, target) for seed in seeds]
            for rule in RULES
        }
        for setting, compute in times.items()
    }
    played: dict[str, dict[str, list[dict[str, Any]]]] = {}
    measured: dict[str, Seconds | None] = {}
    with on_stage(transport) as stage:
        for setting, compute in times.items():
            measured[setting] = _measure(stage, compute, measured_run)
            played[setting] = {
                rule: [_play(stage, config) for config in configs] for rule, configs in cases[setting].items()
            }
    if transport.rank != 0:
        return None
    settings = {}
    for setting, compute in times.items():
        seconds = measured[setting]
        assert seconds is not None
        for rule, configs in cases[setting].items():
            for config, own in zip(configs, played[setting][rule], strict=True):
                own["predicted_seconds"] = predicted_seconds(config, seconds, RECENT_EPISODES)
        facts = {"trajectory_seconds": compute, "measured_seconds": seconds.wave}
        settings[setting] = facts | _figures(played[setting])
    first = {f"{rule}_seconds": settings[SETTINGS[0]][f"{rule}_seconds"] for rule in RULES}
    return {
        **first,
        "return": target,
        "limit_seconds": limit,
        "seeds": list(seeds),
        "ranks": transport.size,
        "settings": settings,
    }


def case(
    rule: str, seed: int, step_size: float, compute: Sequence[float], limit: float, target: float, *more: str
) -> Config:
    """Return the configuration of one run.

    Args:
        rule: Value of rounds.rule.
        seed: Seed of the run.
        step_size: Step size of the optimizer.
        compute: Seconds h of each group.
        limit: Most seconds of training.
        target: Training return that ends the run.
        *more: Further changes to the configuration.
    """
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
    """Return the number of episodes of a round, or of a gradient (afedpg).

    A round is one wave of every group (sync, malenia) or of three in four groups (rennala); a gradient is one
    wave. All fast groups deliver at about the same time. With one wave more than that, a round of rennala
    would wait for their next waves and abandon most of their work.
    """
    return WAVE * {"rennala": max(1, 3 * groups // 4), "afedpg": 1}.get(rule, groups)


def _measure(
    stage: Stage, compute: Sequence[float], measured_run: Callable[[Path], Measured]
) -> Seconds | None:
    """Measure the times of the groups in a short synchronous run with a tiny step size. Collective.

    Returns:
        The times on the server's rank; None elsewhere.
    """
    stage.play(case("sync", 0, 1e-6, compute, 1e6, 1e6, f"stop.updates={FEWEST + 1}"))
    return (
        None
        if stage.directory is None
        else Seconds.of(measured_run(Path(stage.directory) / str(stage.played)))
    )


def _play(stage: Stage, config: Config) -> dict[str, Any]:
    """Play one run. Collective.

    Returns:
        On the server's rank: seconds (None: the return was not reached in time), rounds that ended, the
        return at the end, and the step size. Elsewhere only `seconds`: None.
    """
    moments = stage.play(config)
    if stage.recorder is None:
        return {"seconds": None}
    recorder, limit = stage.recorder, config.stop.seconds
    assert limit is not None
    return {
        "seconds": recorder.seconds
        if recorder.seconds < limit
        else None,  # only the return ends a run before its time limit
        "updates": len(moments),
        "return_mean": float(np.mean(recorder.recent))
        if recorder.recent
        else None,  # includes the last reports, which arrive after the end
        "step_size": config.optimizer.step_size,
    }


def _figures(played: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the medians of each rule, and all runs."""
    medians: dict[str, Any] = {}
    for rule, runs in played.items():
        medians[f"{rule}_seconds"] = middle([run["seconds"] for run in runs])
        medians[f"{rule}_predicted_seconds"] = middle([run["predicted_seconds"] for run in runs])
    return medians | {"runs": played}


def middle(seconds: Sequence[float | None]) -> float | None:
    """Return the median of some times; None counts as longer than every number.

    Returns:
        The median; None if the median run did not reach the return.
    """
    ordered = sorted(float("inf") if value is None else value for value in seconds)
    value = float(np.median(ordered))
    return value if np.isfinite(value) else None
