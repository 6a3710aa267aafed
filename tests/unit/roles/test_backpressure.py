"""Queues of a learner that is behind, and the moments when it holds back its actors."""

import time
from types import SimpleNamespace

import pytest

from hpcmarl.comm.topology import Group
from hpcmarl.config import MinibatchPasses
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.learner.minibatches import MinibatchSampler
from hpcmarl.roles.learner.rollout_queue import RolloutQueue
from hpcmarl.roles.timing import TrajectoryTimer
from tests.support.contexts import make_context
from tests.support.worlds import SPREAD


@pytest.mark.parametrize(
    ("kind", "extra", "count"),
    [(RolloutQueue, (), 4), (RolloutQueue, ("algo.reuse=2",), 2), (MinibatchSampler, (), 6)],
)
def test_learner_is_behind_at_two_gradients_or_a_full_batch(kind, extra, count):
    for key, expected in (
        ("rounds.backpressure=true", True),
        ("rounds.backpressure=false", False),
        ("deterministic=true", False),
    ):
        context = make_context(SPREAD, "rounds.backpressure=true", *extra, key)
        passes = (MinibatchPasses(epochs=2, minibatches=3),) if kind is MinibatchSampler else ()
        algorithm = SimpleNamespace(on_policy=False)
        source = kind(context, Group(0, 0, (1,)), make_rule("sync", 1, 2), algorithm, *passes)
        for index in range(count):
            assert not source.is_behind(3), index
            rollout = SimpleNamespace(version=3, count=1)
            source.add(SimpleNamespace(source=1), rollout, 3)
        assert source.is_behind(3) is expected


def test_learner_that_lacks_different_trajectories_is_not_behind():
    context = make_context(SPREAD, "rounds.backpressure=true", "algo.reuse=4")
    algorithm = SimpleNamespace(on_policy=False)
    source = RolloutQueue(context, Group(0, 0, (1,)), make_rule("sync", 1, 4), algorithm)
    for expected in (False, False, False, True):  # a gradient uses no trajectory twice
        source.add(SimpleNamespace(source=1), SimpleNamespace(version=3, count=1), 3)
        assert source.is_behind(3) is expected


def test_trajectory_timer_excludes_paused_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = TrajectoryTimer(2)
    now[0] = 7.0
    timer.skip(5.0)
    timer.finished([0])
    assert timer.sums == [1, 2.0, 4.0]
