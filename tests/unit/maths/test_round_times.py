"""Round times: closed forms against counting, bounds against simulated rounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config.file import load_simulation
from hpcmarl.maths import round_times
from hpcmarl.sim.cluster import Cluster
from tests.reference.rounds import counted_time

speeds = st.lists(st.floats(0.05, 20.0), min_size=1, max_size=8)


def simulated(rule, compute, batch, *overrides):
    text = (
        f"rounds: {{rule: {rule}, batch: {batch}}}\nsim: {{workers: {len(compute)}, compute_times: "
        f"{list(compute)}, stop: {{rounds: 6}}}}\n"
    )
    cluster = Cluster(load_simulation(text, overrides), 0)
    while cluster.ended is None:
        cluster.run(1000)
    return cluster


@settings(max_examples=80, deadline=None)
@given(speeds)
def test_harmonic_means_equal_their_definition(compute):
    expected = [m / sum(1 / h for h in sorted(compute)[:m]) for m in range(1, len(compute) + 1)]
    np.testing.assert_allclose(round_times.harmonic_means(compute), expected, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(speeds, st.integers(1, 60))
def test_rennala_round_time_equals_counting_within_bound(compute, batch):
    expected = counted_time(compute, lambda counts: sum(counts) >= batch)
    assert round_times.rennala_time(compute, batch) == pytest.approx(expected)
    bound = min((batch + m) / sum(1 / h for h in sorted(compute)[:m]) for m in range(1, len(compute) + 1))
    assert round_times.rennala_bound(compute, batch) == pytest.approx(bound)
    cluster = simulated("rennala", compute, batch)
    assert cluster.round_time_max <= bound * (1 + 1e-9)
    assert cluster.round_time_min == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(speeds, st.integers(0, 40))
def test_malenia_round_time_equals_counting_within_bound(compute, more):
    batch, n = len(compute) + more, len(compute)
    expected = counted_time(
        compute,
        lambda counts: min(counts) > 0 and n / sum(1 / count for count in counts) >= batch / n * (1 - 1e-9),
    )
    assert round_times.malenia_time(compute, batch) == pytest.approx(expected)
    bound = max(max(compute), 2 * (batch / n) * sum(compute) / n)
    assert round_times.malenia_bound(compute, batch) == pytest.approx(bound)
    cluster = simulated("malenia", compute, batch)
    assert cluster.round_time_max <= bound * (1 + 1e-9)
    assert cluster.round_time_min == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(speeds, st.integers(1, 30), st.floats(0, 5))
def test_round_rates_equal_the_simulator(compute, batch, exchange):
    kappa = [exchange * (index + 1) for index in range(len(compute))]
    for rule, rate in (("sync", round_times.sync_rate), ("rennala", round_times.rennala_rate)):
        cluster = simulated(rule, compute, batch, f"sim.communication_times={kappa}")
        share = math.ceil(batch / len(compute)) * len(compute) if rule == "sync" else batch
        assert cluster.engine.used == 6 * share
        assert cluster.engine.used / cluster.published == pytest.approx(rate(compute, kappa, batch))


def test_afedpg_rate_equals_the_simulator():
    compute, kappa = [1.0, 2.0, 5.0], [0.5, 0.0, 1.0]
    cluster = simulated(
        "afedpg", compute, 2, f"sim.communication_times={kappa}", "sim.stop={gradients: 20000}"
    )
    assert round_times.afedpg_rate(compute, kappa, 2) == pytest.approx(2 / 2.5 + 2 / 4 + 2 / 11)
    assert cluster.engine.used / cluster.published == pytest.approx(
        round_times.afedpg_rate(compute, kappa, 2), rel=1e-3
    )


def test_rates_match_the_published_table():
    """Gradients per time of sync, afedpg and rennala with M = 20, 30, 50.

    Source: the papers' table with n = 10 and d = 30,498.
    """
    root = np.sqrt(np.arange(1, 11))
    rows = {
        (1, 0): (10, 10, 10, 10, 10),
        (0, 1): (1.58, 2.51, 2.45, 2.97, 3.53),
        (0, 30498**0.25): (0.22, 0.35, 0.43, 0.62, 0.95),
    }
    for (equal, scale), expected in rows.items():
        compute, kappa = (np.ones(10), np.zeros(10)) if equal else (root, scale * root)
        found = [round_times.sync_rate(compute, kappa, 10), round_times.afedpg_rate(compute, kappa)]
        found += [round_times.rennala_rate(compute, kappa, batch) for batch in (20, 30, 50)]
        np.testing.assert_allclose(found, expected, atol=0.005)


@pytest.mark.parametrize("compute", [[], [1.0, 0.0], [-1.0], [math.nan], [math.inf]])
def test_non_positive_times_are_rejected(compute):
    with pytest.raises(ValueError, match="positive"):
        round_times.harmonic_means(compute)
