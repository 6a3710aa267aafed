"""Ranks that die or fall silent, on virtual ranks; the rules without a group; the end of a Slurm job."""

import subprocess
import time

import numpy as np
import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.protocol import Kind, control
from hpcmarl.config import SgdConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import StorageError
from hpcmarl.launch.processes import kill_process, started_at
from hpcmarl.launch.timelimit import end_of, job_end
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import Accept, Drop, Engine, Publish, Step, make_rule
from hpcmarl.roles import liveness, replacing
from hpcmarl.roles.liveness import Liveness, ServerLost
from hpcmarl.roles.recording import EPISODES_AHEAD
from hpcmarl.roles.run import prepare
from hpcmarl.types import Gradient
from tests.worlds import SPREAD, final_state, run_world, summary

# ---- rules


def test_sync_shares_the_batch_among_those_that_are_left():
    rule = make_rule("sync", 3, 6)
    rule.on_gradient(0, 0, 2)
    rule.on_gradient(1, 0, 2)
    assert rule.on_lost(2) == []  # two groups owe three each now
    assert rule.quota() == 3
    rule.on_gradient(0, 0, 1)
    assert [type(command) for command in rule.on_gradient(1, 0, 1)] == [Accept, Step, Publish]


def test_a_loss_can_end_the_round_that_waited_for_the_lost():
    rule = make_rule("sync", 2, 2)
    rule.on_gradient(0, 0, 2)
    step, publish = rule.on_lost(1)
    assert step == Step((1.0,), 0.5)
    assert publish == Publish(1, (0,))


def test_rennala_keeps_what_the_lost_has_delivered():
    rule = make_rule("rennala", 2, 4)
    rule.on_gradient(0, 0, 3)
    assert rule.on_lost(0) == []
    step, publish = rule.on_gradient(1, 0, 1)[1:]
    assert step.total_scale == 1 / 4
    assert publish.groups == (1,)


def test_malenia_without_a_group_weighs_the_others_alike():
    engine = Engine(make_rule("malenia", 3, 6), make_optimizer(SgdConfig(step_size=1.0), np.zeros(3, np.float32), [slice(0, 3)]))
    sums = {0: np.array([6.0, 0, 0], np.float32), 1: np.array([0, 8.0, 0], np.float32), 2: np.array([0, 0, 9.0], np.float32)}
    for group, count in ((0, 3), (2, 3)):
        assert [type(each) for each in engine.on_gradient(Gradient(group, 0, count, sums[group], 0, 0, 0.0))] == [Accept]
    assert engine.on_lost(2) == []
    engine.on_gradient(Gradient(1, 0, 4, sums[1], 0, 0, 0.0))
    # the mean over two objectives: (6/3)/2 and (8/4)/2, nothing of the lost one
    np.testing.assert_allclose(engine.optimizer.parameters, [1.0, 1.0, 0.0])


def test_the_lost_are_heard_no_more_and_the_last_group_cannot_be_left_out():
    rule = make_rule("rennala", 2, 4)
    rule.on_lost(1)
    assert rule.on_gradient(1, 0, 4) == [Drop(1, 4, 0)]
    assert rule.quota() == 4  # alone, it waits for the round's end
    with pytest.raises(ValueError, match="last"):
        rule.on_lost(0)


# ---- runs


def lost_ranks(directory):
    return [row["rank"] for row in summary(directory)["lost_ranks"]]


@pytest.mark.parametrize("rule", ["sync", "rennala", "afedpg"])
@pytest.mark.parametrize("victim", [3, 4])  # an actor of two, and a learner
def test_a_run_goes_on_without_an_actor_or_a_learner(rule, victim, tmp_path):
    changes = (f"rounds.rule={rule}", "rounds.batch=8", "topology.groups=2", "stop.updates=20", "checkpoint.every_updates=4")
    ranks = run_world(7, tmp_path, *changes, deaths={victim: 5})
    assert ranks[0].context.topology.roles_of(victim) == ({3: "actor", 4: "learner"}[victim],)
    assert (summary(tmp_path)["status"], summary(tmp_path)["updates"]) == ("finished", 20)
    assert lost_ranks(tmp_path) == [victim]
    assert all(rank.exit_code == 0 for rank in ranks if rank.context.rank != victim)


@pytest.mark.parametrize(("ranks", "groups"), [(4, 1), (3, 1), (5, 2)])
def test_a_new_process_acts_in_the_place_of_a_dead_actor(ranks, groups, tmp_path):
    changes = ("topology.respawn=true", f"topology.groups={groups}", "stop.updates=12", "checkpoint.every_updates=1")
    last = ranks - 1
    world = run_world(ranks, tmp_path, *changes, deaths={last: 4})
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 12)
    assert [(row["rank"], row["replaced"]) for row in told["lost_ranks"]] == [(last, True)]
    place = str(world[0].context.topology.actor_index(last))
    state = final_state(tmp_path)["roles"]["actor"][place]
    assert state["version"] >= 10  # it was given weights to the end
    assert min(state["environment"]["episode"]) >= EPISODES_AHEAD  # and plays what nobody has played


def test_whoever_dies_again_and_again_is_not_replaced_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing, "MOST", 0)
    run_world(4, tmp_path, "topology.respawn=true", "stop.updates=8", deaths={3: 2})
    assert [(row["rank"], row["replaced"]) for row in summary(tmp_path)["lost_ranks"]] == [(3, False)]
    assert summary(tmp_path)["status"] == "finished"


def test_a_group_whose_only_actor_cannot_be_replaced_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(replacing, "MOST", 0)
    changes = ("topology.respawn=true", "topology.groups=2", "rounds.rule=rennala", "stop.updates=8")
    world = run_world(5, tmp_path, *changes, deaths={4: 2})
    assert world[0].context.topology.groups[1].actors == (4,)
    assert world[0].roles["server"].engine.rule.lost == {1}
    assert summary(tmp_path)["status"] == "finished"
    assert set(final_state(tmp_path)["roles"]["actor"]) == {"0", "1"}


def test_learners_that_sum_among_themselves_go_on_with_the_survivors(tmp_path):
    changes = ("rounds.reduce=mpi", "topology.groups=3", "topology.actors_per_learner=1", "stop.updates=20", "checkpoint.every_updates=4")
    ranks = run_world(7, tmp_path, *changes, deaths={3: 5, 5: 11}, order=3)
    replicas = [rank.roles["learner"].replica.optimizer for rank in ranks if "learner" in rank.roles and rank.context.rank not in (3, 5)]
    assert [replica.updates for replica in replicas] == [20]
    assert (summary(tmp_path)["updates"], lost_ranks(tmp_path)) == (20, [3, 5])


def test_the_survivors_replicas_stay_identical(tmp_path):
    changes = ("rounds.reduce=mpi", "rounds.rule=rennala", "rounds.batch=5", "topology.groups=3", "topology.actors_per_learner=0", "stop.updates=20")
    ranks = run_world(4, tmp_path, *changes, "topology.server=dedicated", deaths={2: 7}, order=1)
    one, other = (ranks[rank].roles["learner"].replica.optimizer for rank in (1, 3))
    assert one.updates == other.updates == 20
    np.testing.assert_array_equal(one.parameters, other.parameters)


@pytest.mark.parametrize(("wanted", "code"), [("auto", 75), ("stop", 75), ("drop", 0)])
def test_malenia_stops_or_goes_on_as_configured(wanted, code, tmp_path):
    changes = ("rounds.rule=malenia", "rounds.batch=8", "topology.groups=2", "stop.updates=12", f"rounds.on_loss={wanted}")
    ranks = run_world(5, tmp_path, *changes, deaths={4: 5})
    assert ranks[0].exit_code == code
    assert list(tmp_path.glob("checkpoints/checkpoint-*.h5"))
    if wanted == "drop":
        assert summary(tmp_path)["updates"] == 12


def test_a_run_that_has_lost_everybody_stops_with_a_checkpoint_and_resumes(tmp_path):
    ranks = run_world(3, tmp_path, "stop.updates=12", deaths={1: 5, 2: 6})
    assert ranks[0].exit_code == 75
    assert summary(tmp_path)["status"] == "interrupted"
    run_world(3, tmp_path, "stop.updates=12", resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 12
    assert summary(tmp_path)["lost_ranks"] == []


def test_without_a_good_checkpoint_nobody_is_told_to_try_again(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr("hpcmarl.io.checkpoint.save_checkpoint", fails)
    ranks = run_world(3, tmp_path, "stop.updates=12", deaths={1: 5, 2: 6})
    assert ranks[0].exit_code == 1
    assert summary(tmp_path)["checkpoint_error"] == "the disk is full"


def test_a_deterministic_run_does_not_go_on_differently(tmp_path):
    ranks = run_world(4, tmp_path, "deterministic=true", "stop.updates=12", deaths={3: 5})
    assert ranks[0].exit_code == 75


def test_nobody_goes_on_without_the_server(tmp_path):
    with pytest.raises(ServerLost, match=r"rank 0 \(server\) has died"):
        run_world(4, tmp_path, "stop.updates=12", deaths={0: 3})


# ---- silence


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """The liveness of rank 0 and of rank 1 of two, and their clock."""
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    monkeypatch.setattr("hpcmarl.roles.base.time", clock)
    config = load_config(SPREAD, ["topology.silence_seconds=10"])
    transports = LocalWorld(2).transports
    contexts = [prepare(transport, config, str(tmp_path), None) for transport in transports]
    return clock, *map(Liveness, contexts), transports


def beat_for(clock, other, seconds):
    for _ in range(2 * seconds):
        clock.now += 0.5
        other.beat()


def test_a_silent_rank_is_found_only_while_somebody_looks(watched):
    clock, server, _, _ = watched
    assert server.silent() == []  # nobody has begun
    server.heard(1)
    clock.now += 1000.0  # the whole job was suspended
    assert server.silent() == []
    found = []
    for _ in range(30):
        clock.now += 0.5
        found.append(server.silent())
    assert found[:17] == [[]] * 17
    assert [1] in found[17:25]
    server.forget(1)
    assert server.silent() == []


def test_a_rank_that_is_alive_says_so_and_notices_that_nobody_listens(watched):
    clock, _, other, transports = watched

    beat_for(clock, other, 5)
    message = transports[0].receive()
    assert (message.kind, message.source) == (Kind.ALIVE, 1)
    message.release()
    beat_for(clock, other, 9)
    with pytest.raises(ServerLost, match=r"topology\.silence_seconds"):
        beat_for(clock, other, 10)


def test_a_server_that_has_not_begun_is_given_ten_times_as_long(watched):
    clock, _, other, transports = watched  # it builds its roles: games are compiled while other ranks have the cores

    beat_for(clock, other, 99)
    transports[0].receive().release()
    beat_for(clock, other, 9)
    with pytest.raises(ServerLost, match=r"no message for 10 s \(topology\.silence_seconds\)"):
        beat_for(clock, other, 10)


def test_a_server_that_never_begins_is_lost(watched):
    clock, _, other, _ = watched
    with pytest.raises(ServerLost, match=r"no message for 100 s \(it has not begun; ten times topology\.silence_seconds\)"):
        beat_for(clock, other, 120)


def test_a_rank_that_was_given_up_leaves_when_it_wakes(tmp_path):
    from hpcmarl.comm.transport import PeerFailure
    from hpcmarl.packing import pack
    from hpcmarl.roles.rank import Rank

    transports = LocalWorld(2).transports
    contexts = [prepare(transport, load_config(SPREAD), str(tmp_path), None) for transport in transports]
    rank = Rank(contexts[1])
    note = {"rank": 1, "why": "was not heard for 4 s", "groups": [0], "processes": []}
    transports[0].send(1, control(Kind.LOST, pack(note), source=0))
    with pytest.raises(PeerFailure, match="went on without rank 1"):
        rank.step()
    rank.close()


def test_only_the_very_process_is_killed():
    process = subprocess.Popen(["sleep", "60"])
    start = started_at(process.pid)
    assert start > 0
    assert not kill_process(process.pid, start + 1)
    assert process.poll() is None
    assert kill_process(process.pid, start)
    assert process.wait(10) == -9
    assert not kill_process(process.pid, start)


# ---- the end of a job


def test_the_end_of_a_job_is_read_from_slurm():
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 100))
    assert end_of(f"JobId=7 StartTime=2026-01-01T00:00:00 EndTime={soon} Deadline=N/A") == pytest.approx(time.time() + 100, abs=2)
    assert end_of("JobId=7 EndTime=Unknown") is None
    assert end_of("JobId=7 EndTime=2020-01-01T00:00:00") is None
    assert job_end({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1800000000"}) == 1_800_000_000
    assert job_end({"SLURM_JOB_END_TIME": "1800000000"}) is None
    step = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "9", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    assert job_end({**step, "SLURM_PROCID": "1"}) is None


@pytest.mark.parametrize(("left", "margin"), [(1000.0, 60.0), (40.0, 10.0)])
def test_a_run_stops_before_the_job_ends_but_not_at_its_start(left, margin, tmp_path):
    from hpcmarl.roles.rank import Rank

    context = prepare(LocalWorld(1).transports[0], load_config(SPREAD), str(tmp_path), None, time.time() + left)
    rank = Rank(context)
    server = rank.roles["server"]
    assert server.stop_at == pytest.approx(context.job_end - margin, abs=1.0)
    server.stop_at = time.time()
    while rank.exit_code is None:
        rank.step()
    rank.close()
    assert rank.exit_code == 75
    assert summary(tmp_path)["status"] == "interrupted"
