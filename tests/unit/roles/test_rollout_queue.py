"""Rollouts that wait at a learner.

The tests cover the batches of a deterministic run, and rollouts of gradients that arrive too late.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcmarl.comm.protocol import Flags, read_header
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.learner.rollout_queue import RolloutQueue
from hpcmarl.roles.learner.rollout_source import batch_of_entries
from hpcmarl.rollouts.codec import RolloutCodec
from tests.support.contexts import make_context
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import SPREAD


def test_episodes_that_ended_in_the_same_step_are_taken_together():
    codec = RolloutCodec(make_spec())
    context = make_context(SPREAD, "algo.name=reinforce", "deterministic=true")
    source = RolloutQueue(
        context, Group(0, 0, (1,)), make_rule("sync", 1, 2), SimpleNamespace(on_policy=True)
    )
    for index, flags in enumerate((Flags.NONE, Flags.MORE, Flags.NONE)):
        assert source.take(0, 0) is None
        rollout = random_rollout(make_spec(), 3, 1, np.random.default_rng(index), whole_episode=True)
        rollout.version = 0
        buffer = codec.pack(rollout)
        header = read_header(buffer)._replace(flags=flags)
        source.add(Message(header, buffer, 1), codec.read(buffer, 0), 0)
    assert source.take(0, 0).count == 3


class Sent:
    """A rollout's message that records its release."""

    def __init__(self):
        self.source, self.released = 1, False

    def release(self):
        assert not self.released
        self.released = True


def queue(rule="rennala", *overrides, on_policy=False, limit=8):
    """Return the queue of one of two groups, and messages of four rollouts of two trajectories each."""
    context = make_context(SPREAD, "rounds.batch=4", "rounds.max_staleness=2", *overrides)
    source = RolloutQueue(
        context, Group(0, 0, (1,)), make_rule(rule, 2, 4), SimpleNamespace(on_policy=on_policy)
    )
    source.limit = limit
    messages = [Sent() for _ in range(4)]
    for message in messages:
        source.add(message, SimpleNamespace(version=0, count=2, steps=6), 0)
    return source, messages


def test_rollouts_of_a_late_gradient_make_the_next_one():
    source, messages = queue()
    works = [source.take(0, 0) for _ in range(3)]
    for work in works:
        source.done(work, 0)
    source.on_version(1)
    # The last two gradients of the round came too late.
    source.on_late(0, 1)
    source.on_late(0, 1)
    assert source.repeated == 4
    again = [source.take(1, 0) for _ in range(3)]
    assert [work.entries[0].message for work in again] == messages[1:]
    for work in again:
        source.done(work, 1)
    source.on_late(2, 1)  # a round without gradients of this group
    assert source.take(1, 0) is None
    assert not any(message.released for message in messages)


def test_rollouts_of_a_late_gradient_may_be_too_old():
    source, messages = queue()
    source.done(source.take(0, 0), 0)
    source.on_version(3)
    assert source.late == 6
    source.on_late(0, 3)
    assert (source.take(3, 0), source.late) == (None, 8)
    assert all(message.released for message in messages)


def test_few_late_gradients_can_be_made_again():
    source, messages = queue(limit=4)
    for version in range(3):
        source.done(source.take(version, 0), version)
        source.add(Sent(), SimpleNamespace(version=version, count=2, steps=6), version)
    assert [message.released for message in messages] == [True, True, True, False]  # the queue is full
    for version in range(4):
        source.done(source.take(version, 0), version)
    assert messages[3].released is False
    source.add(Sent(), SimpleNamespace(version=2, count=2, steps=6), 2)
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
    source, messages = queue(rule, override, on_policy=on_policy)
    work = batch_of_entries(list(source.entries))
    source.entries.clear()
    source.done(work, 0)
    assert all(message.released for message in messages)


@pytest.mark.parametrize(("on_policy", "late_steps"), [(False, 24), (True, 0)])
def test_what_a_slow_learner_leaves_unused_is_counted(on_policy, late_steps):
    source, _ = queue(limit=4, on_policy=on_policy)
    source.add(Sent(), SimpleNamespace(version=0, count=2, steps=6), 0)
    assert (source.overflow, source.unused_steps) == (2, 12)  # the oldest were discarded
    source.take(0, 0)
    source.take(0, 0)
    # The rest is now too old for off-policy corrections. On-policy work ends with every round.
    source.on_version(3)
    assert (source.late, source.unused_steps) == (4, 12 + late_steps)
