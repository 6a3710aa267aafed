"""How much of unequal groups' work each round rule uses: real ranks that sleep, so that two cores carry many
of them.

`hpcmarl bench stragglers` starts the ranks: a server and n groups, each a learner with an actor on one rank.
An actor of group i takes h_i seconds for a trajectory, which is one step of a small environment: computing
costs next to nothing.

efficiency = used gradients a second / sum_i 1/h_i, between two ends of rounds after every group has
delivered. Knows no message.

The four rules train with MA-Trace, where nothing is abandoned when a round ends. With REINFORCE unfinished
trajectories are (as in arXiv 2509.24305), so that Rennala's efficiency depends on the batch: it is measured
as well, beside what such rounds can have at best.
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
from hpcmarl.train import join_world

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
BATCH = 4  # trajectories of a round for each group, rennala and malenia
EPISODES = 8  # the same with REINFORCE, where the end of a round costs each group half a trajectory
CASES = (*((rule, "ma_trace") for rule in RULES), ("rennala", "reinforce"))
WARM_UP = 120.0  # seconds at most
SETTINGS = ("one_rank_10x_slower", "sqrt")


def run(seconds: float, unit: float) -> dict[str, Any] | None:
    """Measure each case for `seconds`; `unit`: seconds of a trajectory of the fastest group. The result on
    rank 0, None elsewhere.

    An efficiency is None where `seconds` were too few for two rounds. UsageError with fewer than three
    ranks."""
    transport = join_world()
    if transport.size < 3:
        raise UsageError(
            "bench stragglers needs a server and at least two groups: start three ranks or more: hpcmarl "
            "bench stragglers -n 9"
        )
    compute = {setting: compute_seconds(setting, transport.size - 1, unit) for setting in SETTINGS}
    with on_stage(transport) as stage:
        # what is imported late
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
    """h_i of each group: one of them SLOWER times as slow as the others, or the square root of its number,
    times `unit`."""
    if setting == "sqrt":
        return [unit * math.sqrt(number) for number in range(1, groups + 1)]
    return [unit] * (groups - 1) + [SLOWER * unit]


def expected(compute: Sequence[float]) -> dict[str, float]:
    """The efficiencies that follow from the rules alone: sync one trajectory of every group a round, Rennala
    with abandoned work."""
    groups, ideal = len(compute), ideal_rate(compute)
    return {
        "sync_efficiency_expected": sync_rate(compute, 0.0, batch_of("sync", "ma_trace", groups)) / ideal,
        "rennala_reinforce_efficiency_expected": rennala_rate(
            compute, 0.0, batch_of("rennala", "reinforce", groups)
        )
        / ideal,
    }


def case(rule: str, algorithm: str, compute: Sequence[float], seconds: float, *more: str) -> Config:
    """The configuration of one run: it ends after `seconds`, or as `more` changes it."""
    groups = ", ".join(f"{{delay: {{trajectory: {time!r}}}}}" for time in compute)
    changes = [
        f"rounds.rule={rule}",
        f"rounds.batch={batch_of(rule, algorithm, len(compute))}",
        f"algo.name={algorithm}",
    ]
    changes += [f"topology.groups=[{groups}]", f"stop.seconds={seconds}", *more]
    return load_config(CONFIG, [*changes, "algo.unroll=1"] if algorithm == "ma_trace" else changes)


def batch_of(rule: str, algorithm: str, groups: int) -> int:
    """Trajectories of a round."""
    each = EPISODES if algorithm == "reinforce" else BATCH
    return {"sync": groups, "afedpg": 1}.get(rule, each * groups)


def _figures(compute: Sequence[float], moments: Mapping[tuple[str, str], Sequence[Moment]]) -> dict[str, Any]:
    """One setting's part of the result, from what the server saw of each case."""
    ideal = ideal_rate(compute)
    result: dict[str, Any] = {"ideal_gradients_per_second": ideal, "trajectory_seconds": list(compute)}
    for (rule, algorithm), seen in moments.items():
        name = rule if algorithm == "ma_trace" else f"{rule}_{algorithm}"
        try:
            result[f"{name}_efficiency"] = used_per_second(seen, max(compute)) / ideal
        except HpcmarlError as error:  # the other figures are worth having
            print(f"{name}, trajectories of {min(compute):g} to {max(compute):g} s: {error}", file=sys.stderr)
            result[f"{name}_efficiency"] = None
        result |= {
            f"{name}_batch": batch_of(rule, algorithm, len(compute)),
            f"{name}_wasted": seen[-1].wasted if seen else 0,
        }
    return result | expected(compute)
