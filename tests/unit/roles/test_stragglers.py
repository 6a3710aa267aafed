"""The log line about the group that a round waits for."""

import pytest

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import TopologyConfig
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.server import stragglers as waiting
from hpcmarl.roles.server.stragglers import StragglerMonitor


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    return now


def watch(rule, clock):
    topology = assign_roles(4, ["a", "a", "b", "b"], TopologyConfig(groups=3, actors_per_learner=0))
    return StragglerMonitor(rule, topology)


@pytest.mark.parametrize(("name", "batch"), [("malenia", 6), ("sync", 3)])
def test_missing_group_is_logged_with_its_rank(name, batch, clock, caplog):
    rule = make_rule(name, 3, batch)
    watched = watch(rule, clock)
    rule.on_gradient(0, 0, 2)
    rule.on_gradient(2, 0, 2)
    clock[0] = 29.0
    watched.poll()
    assert not caplog.records
    clock[0] = 31.0
    watched.poll()
    watched.poll()
    assert [record.getMessage() for record in caplog.records] == [
        "round 0 has waited 31 s for group 1 (learner: rank 2 on b); the other groups have delivered"
    ]
    # The next warning follows after twice the time.
    clock[0] = 61.0
    watched.poll()
    assert len(caplog.records) == 2


@pytest.mark.parametrize("name", ["rennala", "malenia", "sync"])
def test_no_group_is_logged_without_a_single_missing_one(name, clock, caplog):
    rule = make_rule(name, 3, 9)
    watched = watch(rule, clock)
    if name == "rennala":
        rule.on_gradient(0, 0, 2)
    clock[0] = 100.0
    watched.poll()
    assert not caplog.records


def test_waiting_time_restarts_each_round(clock, caplog):
    rule = make_rule("malenia", 3, 3)
    watched = watch(rule, clock)
    clock[0] = 29.0
    watched.round_ended()
    rule.on_gradient(0, 0, 1)
    clock[0] = 58.0
    watched.poll()
    assert not caplog.records
