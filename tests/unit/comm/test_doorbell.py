"""Doorbells that wake a sleeping rank, with all ranks in one process.

Also tested: the lengths of naps on a transport where messages wake the rank.
"""

import pytest

from hpcmarl.comm import transport
from hpcmarl.comm.doorbell import Doorbell, new_token
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.transport import Backoff

FOR_EVER = 3600.0


@pytest.fixture
def bells():
    """Return the connected doorbells of ranks 0 and 1."""
    token = new_token()
    both = [Doorbell(token, 0), Doorbell(token, 1)]
    both[0].connect([1])
    both[1].connect([0])
    yield both
    for bell in both:
        bell.close()


def test_ring_ends_a_sleep(bells):
    bells[0].ring(1)
    assert bells[1].wait(FOR_EVER) is True
    assert bells[1].wait(1e-4) is False


def test_rings_while_a_rank_works_wake_it_once(bells):
    for _ in range(1000):  # more bytes than a socket buffer holds
        bells[0].ring(1)
    assert bells[1].wait(FOR_EVER) is True
    assert bells[1].wait(1e-4) is False


def test_ranks_that_are_gone_or_have_no_doorbell_are_left_out(bells):
    bells[0].connect([1, 2])
    bells[0].ring(2)
    assert (bells[0].reaches(1), bells[0].reaches(2)) == (True, False)
    bells[1].close()
    bells[0].ring(1)
    assert bells[0].reaches(1) is False
    bells[0].ring(1)
    bells[1].ring(0)
    assert bells[1].wait(1e-4) is False


def test_naps_are_longer_where_messages_wake_the_rank(monkeypatch):
    naps = []
    (end,) = LocalWorld(1).transports
    monkeypatch.setattr(transport.Transport, "wakes", True)
    monkeypatch.setattr(transport.Transport, "rest", lambda _, seconds: naps.append(seconds))
    backoff = Backoff(spins=1, transport=end)
    for _ in range(10):
        backoff.wait()
    assert naps[0] == pytest.approx(1.25e-3)
    assert naps == sorted(naps)
    assert naps[-1] == transport.LONGEST_REST


def test_woken_rank_looks_again_at_once(monkeypatch):
    naps = []
    (end,) = LocalWorld(1).transports
    monkeypatch.setattr(
        transport.Transport, "rest", lambda _, seconds: naps.append(seconds) or len(naps) == 3
    )
    backoff = Backoff(spins=1, transport=end)
    for _ in range(6):
        backoff.wait()
    assert len(naps) == 4
    assert naps[3] == naps[0] < naps[2]
