"""Compare round rules on groups with different objectives, where the slow groups differ from the fast ones.

`hpcmarl bench heterogeneous` starts a server and four groups. Each group is a learner with an actor on one
rank. The groups play four members of one family of games (envs/games/particles.py). A group sleeps h seconds
for every wave of episodes; the last two groups sleep SLOWER times as long. Two groups are rewarded to the
right of a landmark and two to the left. Wind, mass and damping differ as well. No observation identifies the
game.

The evaluator scores the policies: J_i of each group and (1/n) sum_i J_i, whatever weights training used. The
step size of each rule is tuned on a seed that is not scored. configs/paper/heterogeneous.yaml holds the same
run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.bench.runs import Stage, on_stage
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.training import join_world

CONFIG = """name: heterogeneous
env:
  id: "hpcmarl.envs.games.particles:parallel_env"
  kwargs: {agents: 2, landmarks: 1, max_cycles: 15, bonus: 1.0}
algo: {name: reinforce, discount: 0.99, network: {hidden: [32]}}
optimizer: {name: nigt, step_size: 0.1, momentum: 0.3}
rounds: {rule: malenia, batch: 32}
topology:
  actors_per_learner: 0
  environments_per_actor: 8
  server: dedicated
  heartbeat_timeout_seconds: null
  groups:
    - {env: {kwargs: {offset: [1.0, 0]}}, delay: {trajectory: 0.06}}
    - {env: {kwargs: {offset: [1.0, 0], mass: 1.5, wind: [0.5, 0]}}, delay: {trajectory: 0.06}}
    - {env: {kwargs: {offset: [-1.0, 0]}}, delay: {trajectory: 0.6}}
    - env: {kwargs: {offset: [-1.0, 0], damping: 0.4, wind: [-0.5, 0], effort: 0.1}}
      delay: {trajectory: 0.6}
trajectories: {enabled: false}
checkpoint: {every_seconds: null}
eval: {episodes: 128, environments: 16, greedy: false}
logging: {progress: false, level: warning}
stop: {seconds: 30}
"""
RULES = ("malenia", "rennala", "afedpg")
GROUPS = 4
SLOWER = 10.0
WAVE = 8  # episodes that an actor plays in parallel
STEP_SIZES = (0.02, 0.06, 0.2)
TUNING_SEED = 1000
# Step size of two further runs. In one only the fast groups train, in the other only the slow groups, at the
# fast groups' speed.
ALONE_STEP_SIZE = 0.06
ABSENT = 1e6  # seconds: a group that never delivers


def run(seconds: float, seeds: int, unit: float) -> dict[str, Any] | None:
    """Tune, train and score every rule. Collective.

    Args:
        seconds: Training time of each run.
        seeds: Scored runs of each rule.
        unit: Seconds of a fast group's wave of episodes.

    Returns:
        The result on rank 0; None on other ranks.

    Raises:
        UsageError: The world does not have exactly one rank for the server and one for each of GROUPS groups.
    """
    transport = join_world()
    if transport.size != GROUPS + 1:
        raise UsageError(
            f"bench heterogeneous needs {GROUPS + 1} ranks, not {transport.size}: run it outside mpirun and "
            "srun, because it starts its ranks itself"
        )
    with on_stage(transport) as stage:
        untrained = _play(stage, case("malenia", 0, STEP_SIZES[0], 0.1, (ABSENT,) * GROUPS))
        half = GROUPS // 2
        delays = (unit,) * half + (SLOWER * unit,) * half
        present = {"fast": (unit,) * half + (ABSENT,) * half, "slow": (ABSENT,) * half + (unit,) * half}
        alone = {
            name: _play(stage, case("rennala", 0, ALONE_STEP_SIZE, seconds, only))
            for name, only in present.items()
        }
        rules = {rule: _rule(stage, rule, seeds, seconds, delays) for rule in RULES}
    if transport.rank != 0:
        return None
    return {
        **{f"{rule}_objective": part["objective_mean"] for rule, part in rules.items()},
        "untrained_objective": float(np.mean(untrained["objectives"])),
        "untrained_objectives": untrained["objectives"],
        "alone": alone,
        "rules": rules,
        "seconds": seconds,
        "fast_wave_seconds": unit,
        "slow_wave_seconds": SLOWER * unit,
    }


def case(rule: str, seed: int, step_size: float, seconds: float, delays: Sequence[float]) -> Config:
    """Return the configuration of one run.

    A gradient of AFedPG uses one wave of episodes. A round of the other rules uses one wave of every group.

    Args:
        rule: Value of rounds.rule.
        seed: Seed of the run.
        step_size: Step size of the optimizer.
        seconds: Training time.
        delays: Seconds of a wave in each group.
    """
    changes = [
        f"rounds.rule={rule}",
        f"seed={seed}",
        f"optimizer.step_size={step_size}",
        f"stop.seconds={seconds}",
    ]
    changes += [f"topology.groups.{group}.delay.trajectory={delay}" for group, delay in enumerate(delays)]
    return load_config(CONFIG, [*changes, f"rounds.batch={WAVE if rule == 'afedpg' else WAVE * len(delays)}"])


def _rule(stage: Stage, rule: str, seeds: int, seconds: float, delays: Sequence[float]) -> dict[str, Any]:
    """Tune and score one rule. Collective: the server's rank chooses the step size for all ranks."""
    tried = {size: _play(stage, case(rule, TUNING_SEED, size, seconds, delays)) for size in STEP_SIZES}
    chosen = stage.transport.broadcast(str(best(tried)).encode() if stage.transport.rank == 0 else None)
    step_size = float(chosen.decode())
    played = [_play(stage, case(rule, seed, step_size, seconds, delays)) for seed in range(seeds)]
    if stage.transport.rank != 0:
        return {"objective_mean": None}
    tuning = {f"{size:g}": float(np.mean(run["objectives"])) for size, run in tried.items()}
    return {**figures(played), "step_size": step_size, "tuning_objectives": tuning}


def _play(stage: Stage, config: Config) -> dict[str, Any]:
    """Play one run. Collective.

    Returns:
        On the server's rank J_i of each group, updates, and accepted trajectories of each group; empty
        elsewhere.
    """
    stage.play(config)
    if stage.recorder is None:
        return {}
    recorder = stage.recorder
    return {
        "objectives": recorder.evaluation["return_by_environment"],
        "updates": recorder.evaluation["version"],
        "trajectories": list(recorder.group_counts),
    }


def best(tried: Mapping[float, Mapping[str, Any]]) -> float:
    """Return the step size with the highest mean objective."""
    return max(tried, key=lambda size: float(np.mean(tried[size]["objectives"])))


def figures(played: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the runs of one rule.

    Args:
        played: Results of `_play`, one for each seed.

    Returns:
        Means over seeds: the equally weighted objective with its standard error (None for one seed), the
        objective of each group, and that of the worst group.
    """
    objectives = np.array([run["objectives"] for run in played])  # [seeds, groups]
    means = objectives.mean(1)
    return {
        "objective_mean": float(means.mean()),
        "objective_standard_error": float(means.std(ddof=1) / np.sqrt(len(means)))
        if len(means) > 1
        else None,
        "objective_of_each_seed": means.tolist(),
        "objectives": objectives.mean(0).tolist(),
        "worst_objective_mean": float(objectives.min(1).mean()),
        "updates_mean": float(np.mean([run["updates"] for run in played])),
        "trajectories_by_group": np.mean([run["trajectories"] for run in played], axis=0).tolist(),
    }
