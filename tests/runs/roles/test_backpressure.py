"""rounds.backpressure in whole runs: no drops, a kept replay ratio, and no endless waits."""

import pytest

from tests.support.worlds import ECHO, SPREAD, run_world, summary

ON = "rounds.backpressure=true"
# Eight actors make three trajectories while their learner makes one gradient of two trajectories.
CROWD = (
    "topology.groups=1",
    "topology.server=dedicated",
    "rounds.batch=2",
    "rounds.queue=2",
    "stop.updates=60",
)
# A batch takes 24 of the 64 trajectories that the actors make in the same time.
PPO = (
    "algo.name=ppo",
    "algo.epochs=12",
    "algo.minibatches=2",
    "rounds.batch=12",
)


def actors_of(ranks):
    return [rank.roles["actor"] for rank in ranks if "actor" in rank.roles]


def held(ranks):
    return sum(actor.counters["held_seconds"] for actor in actors_of(ranks))


@pytest.mark.parametrize("extra", [(), PPO, ("algo.reuse=2", "rounds.max_staleness=60")])
def test_backpressure_drops_no_trajectories(tmp_path, extra):
    ranks = run_world(10, tmp_path / "free", *CROWD, *extra)
    told = summary(tmp_path / "free")
    lost = (
        told["dropped_rollouts"]
        + told["wasted_gradients"]
        + sum(actor.sender.dropped_steps for actor in actors_of(ranks))
    )
    assert lost > 0
    assert held(ranks) == 0
    ranks = run_world(10, tmp_path / "waiting", *CROWD, *extra, ON)
    told = summary(tmp_path / "waiting")
    assert (
        told["dropped_rollouts"]
        == told["wasted_gradients"]
        == sum(actor.sender.dropped_steps for actor in actors_of(ranks))
        == 0
    )
    assert told["updates"] == 60
    assert held(ranks) > 0


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (5, 1), (5, 2)])
def test_backpressure_keeps_the_replay_ratio(tmp_path, size, groups):
    changes = (
        f"topology.groups={groups}",
        f"rounds.batch={16 * groups}",
        "algo.replay.samples_per_insert=64",
        "stop.updates=120",
    )
    found = {}
    for pressure in ("false", "true"):
        ranks = run_world(size, tmp_path / pressure, *changes, f"rounds.backpressure={pressure}", text=ECHO)
        feeds = [rank.roles["learner"].rollouts for rank in ranks if "learner" in rank.roles]
        found[pressure] = [
            source.used / (source.collected - source.config.learning_starts + 1) for source in feeds
        ]
    assert max(found["false"]) < 25
    # An actor may send in one step as much as it is allowed to send in the whole run.
    assert min(found["true"]) > 35
    assert max(found["true"]) <= 64


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia", "afedpg"])
@pytest.mark.parametrize(
    ("text", "extra"),
    [
        (SPREAD, ()),
        (SPREAD, PPO),
        (SPREAD, ("algo.name=reinforce",)),
        (ECHO, ("algo.replay={samples_per_insert: 64, learning_starts: 16}",)),
    ],
)
def test_every_rule_resumes_under_backpressure(tmp_path, rule, text, extra):
    changes = ("topology.groups=3", "stop.updates=12", "rounds.batch=6", f"rounds.rule={rule}", ON)
    run_world(9, tmp_path, *extra, *changes, text=text, order=2)
    assert summary(tmp_path)["updates"] == 12
    run_world(9, tmp_path, *extra, *changes, "stop.updates=16", text=text, order=3, resume="auto")
    assert summary(tmp_path)["updates"] == 16


@pytest.mark.parametrize(
    ("text", "extra"), [(SPREAD, ()), (ECHO, ("algo.replay={samples_per_insert: 64, learning_starts: 16}",))]
)
def test_group_may_deliver_more_than_its_share_of_a_round(tmp_path, text, extra):
    stuck = ", {delay: {trajectory: 1000}}"
    changes = (
        f"topology.groups=[{{}}{4 * stuck}]",
        "rounds.rule=rennala",
        "rounds.batch=40",
        "rounds.queue=100",
        "stop.updates=4",
        ON,
    )
    run_world(12, tmp_path, *extra, *changes, text=text)
    told = summary(tmp_path)
    assert told["updates"] == 4
    assert told["trajectories_by_group"] == [4 * 40, 0, 0, 0, 0]


def test_replaced_actor_does_not_stall_the_run(tmp_path):
    run_world(5, tmp_path, "topology.respawn=1", "stop.updates=40", *CROWD[:3], ON, deaths={3: 10})
    assert summary(tmp_path)["updates"] == 40
