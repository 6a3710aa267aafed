"""Groups with truly different objectives, the slow ones unlike the fast ones: what each round rule makes of
the mean objective.

`hpcmarl bench heterogeneous` starts the ranks: a server and four groups, each a learner with an actor on one
rank, that play four members of one family of games (envs/games/particles.py) and sleep h seconds for every
wave of episodes, the last two SLOWER times as long. Two want to stand to the right of a landmark and two to
the left, under unlike wind, mass and damping; no observation says which. Scored by the evaluator: J_i of each
group and (1/n) sum_i J_i, whatever the training weighed.

The step size is tuned for each rule on a seed that is not scored. Knows no message;
configs/paper/heterogeneous.yaml holds the same run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.bench.runs import Stage, on_stage
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.train import join_world

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
WAVE = 8  # episodes that an actor plays side by side
STEP_SIZES = (0.02, 0.06, 0.2)
TUNING_SEED = 1000
# where only the fast groups' kind of game is learned, or only the slow ones', all at the fast ones' speed
ALONE_STEP_SIZE = 0.06
ABSENT = 1e6  # seconds: a group that never delivers


def run(seconds: float, seeds: int, unit: float) -> dict[str, Any] | None:
    """Tune, train and score every rule, each run for `seconds`; `unit`: seconds of a fast group's wave. The
    result on rank 0, None elsewhere.

    UsageError in a world of another size than a server and GROUPS groups."""
    transport = join_world()
    if transport.size != GROUPS + 1:
        raise UsageError(
            f"bench heterogeneous needs {GROUPS + 1} ranks, not {transport.size}: start it without a "
            "launcher, it starts them itself"
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
    """The configuration of one run. AFedPG's gradients are of one wave, the rounds of the other rules of one
    wave of every group."""
    changes = [
        f"rounds.rule={rule}",
        f"seed={seed}",
        f"optimizer.step_size={step_size}",
        f"stop.seconds={seconds}",
    ]
    changes += [f"topology.groups.{group}.delay.trajectory={delay}" for group, delay in enumerate(delays)]
    return load_config(CONFIG, [*changes, f"rounds.batch={WAVE if rule == 'afedpg' else WAVE * len(delays)}"])


def _rule(stage: Stage, rule: str, seeds: int, seconds: float, delays: Sequence[float]) -> dict[str, Any]:
    """One rule's part of the result. Collective: the choice of the step size is the server's."""
    tried = {size: _play(stage, case(rule, TUNING_SEED, size, seconds, delays)) for size in STEP_SIZES}
    chosen = stage.transport.broadcast(str(best(tried)).encode() if stage.transport.rank == 0 else None)
    step_size = float(chosen.decode())
    played = [_play(stage, case(rule, seed, step_size, seconds, delays)) for seed in range(seeds)]
    if stage.transport.rank != 0:
        return {"objective_mean": None}
    tuning = {f"{size:g}": float(np.mean(run["objectives"])) for size, run in tried.items()}
    return {**figures(played), "step_size": step_size, "tuning_objectives": tuning}


def _play(stage: Stage, config: Config) -> dict[str, Any]:
    """A run: J_i of each group, updates and accepted trajectories by group; {} where the server is not."""
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
    """The step size with the highest mean objective."""
    return max(tried, key=lambda size: float(np.mean(tried[size]["objectives"])))


def figures(played: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds: the equal-weight objective with its standard error (None for one seed), each group's,
    the worst group's."""
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
