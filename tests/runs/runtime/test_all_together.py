"""Every algorithm with every environment, network, topology, rule, reduction and optimizer.

Each combination trains and resumes, or is refused.

The default lane trains few combinations that together have every pair of settings (tests/support/pairs.py).
`--all` adds every algorithm with every environment and topology. The algorithms are those of the registry, so
that a new one is tested without a change here. REFUSED lists every refusal, so that a new refusal fails a
test.
"""

import itertools

import numpy as np
import pytest

from hpcmarl.algos import ALGORITHMS
from hpcmarl.errors import ConfigError
from tests.support.pairs import choose, pairs_of
from tests.support.worlds import final_parameters, run_world, summary

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
    "equal spaces": SPREAD,
    "unequal spaces": (
        "env.id=mpe2.simple_speaker_listener_v4",
        "env.kwargs={max_cycles: 5}",
        "env.common_reward=true",
    ),
    "turns and masks": ("env.id=pettingzoo.classic.tictactoe_v3",),
    "masks, agents come and go": ("env.id=tests.support.environments:MaskedCrowd",),
    "continuous": ("env.id=mpe2.simple_spread_v3", "env.kwargs={max_cycles: 5, continuous_actions: true}"),
}
NETWORKS = {"feed-forward": (), "recurrent": ("algo.network.body=gru",)}
TOPOLOGIES = {
    "one rank": (1,),
    "groups of two": (4, "topology.groups=2"),
    "learners that act": (2, "topology.groups=2", "topology.actors_per_learner=0"),
    "dedicated server": (5, "topology.groups=2", "topology.server=dedicated"),
}
FACTORS = {
    "algorithm": tuple(ALGORITHMS),
    "environment": tuple(ENVIRONMENTS),
    "network": tuple(NETWORKS),
    "topology": tuple(TOPOLOGIES),
    "rule": ("sync", "rennala", "malenia", "afedpg"),
    "reduce": ("server", "mpi"),
    "optimizer": ("adam", "nigt", "sgd", "rmsprop"),
    "late": ("cancel", "ignore"),
}
VALUES = ["iql", "vdn", "qmix", "wqmix", "res"]
MIXED = VALUES[1:]
ACTION_CRITICS = ["maddpg", "masac"]
REFUSED = {("turns and masks", name): "take turns" for name in ("coma", *MIXED)}
REFUSED |= {("continuous", name): "needs discrete actions" for name in ("coma", *VALUES)}
SERVER_ONLY = "afedpg"  # each of its gradients is a step, so that sums are not possible


def allowed(row):
    return (row["environment"], row["algorithm"]) not in REFUSED and (row["rule"], row["reduce"]) != (
        SERVER_ONLY,
        "mpi",
    )


CHOSEN = choose(FACTORS, allowed)


def train_and_resume(directory, algorithm, size, *changes):
    """Make two updates, then a third from the checkpoint.

    Returns:
        The summary, the parameters after two updates, and the parameters at the end.
    """
    own = [f"algo.name={algorithm}"]
    if algorithm in ("ma_trace", "ppo", "coma"):
        own += ["algo.unroll=5"]
    if algorithm in ("ma_trace", "ppo", *ACTION_CRITICS):
        own += ["algo.critic=independent"]
    if algorithm in (*VALUES, *ACTION_CRITICS):
        own += ["algo.replay.learning_starts=4"]
    run_world(size, directory, *own, *changes, text=TINY)
    first = final_parameters(directory)
    run_world(size, directory, *own, *changes, "stop.updates=3", text=TINY, resume="auto")
    return summary(directory), first, final_parameters(directory)


def learned_and_resumed(told, first, last):
    """Return whether the run made all updates and the last one left changed, finite parameters."""
    done = (told["status"], told["updates"]) == ("finished", 3) and np.isfinite(told["eval_return_mean"])
    return done and np.isfinite(last).all() and not np.array_equal(first, last)


def changes_of(row):
    """Return the number of ranks and the overrides of a combination."""
    size, *topology = TOPOLOGIES[row["topology"]]
    rounds = (f"rounds.rule={row['rule']}", f"rounds.reduce={row['reduce']}", f"rounds.late={row['late']}")
    return (
        size,
        *ENVIRONMENTS[row["environment"]],
        *NETWORKS[row["network"]],
        *topology,
        *rounds,
        f"optimizer.name={row['optimizer']}",
    )


def test_the_chosen_combinations_have_every_allowed_pair():
    everything = [
        row for row in itertools.product(*FACTORS.values()) if allowed(dict(zip(FACTORS, row, strict=True)))
    ]
    assert pairs_of([tuple(row.values()) for row in CHOSEN], list(FACTORS)) == pairs_of(
        everything, list(FACTORS)
    )
    assert len(CHOSEN) <= 55


@pytest.mark.parametrize(
    "row", CHOSEN, ids=lambda row: "-".join(value.replace(" ", "_") for value in row.values())
)
def test_every_pair_of_settings(tmp_path, row):
    assert learned_and_resumed(*train_and_resume(tmp_path, row["algorithm"], *changes_of(row)))


@pytest.mark.parametrize(("environment", "algorithm"), REFUSED)
def test_an_unfit_environment_is_refused(tmp_path, environment, algorithm):
    with pytest.raises(ConfigError, match=rf"algo\.name: {algorithm} .*{REFUSED[environment, algorithm]}"):
        train_and_resume(tmp_path, algorithm, 1, *ENVIRONMENTS[environment])


ALL_TOPOLOGIES = {
    "one rank": (1,),
    "two groups": (4, "topology.groups=2"),
    "learners that act": (2, "topology.groups=2", "topology.actors_per_learner=0"),
    "allreduce": (4, "topology.groups=2", "rounds.reduce=mpi"),
    "rennala": (4, "topology.groups=2", "rounds.rule=rennala"),
    "malenia": (4, "topology.groups=2", "rounds.rule=malenia"),
    "afedpg": (4, "topology.groups=2", "rounds.rule=afedpg"),
}
ALL_ENVIRONMENTS = {**ENVIRONMENTS, "recurrent": (*SPREAD, *NETWORKS["recurrent"])}
EVERY = pytest.mark.long("every combination; the default lane has every pair")


@EVERY
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("environment", ALL_ENVIRONMENTS)
def test_every_algorithm_in_every_environment(tmp_path, algorithm, environment):
    if (environment, algorithm) not in REFUSED:
        assert learned_and_resumed(*train_and_resume(tmp_path, algorithm, 1, *ALL_ENVIRONMENTS[environment]))


@EVERY
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("topology", ALL_TOPOLOGIES)
def test_every_algorithm_in_every_topology(tmp_path, algorithm, topology):
    size, *changes = ALL_TOPOLOGIES[topology]
    assert learned_and_resumed(*train_and_resume(tmp_path, algorithm, size, *SPREAD, *changes))
