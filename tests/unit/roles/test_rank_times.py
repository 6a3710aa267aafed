"""What each rank has spent its time on, from reports."""

import numpy as np

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config.topology import TopologyConfig
from hpcmarl.io.activity import ACTIVITIES
from hpcmarl.roles.reports import ActorReport, LearnerReport
from hpcmarl.roles.server.rank_times import RankTimes


def topology(ranks, **settings):
    return assign_roles(ranks, ["host"] * ranks, TopologyConfig(**settings))


def actor_report(actor, stepping=(), **counters):
    return ActorReport(actor, counters, [0.0] * 3, list(stepping), None)


def learner_report(learning, waiting):
    zeros = dict.fromkeys(
        (
            "late",
            "overflow",
            "repeated",
            "bad_gradients",
            "learned_steps",
            "dense_gradient_steps",
            "unused_steps",
        ),
        0,
    )
    return LearnerReport(
        group=0,
        statistics={},
        episodes={},
        learning_seconds=learning,
        waiting_seconds=waiting,
        warnings=[],
        **zeros,
    )


def by_name(row):
    return {name: value for name, value in zip(ACTIVITIES, row.tolist(), strict=True) if value}


def test_work_of_shared_ranks_adds_up_and_sleep_does_not():
    shared = topology(1)
    times = RankTimes(shared)
    times.on_actor(actor_report(0, environment_seconds=2.0, waiting_seconds=1.0))
    times.on_learner(learner_report(3.0, 0.5))
    times.on_learner(learner_report(1.0, 0.75))
    times.evaluating = 0.25
    assert by_name(times.spent(0.5)[0]) == {
        "stepping": 2.0,
        "learning": 4.0,
        "serving": 0.5,
        "evaluating": 0.25,
        "waiting": 1.25,
    }


def test_replaced_actor_continues_the_seconds_of_its_rank():
    world = topology(4)
    times = RankTimes(world)
    rank = world.actors[1]
    times.on_actor(actor_report(1, environment_seconds=5.0, sending_seconds=1.0))
    times.on_actor(actor_report(1, environment_seconds=1.0, sending_seconds=0.5))  # a new process
    times.on_actor(actor_report(1, environment_seconds=2.0, sending_seconds=0.5))
    assert by_name(times.spent(0.0)[rank]) == {"stepping": 7.0, "sending": 1.5}


def test_workers_step_and_their_actor_infers():
    world = topology(5, workers_per_actor=2)
    times = RankTimes(world)
    actor = world.actors[0]
    workers = world.workers_of(actor)
    times.on_actor(actor_report(0, stepping=(1.0, 3.0), environment_seconds=4.0, acting_seconds=0.5))
    spent = times.spent(0.0)
    assert by_name(spent[actor]) == {"inferring": 0.5}
    assert [by_name(spent[worker]) for worker in workers] == [{"stepping": 1.0}, {"stepping": 3.0}]


def test_serving_of_earlier_starts_is_left_out():
    times = RankTimes(topology(2))
    times.serving_before = 10.0
    assert np.sum(times.spent(12.5)) == 2.5
