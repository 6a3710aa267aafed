"""Deaths of virtual ranks: continuation, replacement, and the end of a run."""

import numpy as np
import pytest

from hpcmarl.errors import StorageError
from hpcmarl.roles.server.recorder import EPISODES_AHEAD
from hpcmarl.runtime import respawn as replacing
from hpcmarl.runtime.heartbeat import ServerLost
from tests.support.worlds import final_state, run_world, summary

# ---- runs


def lost_ranks(directory):
    return [row["rank"] for row in summary(directory)["lost_ranks"]]


@pytest.mark.parametrize("rule", ["sync", "rennala", "afedpg"])
@pytest.mark.parametrize("victim", [3, 4])  # one of two actors, and a learner
def test_run_continues_without_a_dead_actor_or_learner(rule, victim, tmp_path):
    changes = (
        f"rounds.rule={rule}",
        "rounds.batch=8",
        "topology.groups=2",
        "stop.updates=20",
        "checkpoint.every_updates=4",
    )
    ranks = run_world(7, tmp_path, *changes, deaths={victim: 5})
    assert ranks[0].context.topology.roles_of(victim) == ({3: "actor", 4: "learner"}[victim],)
    assert (summary(tmp_path)["status"], summary(tmp_path)["updates"]) == ("finished", 20)
    assert lost_ranks(tmp_path) == [victim]
    assert all(rank.exit_code == 0 for rank in ranks if rank.context.rank != victim)


@pytest.mark.parametrize(("ranks", "groups"), [(4, 1), (3, 1), (5, 2)])
def test_dead_actor_is_replaced_by_a_new_process(ranks, groups, tmp_path):
    changes = (
        "topology.respawn=true",
        f"topology.groups={groups}",
        "stop.updates=12",
        "checkpoint.every_updates=1",
    )
    last = ranks - 1
    world = run_world(ranks, tmp_path, *changes, deaths={last: 4})
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 12)
    assert [(row["rank"], row["replaced"]) for row in told["lost_ranks"]] == [(last, True)]
    place = str(world[0].context.topology.actor_index(last))
    state = final_state(tmp_path)["roles"]["actor"][place]
    assert state["version"] >= 10  # it received weights to the end
    assert min(state["environment"]["episode"]) >= EPISODES_AHEAD  # and plays new episodes


def test_actor_replacements_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing, "MOST", 0)
    run_world(4, tmp_path, "topology.respawn=true", "stop.updates=8", deaths={3: 2})
    assert [(row["rank"], row["replaced"]) for row in summary(tmp_path)["lost_ranks"]] == [(3, False)]
    assert summary(tmp_path)["status"] == "finished"


def test_group_without_a_replaceable_actor_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing, "MOST", 0)
    changes = ("topology.respawn=true", "topology.groups=2", "rounds.rule=rennala", "stop.updates=8")
    world = run_world(5, tmp_path, *changes, deaths={4: 2})
    assert world[0].context.topology.groups[1].actors == (4,)
    assert world[0].roles["server"].engine.rule.lost == {1}
    assert summary(tmp_path)["status"] == "finished"
    assert set(final_state(tmp_path)["roles"]["actor"]) == {"0", "1"}


def test_collective_learners_continue_after_losses(tmp_path):
    changes = (
        "rounds.reduce=mpi",
        "topology.groups=3",
        "topology.actors_per_learner=1",
        "stop.updates=20",
        "checkpoint.every_updates=4",
    )
    ranks = run_world(7, tmp_path, *changes, deaths={3: 5, 5: 11}, order=3)
    replicas = [
        rank.roles["learner"].replica.optimizer
        for rank in ranks
        if "learner" in rank.roles and rank.context.rank not in (3, 5)
    ]
    assert [replica.updates for replica in replicas] == [20]
    assert (summary(tmp_path)["updates"], lost_ranks(tmp_path)) == (20, [3, 5])


def test_the_survivors_replicas_stay_identical(tmp_path):
    changes = (
        "rounds.reduce=mpi",
        "rounds.rule=rennala",
        "rounds.batch=5",
        "topology.groups=3",
        "topology.actors_per_learner=0",
        "stop.updates=20",
    )
    ranks = run_world(4, tmp_path, *changes, "topology.server=dedicated", deaths={2: 7}, order=1)
    one, other = (ranks[rank].roles["learner"].replica.optimizer for rank in (1, 3))
    assert one.updates == other.updates == 20
    np.testing.assert_array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize(("wanted", "code"), [("auto", 75), ("stop", 75), ("drop", 0)])
def test_malenia_stops_or_continues_on_loss_as_configured(wanted, code, tmp_path):
    changes = (
        "rounds.rule=malenia",
        "rounds.batch=8",
        "topology.groups=2",
        "stop.updates=12",
        f"rounds.on_loss={wanted}",
    )
    ranks = run_world(5, tmp_path, *changes, deaths={4: 5})
    assert ranks[0].exit_code == code
    assert list(tmp_path.glob("checkpoints/checkpoint-*.h5"))
    if wanted == "drop":
        assert summary(tmp_path)["updates"] == 12


def test_run_without_learners_stops_and_can_be_resumed(tmp_path):
    ranks = run_world(3, tmp_path, "stop.updates=12", deaths={1: 5, 2: 6})
    assert ranks[0].exit_code == 75
    assert summary(tmp_path)["status"] == "interrupted"
    run_world(3, tmp_path, "stop.updates=12", resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 12
    assert summary(tmp_path)["lost_ranks"] == []


def test_lost_run_without_a_checkpoint_exits_with_code_1(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr("hpcmarl.io.checkpoint.save_checkpoint", fails)
    ranks = run_world(3, tmp_path, "stop.updates=12", deaths={1: 5, 2: 6})
    assert ranks[0].exit_code == 1
    assert summary(tmp_path)["checkpoint_error"] == "the disk is full"


def test_deterministic_run_stops_after_a_loss(tmp_path):
    ranks = run_world(4, tmp_path, "deterministic=true", "stop.updates=12", deaths={3: 5})
    assert ranks[0].exit_code == 75


def test_loss_of_the_awaited_group_ends_its_round(tmp_path):
    """Let a learner die after the other group has delivered its gradients.

    The round ends at once, without another gradient.
    """
    changes = (
        "topology.groups=[{}, {delay: {trajectory: 0.05}}]",
        "topology.actors_per_learner=0",
        "topology.server=dedicated",
    )
    rounds = []

    def dies(ranks):
        rule = ranks[0].roles["server"].engine.rule
        if rule.counts[0] and not rule.counts[1] and rule.round >= 2:
            rounds.append(rule.round)
        return bool(rounds)

    run_world(3, tmp_path, *changes, "rounds.batch=2", "stop.updates=8", deaths={2: dies})
    assert lost_ranks(tmp_path) == [2]
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 8)
    assert rounds


def test_dead_server_raises_server_lost(tmp_path):
    with pytest.raises(ServerLost, match=r"rank 0 \(server\) has died"):
        run_world(4, tmp_path, "stop.updates=12", deaths={0: 3})
