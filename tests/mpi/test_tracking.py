"""Trackers on real ranks: the server's rank starts wandb's process after MPI_Init."""

import sys

import pytest

from hpcmarl.io.metrics import read_metrics
from tests.support.event_files import curve
from tests.support.launch import ranks_take_seconds, run
from tests.support.wandb_files import history, without_network
from tests.support.worlds import SPREAD


@ranks_take_seconds
def test_server_rank_alone_writes_to_both_trackers(tmp_path):
    pytest.importorskip("wandb")
    (tmp_path / "run.yaml").write_text(SPREAD)
    place = tmp_path / "run"
    command = [sys.executable, "-m", "hpcmarl", "train", str(tmp_path / "run.yaml"), "-n", "3"]
    changes = ["logging.wandb=offline", "logging.tensorboard=true", "logging.every_seconds=0.0001"]
    job = run([*command, *changes, "stop.updates=200", "--run-dir", str(place)], without_network(tmp_path))
    assert job.code == 0, job.text
    assert "stops" not in job.text
    assert not job.orphans
    versions = read_metrics(place)["version"].tolist()
    assert [row["_step"] for row in history(place)] == versions
    assert [version for _, version in curve(place / "tensorboard", "run/version")] == versions
    assert len(list((place / "wandb").glob("offline-run-*/"))) == 1
    assert len(list((place / "tensorboard").iterdir())) == 1
