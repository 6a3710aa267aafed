"""Sums among real learners by each backend: the numbers of a server, whole runs, resuming by another backend, refusals."""

import pytest

from tests.support.launch import run_train
from tests.support.worlds import SPREAD

pytestmark = pytest.mark.mpi
TRACES = [("rennala", 3, 2), ("sync", 3, 6), ("malenia", 3, 8), ("malenia", 2, 6)]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(SPREAD)
    return path


@pytest.mark.parametrize(
    ("reduce", "words"),
    [("nccl", "choose rounds.reduce: mpi or gloo"), ("horovod", "tools/install_horovod"), ("gloo", "GLOO_SOCKET_IFNAME chooses the interface")],
    ids=["nccl", "horovod", "gloo"],
)
def test_missing_backend_is_rejected_before_training(reduce, words, config, tmp_path, monkeypatch):
    package = tmp_path / "packages" / "horovod"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError('not here', name='horovod')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    job = run_train("openmpi", 3, config, "--run-dir", str(tmp_path / "run"), "topology.groups=2", f"rounds.reduce={reduce}")
    assert job.code == 2, job.text
    assert job.text.count(f"error: rounds.reduce: {reduce}: ") == 1
    assert words in job.text
    assert "Traceback" not in job.text
    assert not (tmp_path / "run").exists()
