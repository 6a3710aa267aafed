"""Whole runs of PPO, with several passes over a batch, on one rank and on several."""

import pytest

from hpcmarl.algos.ppo import PPO as PPOAlgorithm
from tests.support.worlds import run_world, summary

PPO = ("algo.name=ppo", "algo.epochs=2", "algo.minibatches=2")


def test_one_rank_collects_a_batch_from_single_unrolls(tmp_path):
    """Check that the learner has room for a whole batch.

    The learner holds the trajectories of the actor on its own rank until the batch is complete.
    """
    changes = (
        "algo={name: ppo, unroll: 4, epochs: 1, minibatches: 4}",
        "rounds.batch=8",
        "rounds.queue=2",
        "topology.environments_per_actor=1",
    )
    run_world(1, tmp_path, *changes, "stop.updates=9")
    assert summary(tmp_path)["updates"] == 9


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("rounds.reduce=mpi",),
        ("rounds.rule=rennala",),
        ("rounds.rule=afedpg",),
        ("algo.network.body=gru", "algo.agent_id=true"),
        ("algo.value_clip=0.2", "algo.value_loss=huber", "algo.normalise_values=true"),
        ("algo.advantages=once", "rounds.reduce=mpi"),
        (
            "algo.critic_network={hidden: [8], body: gru, memory: 5}",
            "algo.advantages=once",
            "algo.value_clip=0.2",
            "algo.critic_input=agent",
        ),
    ],
)
def test_ppo_trains_and_resumes_on_ranks(tmp_path, size, changes):
    groups = ("topology.groups=2",) if size > 1 else ()
    ranks = run_world(size, tmp_path, *PPO, *groups, *changes, "stop.updates=9")
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 9)
    starts = {learner.rollouts.begun[1] for rank in ranks if (learner := rank.roles.get("learner"))}
    assert starts != {9}  # version 9 lies within a batch of four gradients
    run_world(size, tmp_path, *PPO, *groups, *changes, "stop.updates=12", resume="auto")
    assert summary(tmp_path)["updates"] == 12


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("rounds.reduce=mpi",),
        ("rounds.rule=rennala",),
        ("rounds.rule=malenia",),
        ("rounds.rule=afedpg",),
        ("rounds.backpressure=true",),
    ],
)
def test_batches_that_end_early_hold_nobody_up(changes, tmp_path, monkeypatch):
    """One of the two groups may end its batch early, at any gradient."""
    ended = []

    def ends_batch(self, statistics):
        ended.append(int(statistics["gradient_norm"] * 1e6) % 2)
        return ended[-1] == 1

    monkeypatch.setattr(PPOAlgorithm, "ends_batch", ends_batch)
    run_world(4, tmp_path, *PPO, "topology.groups=2", *changes, "stop.updates=20")
    assert summary(tmp_path)["updates"] == 20
    assert 0 < sum(ended) < len(ended)


def test_a_kl_target_leaves_out_most_passes(tmp_path):
    """Check that a tiny target of the KL divergence skips most passes.

    Every change exceeds 1e-12. Only the first one or two of the four gradients of a batch are computed.
    """
    ranks = run_world(
        1, tmp_path, *PPO, "algo.kl_target=1e-12", "logging.every_seconds=1000", "stop.updates=20"
    )
    source = ranks[0].roles["learner"].rollouts
    assert source.begun[1] >= 18
