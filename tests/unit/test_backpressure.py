"""rounds.backpressure: actors stand still while their learner is behind, and never for longer: whole runs on virtual ranks, and the feeds alone."""

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
from tests.worlds import ECHO, SPREAD, run_world, summary

ON = "rounds.backpressure=true"
# eight actors make three trajectories while their learner makes one gradient of two
CROWD = ("topology.groups=1", "topology.server=dedicated", "rounds.batch=2", "rounds.queue=2", "stop.updates=60")
PPO = ("algo.name=ppo", "algo.epochs=12", "algo.minibatches=2", "rounds.batch=12")  # 24 of the 64 trajectories that they make meanwhile


def actors_of(ranks):
    return [rank.roles["actor"] for rank in ranks if "actor" in rank.roles]


def held(ranks):
    return sum(actor.counters["held_seconds"] for actor in actors_of(ranks))


@pytest.mark.parametrize("extra", [(), PPO, ("algo.reuse=2", "rounds.max_staleness=60")])
def test_nothing_is_dropped_where_actors_wait(tmp_path, extra):
    ranks = run_world(10, tmp_path / "free", *CROWD, *extra)
    told = summary(tmp_path / "free")
    lost = told["dropped_rollouts"] + told["wasted_gradients"] + sum(actor.outbox.dropped_steps for actor in actors_of(ranks))
    assert lost > 0
    assert held(ranks) == 0
    ranks = run_world(10, tmp_path / "waiting", *CROWD, *extra, ON)
    told = summary(tmp_path / "waiting")
    assert told["dropped_rollouts"] == told["wasted_gradients"] == sum(actor.outbox.dropped_steps for actor in actors_of(ranks)) == 0
    assert told["updates"] == 60
    assert held(ranks) > 0


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (5, 1), (5, 2)])
def test_a_replay_keeps_its_ratio_from_both_sides(tmp_path, size, groups):
    changes = (f"topology.groups={groups}", f"rounds.batch={16 * groups}", "algo.replay.ratio=64", "stop.updates=120")
    found = {}
    for pressure in ("false", "true"):
        ranks = run_world(size, tmp_path / pressure, *changes, f"rounds.backpressure={pressure}", text=ECHO)
        feeds = [rank.roles["learner"].feed for rank in ranks if "learner" in rank.roles]
        found[pressure] = [feed.used / (feed.collected - feed.config.starts + 1) for feed in feeds]
    assert max(found["false"]) < 25
    assert min(found["true"]) > 35  # what an actor sends in one step may be all that it may send in this run
    assert max(found["true"]) <= 64


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia", "afedpg"])
@pytest.mark.parametrize(
    ("text", "extra"), [(SPREAD, ()), (SPREAD, PPO), (SPREAD, ("algo.name=reinforce",)), (ECHO, ("algo.replay={ratio: 64, starts: 16}",))]
)
def test_every_rule_goes_on(tmp_path, rule, text, extra):
    changes = ("topology.groups=3", "stop.updates=12", "rounds.batch=6", f"rounds.rule={rule}", ON)
    run_world(9, tmp_path, *extra, *changes, text=text, order=2)
    assert summary(tmp_path)["updates"] == 12
    run_world(9, tmp_path, *extra, *changes, "stop.updates=16", text=text, order=3, resume="auto")
    assert summary(tmp_path)["updates"] == 16


@pytest.mark.parametrize(("text", "extra"), [(SPREAD, ()), (ECHO, ("algo.replay={ratio: 64, starts: 16}",))])
def test_a_round_that_needs_more_of_a_group_than_its_share_gets_it(tmp_path, text, extra):
    stuck = ", {delay: {trajectory: 1000}}"
    changes = (f"topology.groups=[{{}}{4 * stuck}]", "rounds.rule=rennala", "rounds.batch=40", "rounds.queue=100", "stop.updates=4", ON)
    run_world(12, tmp_path, *extra, *changes, text=text)
    told = summary(tmp_path)
    assert told["updates"] == 4
    assert told["trajectories_by_group"] == [4 * 40, 0, 0, 0, 0]


def stands_still(actor):
    assert not all(actor.work() for _ in range(2000))


class OnItsWay(SendHandle):
    arrived = False

    def done(self):
        return self.arrived


@pytest.mark.parametrize(("text", "extra", "room"), [(SPREAD, ("algo.unroll=4",), 8), (ECHO, ("topology.environments_per_actor=40",), 64)])
def test_an_actor_goes_no_further_than_it_can_send(monkeypatch, tmp_path, text, extra, room):
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


def test_a_dead_actor_and_its_replacement_leave_nobody_standing(tmp_path):
    run_world(5, tmp_path, "topology.respawn=1", "stop.updates=40", *CROWD[:3], ON, deaths={3: 10})
    assert summary(tmp_path)["updates"] == 40


@pytest.mark.parametrize(("kind", "extra", "count"), [(Queue, (), 4), (Queue, ("algo.reuse=2",), 2), (Iterations, (), 6)])
def test_two_gradients_or_the_next_batch_are_enough_to_be_behind(kind, extra, count):
    for key, expected in (("rounds.backpressure=true", True), ("rounds.backpressure=false", False), ("deterministic=true", False)):
        context = SimpleNamespace(config=load_config(SPREAD, ["rounds.backpressure=true", *extra, key]), queue_limit=lambda _: 8)
        algorithm = SimpleNamespace(on_policy=False, epochs=2, minibatches=3)
        feed = kind(context, SimpleNamespace(index=0, actors=(1,)), make_rule("sync", 1, 2), algorithm)
        for index in range(count):
            assert not feed.behind(3), index
            rollout = SimpleNamespace(version=3, count=1)
            feed.add(SimpleNamespace(source=1), rollout, 3)
        assert feed.behind(3) is expected


def test_trajectories_do_not_take_longer_for_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = TrajectoryTimer(2)
    now[0] = 7.0
    timer.skip(5.0)
    timer.finished([0])
    assert timer.sums == [1, 2.0, 4.0]
