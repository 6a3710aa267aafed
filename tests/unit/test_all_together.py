"""Every algorithm with every topology and every kind of environment: it trains and goes on after a stop, or it is refused with the reason.

The algorithms are those of the registry: a new one is tried here without being named. Every refusal stands in REFUSED, so that none comes unnoticed.
"""

import numpy as np
import pytest

from hpcmarl.algos import ALGORITHMS
from hpcmarl.errors import ConfigError
from tests.worlds import final_parameters, run_world, summary

TINY = """
algo: {name: reinforce, network: {hidden: [8]}}
optimizer: {name: adam, step_size: 0.001}
rounds: {batch: 4}
topology: {environments_per_actor: 2}
trajectories: {enabled: false}
eval: {episodes: 2}
stop: {updates: 2}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
SPREAD = ("env.id=mpe2.simple_spread_v3", "env.kwargs={max_cycles: 5}")
ENVIRONMENTS = {
    "unequal spaces": ("env.id=mpe2.simple_speaker_listener_v4", "env.kwargs={max_cycles: 5}"),
    "turns and masks": ("env.id=pettingzoo.classic.tictactoe_v3",),
    "masks, agents come and go": ("env.id=tests.envs_for_tests:MaskedCrowd",),
    "continuous": ("env.id=mpe2.simple_spread_v3", "env.kwargs={max_cycles: 5, continuous_actions: true}"),
    "recurrent": (*SPREAD, "algo.network.recurrent=true"),
}
TOPOLOGIES = {
    "one rank": (1,),
    "two groups": (4, "topology.groups=2"),
    "learners that act": (2, "topology.groups=2", "topology.actors_per_learner=0"),
    "allreduce": (4, "topology.groups=2", "rounds.reduce=mpi"),
    "rennala": (4, "topology.groups=2", "rounds.rule=rennala"),
    "malenia": (4, "topology.groups=2", "rounds.rule=malenia"),
    "afedpg": (4, "topology.groups=2", "rounds.rule=afedpg"),
}
VALUES = ["iql", "vdn", "qmix", "wqmix", "res"]
MIXED = VALUES[1:]
REFUSED = {("turns and masks", name): "take turns" for name in ("coma", *MIXED)}
REFUSED |= {("continuous", name): "single discrete action" for name in ("coma", *VALUES)}


def train_and_go_on(directory, algorithm, size, *changes):
    """Two updates, then one more from the checkpoint: the summary, the parameters at the stop and at the end."""
    own = [f"algo.name={algorithm}"]
    if algorithm in ("ma_trace", "ppo", "coma"):
        own += ["algo.unroll=5"]
    if algorithm in ("ma_trace", "ppo"):
        own += ["algo.critic=dec"]
    if algorithm in VALUES:
        own += ["algo.replay.starts=4"]
    run_world(size, directory, *own, *changes, text=TINY)
    first = final_parameters(directory)
    run_world(size, directory, *own, *changes, "stop.updates=3", text=TINY, resume="auto")
    return summary(directory), first, final_parameters(directory)


def went_on(told, first, last):
    """Whether the run did all its updates, and the last of them changed parameters that are all finite."""
    done = (told["status"], told["updates"]) == ("finished", 3) and np.isfinite(told["eval_return_mean"])
    return done and np.isfinite(last).all() and not np.array_equal(first, last)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environments(tmp_path, algorithm, environment):
    reason = REFUSED.get((environment, algorithm))
    if reason is None:
        assert went_on(*train_and_go_on(tmp_path, algorithm, 1, *ENVIRONMENTS[environment]))
        return
    with pytest.raises(ConfigError, match=rf"algo\.name: {algorithm} .*{reason}"):
        train_and_go_on(tmp_path, algorithm, 1, *ENVIRONMENTS[environment])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_topologies(tmp_path, algorithm, topology):
    size, *changes = TOPOLOGIES[topology]
    assert went_on(*train_and_go_on(tmp_path, algorithm, size, *SPREAD, *changes))
