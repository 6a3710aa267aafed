"""Whole runs of PPO: batches gone through several times, on one rank and on several."""

import pytest

from tests.support.worlds import run_world, summary

PPO = ("algo.name=ppo", "algo.epochs=2", "algo.minibatches=2")


def test_one_rank_collects_a_batch_from_single_unrolls(tmp_path):
    """The learner holds on to what its own rank's actor has sent: there must be room for all of a batch."""
    changes = ("algo={name: ppo, unroll: 4, epochs: 1, minibatches: 4}", "rounds.batch=8", "rounds.queue=2", "topology.environments_per_actor=1")
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
        ("algo.network.recurrent=true", "algo.agent_id=true"),
        ("algo.value_clip=0.2", "algo.value_loss=huber", "algo.normalise_values=true"),
        ("algo.advantages=once", "rounds.reduce=mpi"),
    ],
)
def test_ppo_trains_and_resumes_on_ranks(tmp_path, size, changes):
    groups = ("topology.groups=2",) if size > 1 else ()
    ranks = run_world(size, tmp_path, *PPO, *groups, *changes, "stop.updates=9")
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 9)
    starts = {learner.feed.begun[1] for rank in ranks if (learner := rank.roles.get("learner"))}
    assert starts != {9}  # nine is in the middle of a batch of four gradients
    run_world(size, tmp_path, *PPO, *groups, *changes, "stop.updates=12", resume="auto")
    assert summary(tmp_path)["updates"] == 12
