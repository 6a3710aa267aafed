"""The backup rule by traces of what groups deliver."""

from backup import Backup

from hpcmarl.optim.rounds import Accept, Drop, Publish, Step


def test_round_ends_with_the_last_group_but_one():
    rule = Backup(3, 4)
    assert rule.quota() == 2  # 4 trajectories by the 2 groups that a round needs
    assert rule.on_gradient(0, 0, 2) == [Accept(0, 0)]
    assert rule.on_gradient(2, 0, 1) == [Accept(2, 0)]
    assert rule.on_gradient(2, 0, 1) == [Accept(2, 0), Step((1.0,), 1 / 4), Publish(1, (0, 1, 2))]


def test_slowest_group_is_dropped_and_takes_part_again():
    rule = Backup(3, 4)
    for group in (0, 2):
        rule.on_gradient(group, 0, 2)
    assert rule.on_gradient(1, 0, 2) == [Drop(1, 2, 1)]
    assert rule.on_gradient(1, 1, 2) == [Accept(1, 0)]


def test_lost_group_lowers_the_number_that_a_round_needs():
    rule = Backup(3, 4)
    rule.on_gradient(0, 0, 4)
    assert rule.on_lost(2)[-1] == Publish(1, (0, 1))
