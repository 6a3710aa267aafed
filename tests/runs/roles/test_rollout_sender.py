"""An actor among virtual ranks whose outbox is full."""

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.transport import SendHandle
from hpcmarl.config.file import load_config
from hpcmarl.training import make_rank, prepare
from tests.support.worlds import ECHO, SPREAD

ON = "rounds.backpressure=true"


def stands_still(actor):
    assert not all(actor.work() for _ in range(2000))


class OnItsWay(SendHandle):
    arrived = False

    def done(self):
        return self.arrived


@pytest.mark.parametrize(
    ("text", "extra", "room"),
    [(SPREAD, ("algo.unroll=4",), 8), (ECHO, ("topology.environments_per_actor=40",), 64)],
)
def test_actor_pauses_when_its_outbox_is_full(monkeypatch, tmp_path, text, extra, room):
    """Fill the outbox of an actor.

    A busy learner sends no reports. Only the actor knows how many of its messages have not arrived.
    """
    world = LocalWorld(2)
    ranks = [
        make_rank(prepare(transport, load_config(text, [*extra, ON]), str(tmp_path), None))
        for transport in world.transports
    ]
    actor = ranks[1].roles["actor"]
    try:
        while not actor.has_weights:
            for rank in ranks:
                rank.step()
        actor.pause_requested = False
        sent = []
        monkeypatch.setattr(
            actor.sender.context.transport, "send", lambda *_: sent.append(OnItsWay()) or sent[-1]
        )
        monkeypatch.setattr(actor.context.transport, "shares_memory", lambda _: False)
        actor.sender.limit = actor.sender._under_way_limit()
        stands_still(actor)
        before = len(sent)
        assert 2 <= before < room + 40
        assert actor.held_since is not None
        for handle in sent[: before // 2 + 1]:
            handle.arrived = True
        stands_still(actor)
        assert len(sent) > before
        assert actor.counters["held_seconds"] > 0
        assert actor.sender.dropped_steps == 0
    finally:
        for rank in ranks:
            rank.close()
