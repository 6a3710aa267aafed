"""Episodes are counted in the order of their starts, not in the order of arrival."""

from types import SimpleNamespace

import pytest

from hpcmarl.comm.topology import Group
from hpcmarl.optim.rounds import make_rule
from hpcmarl.roles.learner.round_end import RoundEnd
from hpcmarl.roles.learner.start_order import StartOrder
from tests.support.contexts import make_context
from tests.support.worlds import SPREAD


def queue_of(rule, *, actors=(1, 2), version=0, limit=1000, late="cancel"):
    context = make_context(SPREAD, "algo.name=reinforce", f"rounds.late={late}")
    queue = StartOrder(context, Group(0, 0, actors), rule, SimpleNamespace(on_policy=True))
    queue.limit = limit
    queue.on_version(version)
    return queue


def arrive(queue, rank, number, *, version=0, newest=0):
    rollout = SimpleNamespace(version=version, count=1, number=number, label=(rank, number))
    queue.add(SimpleNamespace(source=rank, release=lambda: None), rollout, newest)


def labels(work):
    return [rollout.label for rollout in work.rollouts]


def test_quota_is_shared_out_and_taken_as_a_whole():
    queue = queue_of(make_rule("sync", 1, 5))
    assert [queue.allotment(rank) for rank in (1, 2)] == [3, 2]
    for rank, number in ((2, 1), (1, 2), (1, 1), (2, 0)):
        arrive(queue, rank, number)
        assert queue.take(0, 0) is None
    arrive(queue, 1, 0)
    work = queue.take(0, 0)
    assert labels(work) == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    assert queue.take(0, work.count) is None


def test_malenia_counts_waves_and_begins_the_next():
    queue = queue_of(make_rule("malenia", 2, 4))
    assert [queue.allotment(rank) for rank in (1, 2)] == [2, 2]
    queue.allotment_changed = False
    for rank, number in ((1, 0), (1, 1), (2, 1)):
        arrive(queue, rank, number)
        assert queue.take(0, 0) is None
    arrive(queue, 2, 0)
    assert labels(queue.take(0, 0)) == [(1, 0), (2, 0)]
    assert queue.allotment_changed
    assert [queue.allotment(rank) for rank in (1, 2)] == [3, 3]
    assert labels(queue.take(0, 2)) == [(1, 1), (2, 1)]


def test_large_quota_is_delivered_in_parts_when_messages_pile_up():
    queue = queue_of(make_rule("sync", 1, 6), actors=(1,), limit=4)
    arrive(queue, 1, 0)
    assert queue.take(0, 0) is None
    arrive(queue, 1, 1)
    assert labels(queue.take(0, 0)) == [(1, 0), (1, 1)]


def test_episodes_of_a_dead_actor_go_to_the_living():
    queue = queue_of(make_rule("sync", 1, 4))
    arrive(queue, 2, 0)
    queue.on_actor_lost(2)
    assert queue.allotment(1) == 3
    for number in (0, 1, 2):
        arrive(queue, 1, number)
    assert labels(queue.take(0, 0)) == [(1, 0), (2, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("delivered", [0, 1])
def test_the_only_actor_is_waited_for_when_it_is_replaced(delivered):
    queue = queue_of(make_rule("sync", 1, 3), actors=(7,))
    for number in range(delivered):
        arrive(queue, 7, number)
    queue.on_actor_lost(7)
    queue.on_actor_replaced(7)
    assert queue.allotment(7) == 3 - delivered
    for number in range(3 - delivered):
        assert queue.take(0, 0) is None
        arrive(queue, 7, number)
    assert queue.take(0, 0).count == 3


def test_share_grows_with_the_loss_of_a_group():
    rule = make_rule("sync", 2, 4)
    queue = queue_of(rule, actors=(1,))
    assert queue.allotment(1) == 2
    rule.on_lost(1)
    queue.on_groups_lost(0)
    assert queue.allotment(1) == 4


@pytest.mark.parametrize(("late", "dropped"), [("cancel", 1), ("ignore", 0)])
def test_late_episodes_are_dropped_or_left_to_the_rule(late, dropped):
    queue = queue_of(make_rule("malenia", 2, 2), version=3, late=late)
    arrive(queue, 1, 0, version=2, newest=3)
    assert queue.late == dropped
    work = queue.take(3, 0)
    assert (work is None) if dropped else (work.versions == [2])


def test_new_version_forgets_what_was_not_counted():
    queue = queue_of(make_rule("malenia", 2, 4))
    arrive(queue, 1, 0)
    arrive(queue, 2, 1)
    queue.on_version(1)
    assert queue.late == 2
    assert [queue.allotment(rank) for rank in (1, 2)] == [2, 2]


def test_round_end_waits_for_what_actors_say_they_sent():
    end = RoundEnd((1, 2))
    end.begin(4)
    end.closed(1, 4, 1)
    end.closed(2, 3, 0)  # for an older version
    assert end.due() is None
    end.closed(2, 4, 0)
    assert end.due() is None
    end.arrived[1] += 1
    assert end.due() == 4
    assert end.due() is None
    end.on_version(5)
    assert not end.closing
    end.begin(5)
    end.actors.discard(2)
    end.closed(1, 5, 0)
    assert end.due() == 5


def test_round_may_end_before_a_group_has_its_parameters():
    end = RoundEnd((1,))
    end.on_version(6)
    end.begin(7)
    end.closed(1, 7, 0)
    end.on_version(7)
    assert end.closing
    assert end.due() == 7
    assert end.due() is None
    end.on_version(8)
    assert not end.closing


def test_refused_episodes_are_played_again():
    queue = queue_of(make_rule("sync", 1, 3), actors=(1,))
    for number in range(3):
        arrive(queue, 1, number)
    queue.refuse(queue.take(0, 0))
    assert (queue.allotment_changed, queue.allotment(1)) == (True, 6)
    for number in range(3, 6):
        arrive(queue, 1, number)
    assert labels(queue.take(0, 0)) == [(1, 3), (1, 4), (1, 5)]


def test_waves_grow_with_the_loss_of_groups():
    rule = make_rule("malenia", 10, 20)
    queue = queue_of(rule, actors=(1,))
    assert queue.allotment(1) == 4
    for group in range(1, 8):
        rule.on_lost(group)
    queue.on_groups_lost(0)
    for number in range(queue.allotment(1)):
        arrive(queue, 1, number)
    assert queue.take(0, 0).count == 7
