"""Round rules after the loss of a group; heartbeats; the end of a Slurm job."""

import time

import numpy as np
import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.protocol import Kind, control
from hpcmarl.config import SgdConfig
from hpcmarl.config.file import load_config
from hpcmarl.launch.timelimit import end_of, job_end
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import Accept, Drop, Engine, Publish, Step, make_rule
from hpcmarl.runtime import heartbeat as liveness
from hpcmarl.runtime.heartbeat import Liveness, ServerLost
from hpcmarl.training import prepare
from hpcmarl.types import Gradient
from tests.support.worlds import SPREAD

# ---- rules


def test_sync_shares_the_batch_among_those_that_are_left():
    rule = make_rule("sync", 3, 6)
    rule.on_gradient(0, 0, 2)
    rule.on_gradient(1, 0, 2)
    # Each of the two remaining groups now owes three trajectories.
    assert rule.on_lost(2) == []
    assert rule.quota() == 3
    rule.on_gradient(0, 0, 1)
    assert [type(command) for command in rule.on_gradient(1, 0, 1)] == [Accept, Step, Publish]


def test_lost_group_can_complete_the_round():
    rule = make_rule("sync", 2, 2)
    rule.on_gradient(0, 0, 2)
    step, publish = rule.on_lost(1)
    assert step == Step((1.0,), 0.5)
    assert publish == Publish(1, (0,))


def test_rennala_keeps_trajectories_of_a_lost_group():
    rule = make_rule("rennala", 2, 4)
    rule.on_gradient(0, 0, 3)
    assert rule.on_lost(0) == []
    step, publish = rule.on_gradient(1, 0, 1)[1:]
    assert step.total_scale == 1 / 4
    assert publish.groups == (1,)


def test_malenia_weighs_remaining_groups_equally():
    engine = Engine(
        make_rule("malenia", 3, 6),
        make_optimizer(SgdConfig(step_size=1.0), np.zeros(3, np.float32), [slice(0, 3)]),
    )
    sums = {
        0: np.array([6.0, 0, 0], np.float32),
        1: np.array([0, 8.0, 0], np.float32),
        2: np.array([0, 0, 9.0], np.float32),
    }
    for group, count in ((0, 3), (2, 3)):
        assert [
            type(each) for each in engine.on_gradient(Gradient(group, 0, count, sums[group], 0, 0, 0.0))
        ] == [Accept]
    assert engine.on_lost(2) == []
    engine.on_gradient(Gradient(1, 0, 4, sums[1], 0, 0, 0.0))
    # The mean over two objectives is (6/3)/2 and (8/4)/2, without the gradient of the lost group.
    np.testing.assert_allclose(engine.optimizer.parameters, [1.0, 1.0, 0.0])


def test_loss_of_the_awaited_group_steps_with_the_others_sum():
    engine = Engine(
        make_rule("sync", 2, 2),
        make_optimizer(SgdConfig(step_size=1.0), np.zeros(2, np.float32), [slice(0, 2)]),
    )
    engine.on_gradient(Gradient(0, 0, 2, np.array([4.0, 2.0], np.float32), 0, 0, 0.0))
    assert [type(each) for each in engine.on_lost(1)] == [Step, Publish]
    np.testing.assert_allclose(engine.optimizer.parameters, [2.0, 1.0])


def test_gradients_of_lost_groups_are_dropped():
    rule = make_rule("rennala", 2, 4)
    rule.on_lost(1)
    assert rule.on_gradient(1, 0, 4) == [Drop(1, 4, 0)]
    assert rule.quota() == 4  # the only group left delivers the whole batch
    with pytest.raises(ValueError, match="last"):
        rule.on_lost(0)


# ---- silence


class Clock:
    """A replacement for the module `time`."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Return a clock, the liveness of rank 0 and of rank 1 of two, and their transports."""
    clock = Clock()
    monkeypatch.setattr(liveness, "time", clock)
    monkeypatch.setattr("hpcmarl.roles.base.time", clock)
    config = load_config(SPREAD, ["topology.heartbeat_timeout_seconds=10"])
    transports = LocalWorld(2).transports
    contexts = [prepare(transport, config, str(tmp_path), None) for transport in transports]
    return clock, *map(Liveness, contexts), transports


def beat_for(clock, other, seconds):
    for _ in range(2 * seconds):
        clock.now += 0.5
        other.beat()


def test_silent_rank_is_detected_only_while_polling(watched):
    clock, server, _, _ = watched
    assert server.silent() == []  # no rank has begun
    server.heard(1)
    clock.now += 1000.0  # as if the whole job was suspended
    assert server.silent() == []
    found = []
    for _ in range(30):
        clock.now += 0.5
        found.append(server.silent())
    assert found[:17] == [[]] * 17
    assert [1] in found[17:25]
    server.forget(1)
    assert server.silent() == []


def test_rank_sends_heartbeats_and_detects_a_silent_server(watched):
    clock, _, other, transports = watched

    beat_for(clock, other, 5)
    message = transports[0].receive()
    assert (message.kind, message.source) == (Kind.ALIVE, 1)
    message.release()
    beat_for(clock, other, 9)
    with pytest.raises(ServerLost, match=r"topology\.heartbeat_timeout_seconds"):
        beat_for(clock, other, 10)


def test_server_gets_ten_times_the_timeout_before_it_starts(watched):
    # The server builds its roles. Games may be compiled while other ranks use the cores.
    clock, _, other, transports = watched

    beat_for(clock, other, 99)
    transports[0].receive().release()
    beat_for(clock, other, 9)
    with pytest.raises(ServerLost, match=r"no message for 10 s \(topology\.heartbeat_timeout_seconds\)"):
        beat_for(clock, other, 10)


def test_limit_of_silence_counts_from_the_first_message(watched):
    # The rank received START, but has not yet read the messages that arrived while it built its roles.
    clock, _, other, _ = watched

    beat_for(clock, other, 50)
    other.heard(0)
    beat_for(clock, other, 9)
    with pytest.raises(ServerLost, match=r"no message for 10 s \(topology\.heartbeat_timeout_seconds\)"):
        beat_for(clock, other, 10)


def test_server_that_never_starts_raises_server_lost(watched):
    clock, _, other, _ = watched
    with pytest.raises(
        ServerLost,
        match=r"no message for 100 s \(it has not begun; ten times topology\.heartbeat_timeout_seconds\)",
    ):
        beat_for(clock, other, 120)


def test_rank_declared_lost_exits_with_peer_failure(tmp_path):
    from hpcmarl.comm.transport import PeerFailure
    from hpcmarl.packing import pack
    from hpcmarl.runtime.rank import Rank

    transports = LocalWorld(2).transports
    contexts = [prepare(transport, load_config(SPREAD), str(tmp_path), None) for transport in transports]
    rank = Rank(contexts[1])
    note = {"rank": 1, "why": "was not heard for 4 s", "groups": [0], "processes": []}
    transports[0].send(1, control(Kind.LOST, pack(note), source=0))
    with pytest.raises(PeerFailure, match="run continues without rank 1"):
        rank.step()
    rank.close()


# ---- the end of a job


def test_the_end_of_a_job_is_read_from_slurm():
    soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 100))
    assert end_of(f"JobId=7 StartTime=2026-01-01T00:00:00 EndTime={soon} Deadline=N/A") == pytest.approx(
        time.time() + 100, abs=2
    )
    assert end_of("JobId=7 EndTime=Unknown") is None
    assert end_of("JobId=7 EndTime=2020-01-01T00:00:00") is None
    assert job_end({"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "1800000000"}) == 1_800_000_000
    assert job_end({"SLURM_JOB_END_TIME": "1800000000"}) is None
    step = {"SLURM_JOB_ID": "7", "SLURM_JOB_END_TIME": "9", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    assert job_end({**step, "SLURM_PROCID": "1"}) is None
