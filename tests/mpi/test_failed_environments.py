"""A bug of the user's environment on several ranks: one short traceback, the record, and the summary."""

import pytest

from hpcmarl.io.run_state import read_run_state
from tests.support.launch import ranks_take_seconds, run_train
from tests.support.worlds import SPREAD, summary

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


@pytest.mark.parametrize("changes", [(), ("topology.workers_per_actor=2",)], ids=["actors", "workers"])
def test_bug_of_an_environment_is_printed_once(changes, tmp_path):
    (tmp_path / "config.yaml").write_text(SPREAD)
    broken = "env={id: 'tests.support.environments:Fragile', kwargs: {step: 4}}"
    job = run_train(
        "openmpi", 4, tmp_path / "config.yaml", "--run-dir", str(tmp_path / "run"), broken, *changes
    )
    assert job.code == 1
    assert job.text.count("RuntimeError: the wheel came off") <= 2  # the frames, and the line with the error
    assert job.text.count("error: ") == 1
    assert 'raise RuntimeError("the wheel came off")' in job.text
    assert "Traceback (most recent call last)" not in job.text
    told = summary(tmp_path / "run")
    assert told["status"] == "failed"
    assert "the wheel came off" in told["error"]
    assert "environments.py:" in told["error_line"]
    assert "Traceback (most recent call last)" in (tmp_path / "run" / told["traceback"]).read_text()
    state = read_run_state(tmp_path / "run")
    assert state.state == "failed"
    assert "the wheel came off" in state.sentence()
