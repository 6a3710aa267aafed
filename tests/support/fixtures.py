"""Fixtures used by tests of several folders; tests/conftest.py loads them."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from hpcmarl.cli import main as cli
from hpcmarl.config.run import TrajectoriesConfig
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.io.trajectories.writer import TrajectoryWriter
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import SPREAD


@pytest.fixture
def run(capsys, monkeypatch):
    """Return a function that runs a command line in this process.

    It returns exit code, standard output and standard error.
    """

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hpcmarl", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.fixture
def run_json(run):
    """Return a function that runs a command line with --json, which must succeed, and returns the object."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


CONFIG = "name: tiny\nenv: {id: a.b}\nstop: {updates: 3}\ntopology: {threads: 2}\n"


@pytest.fixture
def config(tmp_path):
    """Path of config.yaml in an empty directory: a short run of simple_spread (worlds.py)."""
    path = tmp_path / "config.yaml"
    path.write_text(SPREAD)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory with tiny.yaml, outside any MPI world."""
    monkeypatch.chdir(tmp_path)
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    # no world is entered, even if a test pretends to run under a launcher
    monkeypatch.setattr("hpcmarl.runtime.entry.enter_world", lambda: 1)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """Replace hpcmarl.training.train by a record of its calls."""
    calls = []

    def train(config, run_dir=None, resume=None, *, accept_changes=False, signals=None):
        calls.append((config, run_dir, resume))
        return 75

    monkeypatch.setitem(sys.modules, "hpcmarl.training", types.SimpleNamespace(train=train))
    return calls


@pytest.fixture
def started(monkeypatch):
    """Replace launch.mpiexec.run_ranks by a record of its calls."""
    calls = []

    def run_ranks(ranks, arguments, environ, resumable=None, source=None):
        calls.append((ranks, list(arguments)))
        return 7

    monkeypatch.setattr("hpcmarl.launch.mpiexec.run_ranks", run_ranks)
    return calls


SUBMITTED = (
    "name: tiny\nseed: 3\nenv: {id: a.b}\nstop: {updates: 3}\nslurm: {partition: long, options: "
    "[--exclusive]}\n"
)


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """A working directory with tiny.yaml, without any program of Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: None)
    (tmp_path / "tiny.yaml").write_text(SUBMITTED)
    return tmp_path


@pytest.fixture
def shard(tmp_path):
    """A shard with one rollout of 20 steps and 4 slots."""
    generator = np.random.default_rng(3)
    writer = TrajectoryWriter(
        tmp_path / "run", make_spec(), TrajectoriesConfig(), rank=0, role="actor", host="h", attributes={}
    )
    writer.append(random_rollout(make_spec(), 20, 4, generator))
    writer.close()
    return list_shards(tmp_path / "run")[0]


@pytest.fixture
def spoiled_from_the_start():
    """Restart the episode counter of the environment Spoiled, of which every fifth episode is faulty."""
    from tests.support.environments import Spoiled

    Spoiled.episodes = 0


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system of 32 MB: small enough to fill, but larger than the runs of the tests need."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("needs root and the right to mount a small tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def product_timing(monkeypatch):
    """Set the measured seconds of sparse products: times["dense"] and times["csr"]."""
    from hpcmarl.nets import sparse

    times = {"dense": 1.0, "csr": 0.5, "calls": 0}

    def best_seconds(calls):
        for call in calls:
            call()
        times["calls"] += 1
        return [times["dense"], times["csr"]]

    monkeypatch.setattr(sparse, "_best_seconds", best_seconds)
    return times


@pytest.fixture(scope="session")
def quick_compiler():
    """Let JAX compile SMAX without optimisation, unless JAX is already loaded.

    Compilation takes most of the time of these tests.
    """
    if importlib.util.find_spec("jaxmarl") is None or "jax" in sys.modules:
        return
    from hpcmarl.envs.smax.maps import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0")
        module = load("smax:3m")  # JAX reads its settings during the import
    module.COMPILER["xla_backend_optimization_level"] = "0"
