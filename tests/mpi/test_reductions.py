"""A reduction on the command line when its backend is missing."""

import pytest

from tests.support.launch import ranks_take_seconds, run_train
from tests.support.worlds import SPREAD

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


def test_missing_backend_is_one_line_before_training(tmp_path, monkeypatch):
    config = tmp_path / "config.yaml"
    config.write_text(SPREAD)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    job = run_train(
        "openmpi", 3, config, "--run-dir", str(tmp_path / "run"), "topology.groups=2", "rounds.reduce=nccl"
    )
    assert job.code == 2, job.text
    assert job.text.count("error: rounds.reduce: nccl: ") == 1
    assert "choose rounds.reduce: mpi or gloo" in job.text
    assert "Traceback" not in job.text
    assert not (tmp_path / "run").exists()
