"""The queues of a learner that is behind, and when they hold back their actors."""

import time
from types import SimpleNamespace

import pytest

from hpcmarl.config.file import load_config
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.learner.rollout_queue import MinibatchSampler, RolloutQueue
from hpcmarl.roles.timing import TrajectoryTimer
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
        context = SimpleNamespace(
            config=load_config(SPREAD, ["rounds.backpressure=true", *extra, key]), queue_limit=lambda _: 8
        )
        algorithm = SimpleNamespace(on_policy=False, epochs=2, minibatches=3)
        feed = kind(context, SimpleNamespace(index=0, actors=(1,)), make_rule("sync", 1, 2), algorithm)
        for index in range(count):
            assert not feed.behind(3), index
            rollout = SimpleNamespace(version=3, count=1)
            feed.add(SimpleNamespace(source=1), rollout, 3)
        assert feed.behind(3) is expected


def test_trajectory_timer_excludes_paused_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = TrajectoryTimer(2)
    now[0] = 7.0
    timer.skip(5.0)
    timer.finished([0])
    assert timer.sums == [1, 2.0, 4.0]
