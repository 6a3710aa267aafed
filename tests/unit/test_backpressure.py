"""The queues of a learner that is behind, and when they hold back their actors."""

import time
from types import SimpleNamespace

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.transport import SendHandle
from hpcmarl.config.file import load_config
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.feed import Iterations, Queue
from hpcmarl.roles.run import make_rank, prepare
from hpcmarl.roles.timing import TrajectoryTimer
from tests.support.worlds import ECHO, SPREAD

ON = "rounds.backpressure=true"


def stands_still(actor):
    assert not all(actor.work() for _ in range(2000))


class OnItsWay(SendHandle):
    arrived = False

    def done(self):
        return self.arrived


@pytest.mark.parametrize(("text", "extra", "room"), [(SPREAD, ("algo.unroll=4",), 8), (ECHO, ("topology.environments_per_actor=40",), 64)])
def test_actor_pauses_when_its_outbox_is_full(monkeypatch, tmp_path, text, extra, room):
    """A learner that is busy says nothing; how much of what was sent has not arrived is known to the actor alone."""
    world = LocalWorld(2)
    ranks = [make_rank(prepare(transport, load_config(text, [*extra, ON]), str(tmp_path), None)) for transport in world.transports]
    actor = ranks[1].roles["actor"]
    try:
        while not actor.has_weights:
            for rank in ranks:
                rank.step()
        actor.told_to_wait = False
        sent = []
        monkeypatch.setattr(actor.outbox.context.transport, "send", lambda *_: sent.append(OnItsWay()) or sent[-1])
        monkeypatch.setattr(actor.context.transport, "shares_memory", lambda _: False)
        actor.outbox.limit = actor.outbox._under_way_limit()
        stands_still(actor)
        before = len(sent)
        assert 2 <= before < room + 40
        assert actor.held_since is not None
        for handle in sent[: before // 2 + 1]:
            handle.arrived = True
        stands_still(actor)
        assert len(sent) > before
        assert actor.counters["held_seconds"] > 0
        assert actor.outbox.dropped_steps == 0
    finally:
        for rank in ranks:
            rank.close()


@pytest.mark.parametrize(("kind", "extra", "count"), [(Queue, (), 4), (Queue, ("algo.reuse=2",), 2), (Iterations, (), 6)])
def test_learner_is_behind_at_two_gradients_or_a_full_batch(kind, extra, count):
    for key, expected in (("rounds.backpressure=true", True), ("rounds.backpressure=false", False), ("deterministic=true", False)):
        context = SimpleNamespace(config=load_config(SPREAD, ["rounds.backpressure=true", *extra, key]), queue_limit=lambda _: 8)
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
