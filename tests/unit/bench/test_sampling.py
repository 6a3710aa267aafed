"""`hpcmarl bench sampling`: its counts and the configurations that it refuses."""

import pytest

from hpcmarl.bench import sampling
from hpcmarl.config.file import load_simulation
from hpcmarl.errors import UsageError
from tests.support.simulations import CARTPOLE


def test_every_method_is_measured_past_the_end_of_the_simulation():
    rows = sampling.run(load_simulation(CARTPOLE), 1.5)
    assert [row["method"] for row in rows] == ["sync", "afedpg", "rennala"]
    for row in rows:
        assert row["environment"] == "gymnasium:CartPole-v1"
        assert row["events_per_second"] > 0
        assert (
            0 < row["ratio"] == pytest.approx(row["played_steps_per_second"] / row["bare_steps_per_second"])
        )


def test_simulations_without_a_policy_are_refused():
    with pytest.raises(
        UsageError, match=r"needs a configuration with objective\.name: policy; this one has none"
    ):
        sampling.run(load_simulation("sim: {workers: 3, stop: {rounds: 3}}\n"), 1.0)
