"""Measure the share of unequal groups' work that each round rule uses.

Real ranks sleep, so that two cores carry many of them. `hpcmarl bench stragglers` starts a server and n
groups, each a learner with an actor on one rank. An actor of group i takes h_i seconds for a trajectory. A
trajectory is one step of a small environment, so that its computation takes almost no time.

efficiency = used gradients per second / sum_i 1/h_i, between two ends of rounds after every group has
delivered.

The four rules train with MA-Trace, which abandons no work at the end of a round. REINFORCE abandons
unfinished trajectories (as in arXiv 2509.24305), so that Rennala's efficiency depends on the batch. That case
is measured as well, together with the best efficiency that such rounds can have.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hpcmarl.bench.runs import Moment, on_stage, used_per_second
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.maths.round_times import ideal_rate, rennala_rate, sync_rate
from hpcmarl.training import join_world

CONFIG = """name: stragglers
env: {id: mpe2.simple_v3, max_steps: 1}
algo: {network: {hidden: [8]}}
optimizer: {name: sgd, step_size: 0.0001}
topology:
  {actors_per_learner: 0, environments_per_actor: 1, server: dedicated, heartbeat_timeout_seconds: null}
trajectories: {enabled: false}
checkpoint: {every_seconds: null}
eval: {episodes: 0}
logging: {progress: false, level: warning}
"""
RULES = ("rennala", "malenia", "sync", "afedpg")
SLOWER = 10.0
BATCH = 4  # trajectories of a round for each group, with rennala and malenia
EPISODES = 8  # the same with REINFORCE, where the end of a round costs each group half a trajectory
CASES = (*((rule, "ma_trace") for rule in RULES), ("rennala", "reinforce"))
WARM_UP = 120.0  # most seconds of the first run, which is not measured
SETTINGS = ("one_rank_10x_slower", "sqrt")


def run(seconds: float, unit: float) -> dict[str, Any] | None:
    """Measure each case. Collective.

    Args:
        seconds: Training time of each case.
        unit: Seconds of a trajectory of the fastest group.

    Returns:
        The result on rank 0; None on other ranks. An efficiency is None if fewer than two rounds ended in
        time.

    Raises:
        UsageError: There are fewer than three ranks.
    """
    transport = join_world()
    if transport.size < 3:
        raise UsageError(
            "bench stragglers needs a server and at least two groups: start three ranks or more: hpcmarl "
            "bench stragglers -n 9"
        )
    compute = {setting: compute_seconds(setting, transport.size - 1, unit) for setting in SETTINGS}
    with on_stage(transport) as stage:
        # The first run imports all modules that are loaded late.
        stage.play(
            case("afedpg", "ma_trace", compute[SETTINGS[0]], WARM_UP, f"stop.updates={transport.size}")
        )
        moments = {
            name: {label: stage.play(case(*label, times, seconds)) for label in CASES}
            for name, times in compute.items()
        }
    if transport.rank != 0:
        return None
    settings = {name: _figures(times, moments[name]) for name, times in compute.items()}
    first = settings[SETTINGS[0]]
    return {
        **{f"{rule}_efficiency": first[f"{rule}_efficiency"] for rule in RULES},
        "settings": settings,
        "ranks": transport.size,
        "seconds": seconds,
        "unit_seconds": unit,
    }


def compute_seconds(setting: str, groups: int, unit: float) -> list[float]:
    """Return h_i of each group in seconds.

    With the setting "sqrt" it is `unit` times the square root of the group's number, from 1. Otherwise one
    group is SLOWER times as slow as the others.
    """
    if setting == "sqrt":
        return [unit * math.sqrt(number) for number in range(1, groups + 1)]
    return [unit] * (groups - 1) + [SLOWER * unit]


def expected(compute: Sequence[float]) -> dict[str, float]:
    """Return the efficiencies that follow from the rules alone.

    sync uses one trajectory of every group in a round. Rennala with REINFORCE abandons unfinished
    trajectories.

    Args:
        compute: Seconds h_i of each group.
    """
    groups, ideal = len(compute), ideal_rate(compute)
    return {
        "sync_efficiency_expected": sync_rate(compute, 0.0, batch_of("sync", "ma_trace", groups)) / ideal,
        "rennala_reinforce_efficiency_expected": rennala_rate(
            compute, 0.0, batch_of("rennala", "reinforce", groups)
        )
        / ideal,
    }


def case(rule: str, algorithm: str, compute: Sequence[float], seconds: float, *more: str) -> Config:
    """Return the configuration of one run.

    Args:
        rule: Value of rounds.rule.
        algorithm: Value of algo.name.
        compute: Seconds h_i of each group.
        seconds: Training time.
        *more: Further changes to the configuration; they may change the end of the run.
    """
    groups = ", ".join(f"{{delay: {{trajectory: {time!r}}}}}" for time in compute)
    changes = [
        f"rounds.rule={rule}",
        f"rounds.batch={batch_of(rule, algorithm, len(compute))}",
        f"algo.name={algorithm}",
    ]
    changes += [f"topology.groups=[{groups}]", f"stop.seconds={seconds}", *more]
    return load_config(CONFIG, [*changes, "algo.unroll=1"] if algorithm == "ma_trace" else changes)


def batch_of(rule: str, algorithm: str, groups: int) -> int:
    """Return the trajectories of a round."""
    each = EPISODES if algorithm == "reinforce" else BATCH
    return {"sync": groups, "afedpg": 1}.get(rule, each * groups)


def _figures(compute: Sequence[float], moments: Mapping[tuple[str, str], Sequence[Moment]]) -> dict[str, Any]:
    """Return one setting's part of the result from the ends of rounds of each case."""
    ideal = ideal_rate(compute)
    result: dict[str, Any] = {"ideal_gradients_per_second": ideal, "trajectory_seconds": list(compute)}
    for (rule, algorithm), seen in moments.items():
        name = rule if algorithm == "ma_trace" else f"{rule}_{algorithm}"
        try:
            result[f"{name}_efficiency"] = used_per_second(seen, max(compute)) / ideal
        except HpcmarlError as error:  # keep the other figures
            print(f"{name}, trajectories of {min(compute):g} to {max(compute):g} s: {error}", file=sys.stderr)
            result[f"{name}_efficiency"] = None
        result |= {
            f"{name}_batch": batch_of(rule, algorithm, len(compute)),
            f"{name}_wasted": seen[-1].wasted if seen else 0,
        }
    return result | expected(compute)
