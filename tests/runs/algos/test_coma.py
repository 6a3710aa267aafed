"""Whole runs of COMA: every round rule, and an exact resume."""

import numpy as np
import pytest

from tests.support.worlds import final_parameters, run_world, summary

COUNTER = ("algo.name=coma", "algo.target_every=3")


@pytest.mark.parametrize(
    "extra",
    [(), ("rounds.reduce=mpi",), ("algo.network.body=gru", "algo.normalise_values=true")],
    ids=str,
)
def test_coma_resume_equals_uninterrupted_run(tmp_path, extra):
    keys = (*COUNTER, *extra, "deterministic=true", "rounds.rule=sync")
    run_world(4, tmp_path / "whole", *keys, "stop.updates=10")
    run_world(4, tmp_path / "half", *keys, "stop.updates=5", order=7)
    run_world(4, tmp_path / "half", *keys, "stop.updates=10", resume=str(tmp_path / "half"), order=8)
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "half"))


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia"])
def test_coma_trains_under_every_round_rule(tmp_path, rule):
    run_world(5, tmp_path, *COUNTER, f"rounds.rule={rule}", "topology.groups=2", "stop.updates=5")
    assert summary(tmp_path)["updates"] == 5
