"""Sleep of a rank without messages: it ends when one of the rank's roles has work."""

import math

import pytest

from hpcmarl.comm import transport
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.transport import Backoff
from hpcmarl.config.file import load_config
from hpcmarl.training import make_rank, prepare
from tests.support.worlds import SPREAD


@pytest.fixture
def naps(monkeypatch):
    """Return the list of naps; the clock advances by the naps alone."""
    taken = []
    monkeypatch.setattr(transport.time, "sleep", taken.append)
    monkeypatch.setattr(transport.time, "monotonic", lambda: sum(taken))
    return taken


def test_naps_grow_to_their_longest(naps):
    backoff = Backoff(shortest=1e-3, longest=10e-3, spins=2)
    for _ in range(60):
        backoff.wait()
    assert len(naps) == 58
    assert naps == sorted(naps)
    assert (naps[0], naps[-1]) == (1e-3, 10e-3)


def test_no_nap_lasts_past_the_time_of_work(naps):
    backoff = Backoff(longest=10e-3, spins=0)
    while sum(naps) < 0.2:
        backoff.wait(0.2)
    assert sum(naps) == pytest.approx(0.2, abs=1e-12)
    backoff.wait(0.1)
    assert naps[-1] == 0.0


def test_sleeping_environments_tell_when_they_go_on(tmp_path):
    delayed = ["topology.groups=[{delay: {trajectory: 3600.0}}]", "algo.unroll=1"]
    config = load_config(SPREAD, delayed)
    ranks = [make_rank(prepare(end, config, str(tmp_path), None)) for end in LocalWorld(3).transports]
    assert all(rank.wake_at == math.inf for rank in ranks)
    for _ in range(50):
        for rank in ranks:
            rank.step()
    acting = [rank for rank in ranks if "actor" in rank.roles]
    assert acting
    assert [rank.wake_at for rank in acting] == [rank.roles["actor"].lanes[0].ready_at for rank in acting]
    assert all(rank.wake_at == math.inf for rank in ranks if rank not in acting)
    for rank in ranks:
        rank.close()


def test_learners_report_nothing_before_they_are_started(tmp_path, monkeypatch):
    config = load_config(SPREAD, [])
    ranks = [make_rank(prepare(end, config, str(tmp_path), None)) for end in LocalWorld(3).transports]
    learning = next(rank for rank in ranks if "learner" in rank.roles)
    learner = learning.roles["learner"]
    monkeypatch.setattr(learner.report, "due", lambda: True)
    told = []
    monkeypatch.setattr(learner, "send", lambda rank, kind, *_, **__: told.append(kind))
    learner.waited = 100.0  # the time in which the server built its roles
    learner.work()
    assert told == []
    for rank in ranks:
        rank.close()
