"""The round rules against traces, and the engine against sums written out."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import NigtConfig, SgdConfig
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.rounds import RULES, Accept, Drop, Engine, Publish, Step, make_rule
from hpcmarl.types import Gradient


def closed(commands) -> bool:
    return any(isinstance(command, Publish) for command in commands)


def test_rennala_round_ends_with_the_mth_trajectory():
    rule = make_rule("rennala", 3, 5)
    assert not closed(rule.on_gradient(0, 0, 2))
    assert not closed(rule.on_gradient(0, 0, 2))
    commands = rule.on_gradient(2, 0, 1)
    assert closed(commands)
    assert rule.round == 1
    assert rule.counts == [0, 0, 0]


def test_late_gradient_is_dropped_and_not_counted():
    rule = make_rule("rennala", 2, 2)
    rule.on_gradient(0, 0, 2)
    assert rule.on_gradient(1, 0, 7) == [Drop(1, 7, 1)]
    assert rule.counts == [0, 0]


def test_sync_waits_for_the_slowest():
    rule = make_rule("sync", 3, 6)
    assert not closed(rule.on_gradient(0, 0, 100))
    assert not closed(rule.on_gradient(1, 0, 2))
    assert not closed(rule.on_gradient(2, 0, 1))
    assert closed(rule.on_gradient(2, 0, 1))


def test_first_round_uses_the_initial_batch():
    rule = make_rule("rennala", 1, 2, initial_batch=4)
    assert not closed(rule.on_gradient(0, 0, 3))
    assert closed(rule.on_gradient(0, 0, 1))
    assert closed(rule.on_gradient(0, 1, 2))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 400))
def test_malenia_round_ends_at_the_harmonic_mean(counts, batch):
    rule = make_rule("malenia", len(counts), batch)
    rule.counts = list(counts)
    inverse = sum(Fraction(1, count) for count in counts)
    exact = Fraction(len(counts)) / inverse >= Fraction(batch, len(counts))
    assert rule.complete() == exact


@pytest.mark.parametrize("groups", [3, 7, 10, 49])
def test_malenia_with_equal_counts_ends_exactly_at_the_batch(groups):
    rule = make_rule("malenia", groups, 30 * groups)
    rule.counts = [30] * groups
    assert rule.complete()
    rule.counts[0] = 29
    assert not rule.complete()


def test_malenia_needs_every_group():
    rule = make_rule("malenia", 2, 2)
    assert not closed(rule.on_gradient(0, 0, 1000))
    assert closed(rule.on_gradient(1, 0, 1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rennala", (6.0 + 3.0) / 6), ("sync", (6.0 + 3.0) / 6), ("malenia", (6.0 / 3 + 3.0 / 3) / 2)],
)
def test_engine_combines_group_sums_by_rule(name, expected):
    engine = Engine(make_rule(name, 2, 6), make_optimizer(SgdConfig(step_size=1.0), np.zeros(1)))
    for group, count, total in ((0, 1, 1.0), (0, 2, 5.0), (1, 3, 3.0)):
        engine.on_gradient(Gradient(group, 0, count, np.array([total])))
    assert engine.version == 1
    assert engine.optimizer.parameters[0] == pytest.approx(expected)


def test_unequal_counts_weigh_groups_equally_in_malenia_only():
    results = {}
    for name in ("rennala", "malenia"):
        engine = Engine(make_rule(name, 2, 4), make_optimizer(SgdConfig(step_size=1.0), np.zeros(1)))
        engine.on_gradient(Gradient(0, 0, 3, np.array([3.0])))
        engine.on_gradient(
            Gradient(1, 0, 3 if name == "malenia" else 1, np.array([-3.0 if name == "malenia" else -1.0]))
        )
        results[name] = float(engine.optimizer.parameters[0])
    assert results["malenia"] == pytest.approx(0.0)
    assert results["rennala"] == pytest.approx(0.5)


def test_non_finite_direction_raises_before_the_step():
    engine = Engine(make_rule("rennala", 1, 1), make_optimizer(SgdConfig(), np.zeros(2)))
    with pytest.raises(FloatingPointError, match="not finite"):
        engine.on_gradient(Gradient(0, 0, 1, np.array([np.nan, 0.0])))
    assert np.array_equal(engine.optimizer.parameters, np.zeros(2))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(RULES)), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_trajectory_is_counted_once_and_state_resumes(name, groups, batch, seed):
    generator = np.random.default_rng(seed)
    engine = Engine(
        make_rule(name, groups, max(batch, groups)), make_optimizer(SgdConfig(step_size=0.1), np.zeros(3))
    )
    total, copies = 0, []
    for _ in range(60):
        version = max(0, engine.version - int(generator.integers(0, 2)))
        gradient = Gradient(
            int(generator.integers(groups)), version, int(generator.integers(1, 4)), generator.normal(size=3)
        )
        commands = engine.on_gradient(gradient)
        total += gradient.count
        if any(isinstance(command, Step) for command in commands):
            copies.append((engine.state_dict(), engine.optimizer.parameters.copy()))
    assert engine.used + engine.wasted == total
    assert engine.version == engine.optimizer.updates == len(copies)
    if copies:
        state, parameters = copies[0]
        other = Engine(
            make_rule(name, groups, max(batch, groups)), make_optimizer(SgdConfig(step_size=0.1), np.ones(3))
        )
        other.load_state_dict(state)
        assert other.version == 1
        assert np.array_equal(other.optimizer.parameters, parameters)


@pytest.mark.parametrize(("group", "version", "count"), [(2, 0, 1), (0, 1, 1), (0, 0, 0), (-1, 0, 1)])
def test_impossible_gradient_reports_raise(group, version, count):
    with pytest.raises(ValueError, match="round 0"):
        make_rule("rennala", 2, 3).on_gradient(group, version, count)


def test_quota_depends_on_rule_and_group_count():
    assert make_rule("sync", 3, 10).quota() == 4
    assert make_rule("rennala", 3, 10).quota() is None
    assert make_rule("rennala", 1, 10).quota() == 10
    assert make_rule("malenia", 2, 10).quota() is None
    assert make_rule("afedpg", 2, 10).quota() == 10


def test_afedpg_answers_only_the_sender_of_each_gradient():
    rule = make_rule("afedpg", 3, 2)
    assert rule.on_gradient(0, 0, 2) == [Accept(0, 0), Step((1.0,), 0.5), Publish(1, (0,))]
    assert rule.on_gradient(2, 0, 2) == [Accept(2, 1), Step((1.0,), 0.5), Publish(2, (2,))]
    for _ in range(100):
        rule.on_gradient(2, rule.round, 1)
    assert rule.on_gradient(1, 0, 4) == [Accept(1, 102), Step((1.0,), 0.25), Publish(103, (1,))]
    rule.on_lost(1)
    assert rule.on_gradient(1, 103, 1) == [Drop(1, 1, 0)]
    assert rule.round == 103


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0), st.integers(1, 4))
def test_afedpg_with_nigt_equals_the_published_loop(seed, momentum, groups):
    generator = np.random.default_rng(seed)
    alpha, size = 0.25, 3
    start = generator.normal(size=size)
    engine = Engine(
        make_rule("afedpg", groups, 1), make_optimizer(NigtConfig(step_size=alpha, momentum=momentum), start)
    )
    theta, d, versions = start.copy(), None, [0] * groups
    for _ in range(25):
        group, g = int(generator.integers(groups)), generator.normal(size=size)
        commands = engine.on_gradient(Gradient(group, versions[group], 1, g))
        versions[group] = engine.version
        d = g if d is None else (1 - momentum) * d + momentum * g
        before, theta = theta, theta + alpha * d / np.sqrt(np.sum(d * d))
        answer = theta + (1 - momentum) / momentum * (theta - before)
        assert commands[-1] == Publish(engine.version, (group,))
        np.testing.assert_allclose(engine.optimizer.query_point(), answer, rtol=1e-12, atol=1e-12)
    assert engine.used == 25
    assert engine.wasted == 0


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["sync", "rennala", "malenia"]),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
)
def test_incremental_round_end_equals_full_recount(name, groups, batch, seed):
    generator = np.random.default_rng(seed)
    rule = make_rule(name, groups, batch)
    counts = [0] * groups
    for _ in range(120):
        if len(rule.present) > 1 and generator.random() < 0.02:
            lost = int(generator.choice(rule.present))
            counts = (
                [0] * groups
                if closed(rule.on_lost(lost))
                else [0 if g == lost and name == "malenia" else c for g, c in enumerate(counts)]
            )
        group, count = int(generator.choice(rule.present)), int(generator.integers(1, 4))
        counts[group] += count
        twin = make_rule(name, groups, batch)
        twin.lost, twin.present, twin.counts = rule.lost, rule.present, counts
        assert closed(rule.on_gradient(group, rule.round, count)) == twin.complete()
        if twin.complete():
            counts = [0] * groups
