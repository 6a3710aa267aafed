"""The cluster in virtual time.

It is compared with engines that replay its traces one gradient at a time, with timings computed by hand, and
with limits of quadratics.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config.file import load_simulation
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import RULES, Engine, make_rule
from hpcmarl.sim.cluster import Cluster

TEXT = "sim: {workers: 5, stop: {rounds: 12}}\n"
QUADRATICS = "objective={name: quadratics, dimension: 3, optima: [1, -2, 0.5], start: 3}"
# A failure that is never due. With a failure still to come, no arrival is known in advance.
FAR = "sim.failures=[{at: 1e9, workers: [0]}]"


def cluster_of(*overrides, seed=0, text=TEXT):
    return Cluster(load_simulation(text, overrides), seed)


def finished(*overrides, seed=0, text=TEXT, events=997):
    cluster = cluster_of(*overrides, seed=seed, text=text)
    for _ in range(10_000):
        if cluster.ended is not None:
            return cluster
        cluster.run(events)
    raise AssertionError("the simulation does not end")


def recorded(*overrides, seed=0):
    """Return a finished cluster and all gradients that its engine received."""
    cluster, trace = cluster_of(*overrides, seed=seed), []
    handle = cluster.engine.on_gradient

    def record(gradient):
        trace.append(replace(gradient))
        return handle(gradient)

    cluster.engine.on_gradient = record
    while cluster.ended is None:
        cluster.run(1000)
    return cluster, trace


@pytest.mark.parametrize("rule", sorted(RULES))
@pytest.mark.parametrize("optimizer", ["nigt", "adam", "sgd"])
@pytest.mark.parametrize("late", ["cancel", "ignore"])
def test_replayed_trace_gives_the_same_parameters(rule, optimizer, late):
    changes = (
        QUADRATICS,
        f"rounds={{rule: {rule}, batch: 7, late: {late}}}",
        f"optimizer.name={optimizer}",
        "sim.compute_times=linear",
    )
    cluster, trace = recorded(*changes, "sim.communication_times=0.3")
    config = cluster.config
    optima = [1.0, -2.0, 0.5, 1.0, -2.0]
    twin = Engine(make_rule(rule, 5, 7), make_optimizer(config.optimizer, np.full(3, 3.0)))
    points = {0: twin.optimizer.query_point().copy()}
    for gradient in trace:
        vector = gradient.count * (optima[gradient.group] - points[gradient.version])
        twin.on_gradient(replace(gradient, vector=vector))
        points[twin.version] = twin.optimizer.query_point().copy()
    assert (twin.version, twin.used, twin.wasted) == (
        cluster.engine.version,
        cluster.engine.used,
        cluster.engine.wasted,
    )
    assert twin.version == 12
    np.testing.assert_allclose(cluster.engine.optimizer.parameters, twin.optimizer.parameters, rtol=1e-10)


def test_round_time_of_each_rule_matches_hand_results():
    """The times are h = 1, 2, 3 and kappa = 0.5, 1, 2."""
    times = (
        "sim.workers=3",
        "sim.compute_times=linear",
        "sim.communication_times=[0.5, 1, 2]",
        "sim.stop.rounds=1",
    )
    assert finished(*times, "rounds.rule=sync").published == 3 + 2
    # two trajectories of each worker
    assert finished(*times, "rounds.rule=sync", "rounds.batch=4").published == 2 * 3 + 2
    assert finished(*times, "rounds.rule=afedpg").published == 1.5
    # trajectories end at 1, 2, 2 and 3
    assert finished(*times, "rounds.rule=rennala", "rounds.batch=4").published == 3 + 2
    assert finished(*times, "rounds.rule=malenia", "rounds.batch=3").published == 3 + 2
    second = finished(*times, "rounds.rule=afedpg", "sim.stop.rounds=4")
    # Answers come at 1.5, 3, 3 (of worker 1) and 4.5.
    assert second.published == 4.5


def test_late_work_is_cancelled_or_wasted():
    changes = (
        "sim.workers=2",
        "sim.compute_times=[1, 2.5]",
        "rounds.rule=rennala",
        "rounds.batch=2",
        "sim.communication_times=0.25",
    )
    cancelled, ignored = finished(*changes), finished(*changes, "rounds.late=ignore")
    assert (cancelled.engine.wasted, cancelled.abandoned) == (0, 11)
    assert cancelled.published == pytest.approx(12 * 2.25)
    assert ignored.abandoned == 0
    # Worker 1 finishes its trajectory for round 0 at 2.5. It finishes the next one, begun at 2.5 for round 1,
    # at 5.
    assert ignored.engine.wasted > 0
    assert ignored.published <= cancelled.published


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["rennala", "malenia"]),
    st.lists(st.floats(0.1, 5), min_size=1, max_size=60),
    st.integers(0, 30),
    st.integers(1, 40),
)
def test_lazy_event_queue_equals_the_eager_one(rule, compute, more, events):
    batch = more + (len(compute) if rule == "malenia" else 1)
    changes = (
        f"sim.workers={len(compute)}",
        f"sim.compute_times={compute}",
        f"rounds={{rule: {rule}, batch: {batch}}}",
        "sim.stop.rounds=4",
    )
    lazy, eager = finished(*changes, events=events), finished(*changes, FAR, events=events)
    assert (lazy.published, lazy.engine.used, lazy.abandoned) == (
        eager.published,
        eager.engine.used,
        eager.abandoned,
    )


@pytest.mark.parametrize("rule", sorted(RULES))
def test_simulation_is_determined_by_its_seed(rule):
    changes = (
        f"rounds={{rule: {rule}, batch: 6}}",
        "sim.compute_times={law: random, noise: exponential, drift: 0.3}",
        "sim.communication_times=0.1",
    )
    changes = (
        *changes,
        "sim.failures=[{every: 5, repair: 2}]",
        "objective={name: nonconvex, dimension: 4, heterogeneity: 0.5}",
    )
    runs = [finished(*changes, seed=seed, events=events) for seed, events in ((0, 7), (0, 1000), (1, 1000))]
    assert runs[0].published == runs[1].published != runs[2].published
    np.testing.assert_array_equal(runs[0].engine.optimizer.parameters, runs[1].engine.optimizer.parameters)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_simulator_memory_does_not_grow_with_rounds(rule):
    cluster = cluster_of(
        f"rounds={{rule: {rule}, batch: 5}}",
        "sim.points=16",
        QUADRATICS,
        "sim.stop={gradients: 100000}",
        "sim.compute_times=sqrt",
    )
    sizes = set()
    for _ in range(5):
        cluster.run(1200)
        sizes.add(len(cluster._queue) <= 5 and len(cluster._arrived) <= 50 and len(cluster._points) <= 5)
    assert cluster.engine.version > 100
    assert sizes == {True}
    course = cluster.trace.arrays()
    assert 8 <= len(course["round"]) <= 16
    assert len(set(np.diff(course["round"]))) == 1  # evenly spaced rounds


class TestFailures:
    CHANGES = ("sim.workers=3", "sim.compute_times=1", "sim.stop={time: 20.5}")

    def test_repaired_worker_restarts_its_lost_work(self):
        cluster = finished(
            *self.CHANGES, "rounds.rule=sync", "sim.failures=[{workers: [1], at: 2.5, repair: 4}]"
        )
        # Rounds end at 1 and 2. Then worker 1 is down from 2.5 to 6.5, and it delivers at 7.5.
        assert cluster.trace.arrays()["time"].tolist()[:5] == [0, 1, 2, 7.5, 8.5]

    def test_repaired_idle_worker_does_not_deliver_twice(self):
        changes = (
            "sim.compute_times=[1, 1, 5]",
            "sim.failures=[{workers: [1], at: 2, repair: 1}]",
            "rounds.rule=sync",
        )
        cluster = finished(*self.CHANGES, *changes)
        assert cluster.trace.arrays()["time"].tolist()[:3] == [0, 5, 10]
        assert cluster.engine.used == 3 * cluster.engine.version

    @pytest.mark.parametrize("rule", ["sync", "rennala", "afedpg"])
    def test_remaining_workers_continue_after_a_loss(self, rule):
        cluster = finished(
            *self.CHANGES, f"rounds={{rule: {rule}, batch: 3}}", "sim.failures=[{workers: [0, 2], at: 3.5}]"
        )
        assert cluster.engine.rule.present == (1,)
        assert cluster.ended == "finished"
        assert cluster.published > 15
        assert cluster.used == 3 * cluster.engine.version

    def test_malenia_stops_on_loss_unless_configured(self):
        changes = (
            *self.CHANGES,
            "rounds={rule: malenia, batch: 3}",
            "sim.failures=[{workers: [0], at: 3.5}]",
        )
        assert finished(*changes).ended == "worker 0 was lost (rounds.on_loss: auto)"
        assert finished(*changes, "rounds.on_loss=drop").ended == "finished"

    @pytest.mark.parametrize("rule", sorted(RULES))
    def test_losing_the_last_worker_ends_the_simulation(self, rule):
        changes = (
            *self.CHANGES,
            f"rounds={{rule: {rule}, batch: 3, on_loss: drop}}",
            "sim.failures=[{at: 3.5}]",
        )
        assert finished(*changes).ended == "the last worker was lost"

    @pytest.mark.parametrize("rule", sorted(RULES))
    @pytest.mark.parametrize("late", ["cancel", "ignore"])
    def test_repeated_failures_reduce_but_do_not_stop_progress(self, rule, late):
        changes = (
            f"rounds={{rule: {rule}, batch: 6, late: {late}}}",
            "sim.stop={time: 500}",
            "sim.failures=[{every: 20, repair: 3}]",
        )
        shaky, sound = finished(*changes, QUADRATICS), finished(*changes[:2], QUADRATICS)
        assert shaky.ended == sound.ended == "finished"
        assert 0.3 * sound.engine.used < shaky.engine.used < sound.engine.used


@pytest.mark.parametrize("stop", ["{time: 30}", "{gradients: 30}", "{rounds: 30}"])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_simulation_ends_at_each_stop_condition(stop, rule):
    cluster = finished(f"sim.stop={stop}", f"rounds={{rule: {rule}, batch: 5}}")
    assert cluster.ended == "finished"
    assert cluster.progress == 1.0
    limits = {
        "{time": cluster.now <= 30,
        "{gradients": 30 <= cluster.engine.used < 35,
        "{rounds": cluster.engine.version == 30,
    }
    assert limits[stop.split(":")[0]]


def test_rounds_of_a_thousand_workers_take_equal_time():
    cluster = finished(
        "sim.workers=1000",
        "sim.compute_times=sqrt",
        "rounds={rule: rennala, batch: 2000}",
        "sim.stop={rounds: 5}",
    )
    assert cluster.engine.used == 10_000
    per_round = [
        len(list(group))
        for _, group in itertools.groupby(
            [cluster.round_time_min, cluster.round_time_max], key=lambda time: round(time, 9)
        )
    ]
    # All rounds take the same time.
    assert per_round == [2]


def test_all_that_had_begun_counts_when_the_round_has_enough():
    """Trajectories under way count if they began before the round had enough.

    With h = 1, 2, 3 and M = 3 the third trajectory arrives at 2. One worker began again at 2, and one has
    been at work since 0. Both deliver at 3, where the round ends.
    """
    rounds = "rounds={rule: rennala, batch: 3, admission: all_begun}"
    cluster, trace = recorded(
        rounds, "sim.workers=3", "sim.compute_times=linear", "sim.stop={rounds: 10}", QUADRATICS
    )
    assert (cluster.now, cluster.engine.used, cluster.engine.wasted, cluster.abandoned) == (30.0, 50, 0, 0)
    assert [(gradient.group, gradient.version) for gradient in trace[:5]] == [
        (0, 0),
        (0, 0),
        (1, 0),
        (0, 0),
        (2, 0),
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 12),
    st.integers(1, 30),
    st.integers(0, 5),
    st.sampled_from(["", FAR, "sim.failures=[{every: 20, repair: 3}, {at: 9, workers: [1]}]"]),
)
def test_closed_rounds_lose_nothing_that_was_begun(workers, batch, seed, failures):
    rounds = f"rounds={{rule: rennala, batch: {batch}, admission: all_begun}}"
    changes = (rounds, f"sim.workers={workers}", "sim.compute_times=sqrt", "sim.stop={rounds: 15}")
    cluster = finished(*changes, *filter(None, [failures]), seed=seed)
    assert cluster.engine.version == 15
    assert (cluster.engine.wasted, cluster.abandoned) == (0, 0)
    assert cluster.engine.used >= 15 * batch
