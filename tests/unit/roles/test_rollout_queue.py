"""What waits at a learner: what a deterministic run takes together, and what becomes of gradients that come
too late."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcmarl.comm.protocol import FLAG_MORE, header_of
from hpcmarl.comm.transport import Message
from hpcmarl.config.file import load_config
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.learner.rollout_queue import RolloutQueue, whole
from hpcmarl.rollouts.codec import RolloutCodec
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import SPREAD


def test_episodes_that_ended_in_the_same_step_are_taken_together():
    codec = RolloutCodec(make_spec())
    context = SimpleNamespace(
        queue_limit=lambda _: 8, config=load_config(SPREAD, ["algo.name=reinforce", "deterministic=true"])
    )
    feed = RolloutQueue(
        context,
        SimpleNamespace(index=0, actors=(1,)),
        make_rule("sync", 1, 2),
        SimpleNamespace(on_policy=True),
    )
    for index, flags in enumerate((0, FLAG_MORE, 0)):
        assert feed.take(0, 0) is None
        rollout = random_rollout(make_spec(), 3, 1, np.random.default_rng(index), whole_episode=True)
        rollout.version = 0
        buffer = codec.pack(rollout)
        header_of(buffer)["flags"] = flags
        feed.add(Message(header_of(buffer), buffer, 1), codec.read(buffer, 0), 0)
    assert feed.take(0, 0).count == 3


class Sent:
    """A rollout's message that notes whether it was released."""

    def __init__(self):
        self.source, self.released = 1, False

    def release(self):
        assert not self.released
        self.released = True


def queue(rule="rennala", *overrides, on_policy=False, limit=8):
    """A queue of one of two groups, and the messages of four rollouts in it, of two trajectories each."""
    context = SimpleNamespace(
        queue_limit=lambda _: limit,
        config=load_config(SPREAD, ["rounds.batch=4", "rounds.max_staleness=2", *overrides]),
    )
    feed = RolloutQueue(
        context,
        SimpleNamespace(index=0, actors=(1,)),
        make_rule(rule, 2, 4),
        SimpleNamespace(on_policy=on_policy),
    )
    messages = [Sent() for _ in range(4)]
    for message in messages:
        feed.add(message, SimpleNamespace(version=0, count=2, steps=6), 0)
    return feed, messages


def test_rollouts_of_a_late_gradient_make_the_next_one():
    feed, messages = queue()
    works = [feed.take(0, 0) for _ in range(3)]
    for work in works:
        feed.done(work, 0)
    feed.on_version(1)
    feed.on_late(0, 1)  # the last two of the round came too late
    feed.on_late(0, 1)
    assert feed.repeated == 4
    again = [feed.take(1, 0) for _ in range(3)]
    assert [work.entries[0].message for work in again] == messages[1:]
    for work in again:
        feed.done(work, 1)
    feed.on_late(2, 1)  # a round that nothing was made for
    assert feed.take(1, 0) is None
    assert not any(message.released for message in messages)


def test_rollouts_of_a_late_gradient_may_be_too_old():
    feed, messages = queue()
    feed.done(feed.take(0, 0), 0)
    feed.on_version(3)
    assert feed.late == 6
    feed.on_late(0, 3)
    assert (feed.take(3, 0), feed.late) == (None, 8)
    assert all(message.released for message in messages)


def test_few_late_gradients_can_be_made_again():
    feed, messages = queue(limit=4)
    for version in range(3):
        feed.done(feed.take(version, 0), version)
        feed.add(Sent(), SimpleNamespace(version=version, count=2, steps=6), version)
    assert [message.released for message in messages] == [True, True, True, False]  # the queue is full
    for version in range(4):
        feed.done(feed.take(version, 0), version)
    assert messages[3].released is False
    feed.add(Sent(), SimpleNamespace(version=2, count=2, steps=6), 2)
    assert messages[3].released is True


@pytest.mark.parametrize(
    ("rule", "override", "on_policy"),
    [
        ("sync", "algo.reuse=1", False),
        ("afedpg", "algo.reuse=1", False),
        ("rennala", "algo.reuse=1", True),
        ("rennala", "deterministic=true", False),
        ("rennala", "rounds.reduce=mpi", False),
    ],
)
def test_what_is_never_late_is_released_at_once(rule, override, on_policy):
    feed, messages = queue(rule, override, on_policy=on_policy)
    work = whole(list(feed.entries))
    feed.entries.clear()
    feed.done(work, 0)
    assert all(message.released for message in messages)


@pytest.mark.parametrize(("on_policy", "late_steps"), [(False, 24), (True, 0)])
def test_what_a_slow_learner_leaves_unused_is_counted(on_policy, late_steps):
    feed, _ = queue(limit=4, on_policy=on_policy)
    feed.add(Sent(), SimpleNamespace(version=0, count=2, steps=6), 0)
    assert (feed.overflow, feed.unused_steps) == (2, 12)  # no room for the oldest
    feed.take(0, 0)
    feed.take(0, 0)
    feed.on_version(3)  # too old for off-policy corrections; on-policy work ends with every round
    assert (feed.late, feed.unused_steps) == (4, 12 + late_steps)
