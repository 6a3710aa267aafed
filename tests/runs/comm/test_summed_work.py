"""AllReduce sums the work that is reported as used, and excludes work that the rule drops."""

import pytest

from hpcmarl.comm.local import LocalTransport
from tests.support.worlds import run_world, summary

WHOLE = (
    "algo.name=reinforce",
    "env.id=tests.support.environments:ShortOrLong",
    "env.kwargs={}",
    "rounds.batch=4",
)
CASES = [("rennala", "rounds.batch=3"), ("rennala", *WHOLE), ("malenia", *WHOLE), ("sync", *WHOLE)]


@pytest.mark.parametrize("late", ["cancel", "ignore"])
@pytest.mark.parametrize(("rule", "changes"), [(rule, changes) for rule, *changes in CASES])
def test_summed_trajectories_are_those_reported_as_used(tmp_path, monkeypatch, rule, changes, late):
    summed = []
    start = LocalTransport.start_sum

    def counted(transport, vector):
        summed.append(round(float(vector[-1])))
        return start(transport, vector)

    monkeypatch.setattr(LocalTransport, "start_sum", counted)
    fixed = (
        "topology.groups=2",
        "rounds.reduce=mpi",
        "stop.updates=40",
        f"rounds.late={late}",
        f"rounds.rule={rule}",
    )
    run_world(5, tmp_path, *changes, *fixed, order=7)
    assert summary(tmp_path)["used_trajectories"] == sum(summed)


def test_older_episodes_are_dropped_and_not_summed(tmp_path):
    run_world(
        5,
        tmp_path,
        *WHOLE,
        "topology.groups=2",
        "rounds.rule=rennala",
        "rounds.reduce=mpi",
        "rounds.late=ignore",
        "stop.updates=40",
        order=2,
    )
    assert summary(tmp_path)["wasted_gradients"] > 0
