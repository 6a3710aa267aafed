"""Alignment of clocks: the maths, and the exchange of a leader with rank 0 over virtual ranks."""

import math

import numpy as np
import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.tracing import clock as clocks
from hpcmarl.tracing.clock import ROUNDS, align, align_again, aligned, best_round, leaders_of, own_alignment


def test_shortest_round_trip_gives_the_offset():
    """The other clock is 100 s behind; the second round has the smallest bound."""
    rounds = [(10.0, -89.0, 13.0), (20.0, -79.99, 20.02), (30.0, -69.0, 32.0)]
    offset, uncertainty = best_round(rounds)
    assert offset == pytest.approx(100.0)
    assert uncertainty == pytest.approx(0.01)


@pytest.mark.parametrize("forth", [0.0, 0.3, 1.0])
def test_error_of_unequal_delays_is_within_the_bound(forth):
    """All of the delay may be on one way."""
    offset, uncertainty = best_round([(5.0, 5.0 + forth * 0.2 - 7.0, 5.2)])
    assert abs(offset - 7.0) <= uncertainty + 1e-9


def test_no_answered_round_gives_no_offset():
    assert all(math.isnan(value) for value in best_round([]))


def test_drift_between_two_measurements_is_removed():
    times = np.array([0.0, 100.0, 150.0, 200.0, 300.0])
    later = (200.0, 11.0)  # the offset was 10 at 100
    found = aligned(times, 10.0, 100.0, later) - times
    np.testing.assert_allclose(found, [10.0, 10.0, 10.5, 11.0, 11.0])
    np.testing.assert_allclose(aligned(times, 10.0, 100.0, None) - times, 10.0)


def test_first_rank_of_each_clock_leads():
    assert leaders_of(np.array([0, 0, 1, 0, 2, 1], np.int32)) == (0, 2, 4)


def test_virtual_ranks_share_the_clock_and_the_origin():
    found = [align(transport, 3.0) for transport in LocalWorld(3).transports]
    assert {(own.offset, own.uncertainty, own.group) for own in found} == {(0.0, 0.0, 0)}
    assert {own.origin for own in found} == {3.0}
    assert align_again(LocalWorld(1).transports[0], found[0]) == []


def test_replacement_has_no_measured_clock():
    assert math.isnan(own_alignment().offset)


def test_leader_answers_each_round_with_its_clock(monkeypatch):
    """Both ends run in one thread: rank 0's receive lets the leader answer."""
    world = LocalWorld(2)
    first, leader = world.transports
    monkeypatch.setattr(clocks, "ROUNDS", 1)
    asked = []

    def receive(transport=first, plain=first.receive):
        if not asked:
            asked.append(True)
            clocks._answer(leader, 5.0)
        return plain()

    monkeypatch.setattr(first, "receive", receive)
    ((sent, theirs, received),) = clocks._ask(first, 1, 5.0)
    assert sent <= theirs <= received
    assert ROUNDS > 1


def test_silent_leader_costs_the_limit_only():
    first = LocalWorld(2).transports[0]
    assert clocks._ask(first, 1, 0.01) == []
