"""`hpcmarl bench bare`: the environments that it measures, and its rows for those with one form only."""

import pytest

from hpcmarl.bench import bare
from hpcmarl.envs.particles import TASKS


def test_both_forms_are_measured_where_there_are_two():
    told = []

    def tell(done, total, name):
        assert (done, total) == (len(told), 3)
        told.append(name)

    rows = bare.run(["mpe2.simple_v3", "matrix:rps", "pettingzoo.classic.rps_v2"], 8, 0.2, tell)
    assert told == [row["environment"] for row in rows]
    particles, matrix, package = rows
    assert particles["slots"] == 8
    assert particles["ratio"] == pytest.approx(
        particles["batched_steps_per_second"] / particles["package_steps_per_second"]
    )
    assert matrix["batched_steps_per_second"] > 0
    assert (matrix["package_steps_per_second"], matrix["ratio"]) == (None, None)
    assert package["package_steps_per_second"] > 0
    assert (package["batched_steps_per_second"], package["ratio"]) == (None, None)


def test_by_default_every_batched_environment_is_measured():
    names = bare.batched_environments()
    assert {*TASKS, "matrix:rps", "pettingzoo.classic.connect_four_v3"} <= {*names}
    assert "pettingzoo.classic.rps_v2" not in names
