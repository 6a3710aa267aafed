"""Columns of metrics.csv that a run will fill later, so that its heading is whole from the first row on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcmarl.config import Config
from hpcmarl.io.metric_reference import ACTOR_CRITICS, COLUMNS

# Statistics of actor-critics that have no column for each policy.
OF_ALL_POLICIES = (
    "learner/gradient_norm",
    "learner/gradient_seconds",
    "learner/gradients_left_out",
    "learner/value_limit",
)


def expected_columns(config: Config, policies: Sequence[str]) -> list[str]:
    """Return the columns that the configuration promises.

    Two columns depend on what the environment reports and come with their first value: win_rate and
    eval_win_rate.

    Args:
        config: Configuration of the run.
        policies: Names of its policies.
    """
    names: list[str] = []
    if len(policies) > 1:
        names += [f"return/{policy}" for policy in policies]
    names += [f"return_worker_kind/{kind}" for kind in range(len(config.topology.workers))]
    learned = [name for name in COLUMNS if name.startswith("learner/") and _is_learned(name, config.algo)]
    names += learned
    if len(policies) > 1 and config.algo.name in ACTOR_CRITICS:
        names += [
            f"{name}_{policy}" for policy in policies for name in learned if name not in OF_ALL_POLICIES
        ]
    names += [
        name
        for name, metric in COLUMNS.items()
        if name.startswith("actors/") and (not metric.condition or config.trajectories.enabled)
    ]
    names.append("server/gradient_seconds")
    if config.eval.episodes:
        names += ["eval_version", "eval_return_mean"]
    return names


def _is_learned(name: str, algo: Any) -> bool:
    """Return whether the learners of an algorithm report this column."""
    metric = COLUMNS[name]
    if metric.algorithms and algo.name not in metric.algorithms:
        return False
    replay = getattr(algo, "replay", None)
    conditions = {
        "learner/gradients_left_out": getattr(algo, "kl_target", None) is not None,
        "learner/value_limit": getattr(algo, "discount", 1.0) < 1.0,
        "learner/replay_distance": getattr(replay, "dynamic", None) is not None,
    }
    return conditions.get(name, not metric.condition)
