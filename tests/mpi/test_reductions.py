"""Sums among real learners by each backend: the numbers of a server, whole runs, resuming by another backend, refusals."""

import pytest

from tests.mpi.launch import LIBRARIES, needs_horovod, run_program, run_train
from tests.replays import record
from tests.worlds import SPREAD, summary

pytestmark = pytest.mark.mpi
TRACES = [("rennala", 3, 2), ("sync", 3, 6), ("malenia", 3, 8), ("malenia", 2, 6)]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(SPREAD)
    return path


def traces(directory):
    paths = []
    for number, (rule, groups, batch) in enumerate(TRACES):
        paths.append(str(directory / f"{number}.npz"))
        record(directory / str(number), rule, groups, batch, updates=4).save(paths[-1])
    return paths


@pytest.mark.parametrize(
    ("library", "backends"),
    [("openmpi", "mpi,gloo"), pytest.param("openmpi", "horovod", marks=needs_horovod), pytest.param("mpich", "mpi,gloo", marks=LIBRARIES[1].marks)],
)
def test_real_ranks_sum_what_a_server_sums(library, backends, tmp_path):
    job = run_program(library, 4, "sums.py", backends, *traces(tmp_path))
    assert job.code == 0, job.text
    assert f"{len(TRACES)} traces by {backends.replace(',', ', ')}: equal" in job.text
    assert not job.orphans


@pytest.mark.parametrize(("first", "second"), [("gloo", "mpi"), pytest.param("horovod", "gloo", marks=needs_horovod)])
def test_learners_with_actors_train_and_go_on_by_another_backend(first, second, config, tmp_path):
    always = ("--run-dir", str(tmp_path / "run"), "topology.groups=2", "topology.actors_per_learner=1", "rounds.rule=rennala", "rounds.batch=4")
    job = run_train("openmpi", 4, config, *always, f"rounds.reduce={first}")
    assert job.code == 0, job.text
    assert not job.orphans
    again = run_train("openmpi", 4, config, *always, f"rounds.reduce={second}", "--resume", "auto", "stop.updates=9")
    assert again.code == 0, again.text
    told = summary(tmp_path / "run")
    assert (told["status"], told["updates"], told["ranks"]) == ("finished", 9, 4)


@pytest.mark.parametrize(
    ("reduce", "words"),
    [("nccl", "choose rounds.reduce: mpi or gloo"), ("horovod", "tools/install_horovod"), ("gloo", "GLOO_SOCKET_IFNAME chooses the interface")],
    ids=["nccl", "horovod", "gloo"],
)
def test_a_backend_that_is_not_there_is_one_line_before_anybody_trains(reduce, words, config, tmp_path, monkeypatch):
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
