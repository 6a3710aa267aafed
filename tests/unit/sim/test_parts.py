"""Times, objectives and the trace of the simulator, each compared with its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config.file import load_simulation
from hpcmarl.config.simulation import CommunicationConfig
from hpcmarl.sim.objectives import OBJECTIVES, make_objective
from hpcmarl.sim.times import Times
from hpcmarl.sim.trace import Trace


def times_of(workers=4, dimension=16, seed=0, **keys):
    return Times(CommunicationConfig(**keys), workers, dimension, np.random.default_rng(seed))


def test_time_laws_give_the_specified_means():
    assert times_of(law="constant", scale=3).means.tolist() == [3, 3, 3, 3]
    np.testing.assert_allclose(times_of(law="sqrt", scale=2).means, 2 * np.sqrt([1, 2, 3, 4]))
    assert times_of(law="linear").means.tolist() == [1, 2, 3, 4]
    assert times_of(values=(4, 3, 2, 1)).means.tolist() == [4, 3, 2, 1]
    assert times_of(scale=3, dimension_exponent=0.25).means.tolist() == [6, 6, 6, 6]
    # Two vectors of 16 parameters of 4 bytes, at a bandwidth of 64 bytes a unit of time.
    assert times_of(scale=0.5, bandwidth=64).means.tolist() == [2.5] * 4
    drawn = times_of(workers=20_000, law="random", scale=2, spread=0.7).means
    assert drawn.mean() == pytest.approx(2, rel=0.02)
    assert np.log(drawn).std() == pytest.approx(0.7, rel=0.02)


@pytest.mark.parametrize("noise", ["lognormal", "exponential"])
def test_noise_leaves_the_means_as_they_are(noise):
    one, all_at_once = times_of(law="linear", noise=noise), times_of(law="linear", noise=noise, seed=1)
    assert one.fixed is None
    drawn = np.array([[one.draw(worker, 0.0) for worker in range(4)] for _ in range(10_000)])
    np.testing.assert_allclose(drawn.mean(axis=0), [1, 2, 3, 4], rtol=0.05)
    np.testing.assert_allclose(
        np.mean([all_at_once.draw_all(0.0) for _ in range(10_000)], axis=0), [1, 2, 3, 4], rtol=0.05
    )
    assert (drawn > 0).all()


def test_drift_oscillates_around_the_mean_per_worker_phase():
    times = times_of(scale=2, drift=0.5, drift_period=8)
    assert times.draw(0, 0.0) == 2
    assert times.draw(0, 2.0) == pytest.approx(3)
    assert times.draw(1, 0.0) == pytest.approx(3)  # a quarter period ahead
    np.testing.assert_allclose(times.draw_all(2.0), [times.draw(worker, 2.0) for worker in range(4)])


def objective_of(text, seed=0, workers=3):
    config = load_simulation(f"objective: {text}\nsim: {{workers: {workers}, stop: {{rounds: 1}}}}\n")
    return make_objective(config, np.random.default_rng(seed))


EXACT = {
    "quadratics": "{name: quadratics, dimension: 4, optima: [1, -2, 0.25], curvature: 1.5}",
    "nonconvex": "{name: nonconvex, dimension: 4, heterogeneity: 0.7, condition: 10, noise: 0}",
}


@pytest.mark.parametrize("name", sorted(EXACT))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_objective_gradients_equal_finite_differences(name, seed):
    objective, generator = objective_of(EXACT[name], seed), np.random.default_rng(seed)
    point = generator.normal(size=4)
    steps = 1e-5 * np.eye(4)
    numeric = [(objective.value(point + step) - objective.value(point - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(objective.slope(point), numeric, atol=1e-6)
    each = [objective.gradient(worker, point, generator) for worker in range(3)]
    np.testing.assert_allclose(np.mean(each, axis=0), objective.slope(point), atol=1e-12)
    np.testing.assert_allclose(
        objective.gradients([2, 0, 2], point, generator), [each[2], each[0], each[2]], atol=1e-12
    )
    # The objective "policy" has no formula; test_sampled.py tests it.
    assert set(EXACT) == set(OBJECTIVES) - {"policy"}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_gradient_noise_has_zero_mean_and_given_deviation(name):
    text = EXACT[name].replace("noise: 0", "").rstrip("}, ") + ", noise: 2}"
    objective, generator = objective_of(text), np.random.default_rng(0)
    exact = objective_of(EXACT[name])
    errors = objective.gradients([1] * 4000, objective.initial(), generator) - exact.gradient(
        1, exact.initial(), generator
    )
    np.testing.assert_allclose(errors.mean(axis=0), 0, atol=0.1)
    assert np.sqrt((errors**2).sum(axis=1).mean()) == pytest.approx(2, rel=0.03)


def test_nonconvex_objective_changes_curvature():
    """The objective curves downwards near the optimum and upwards further away.

    Without heterogeneity its maximum is 0.
    """
    objective = objective_of("{name: nonconvex, dimension: 1, noise: 0}")
    curvature = [
        objective.value(np.array([x + 0.1]))
        + objective.value(np.array([x - 0.1]))
        - 2 * objective.value(np.array([x]))
        for x in (0.0, 1.5)
    ]
    assert curvature[0] < 0 < curvature[1]
    assert objective.value(np.zeros(1)) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(0, 400))
def test_a_trace_keeps_evenly_spaced_rounds_from_the_first(points, rounds):
    trace = Trace(("round",), points)
    for number in range(rounds + 1):
        if trace.due(number):
            trace.add(number, (float(number),))
    kept = trace.arrays()["round"]
    assert kept.tolist() == list(range(0, rounds + 1, trace.stride))
    assert len(kept) <= points
    assert len(kept) >= min(rounds + 1, points // 2)
