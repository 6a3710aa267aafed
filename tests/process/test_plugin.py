"""A package outside hpcmarl that pip installs: docs/examples/plugin."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "plugin"
RLOO = ("algo.name=rloo", "eval.episodes=4")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which pip has installed the package; needs no network."""
    base = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(EXAMPLE, base / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*pip, "--no-index", "--target", base / "lib", source], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return base / "lib"


def hpcmarl(directory: Path, packages: Path | None, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, with or without the installed package."""
    paths = [ROOT, *([] if packages is None else [packages])]
    return subprocess.run(
        [sys.executable, "-m", "hpcmarl", *map(str, arguments)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=120,
    )


def succeeds(directory: Path, packages: Path, *arguments: object) -> str:
    done = hpcmarl(directory, packages, *arguments)
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def summary(run: Path) -> dict:
    return json.loads((run / "summary.json").read_text())


@pytest.mark.slow("starts three ranks twice")
@pytest.mark.mpi
def test_installed_package_trains_resumes_and_evaluates(installed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    callback = "callbacks=[{name: patience, evaluations: 1000}]"
    arguments = ["train", EXAMPLE / "rloo.yaml", *RLOO, callback, "eval.every_updates=2", "-n", 3]
    succeeds(tmp_path, installed, *arguments, "stop.updates=4", "--run-dir", run)
    assert summary(run)["updates"] == 4
    text = (run / "config.yaml").read_text()
    assert "name: rloo\n" in text
    assert "entropy_cost: 0.0\n" in text  # a key of the package, with its default
    succeeds(tmp_path, installed, "train", "--resume", run, "-n", 3, "stop.updates=6")
    assert summary(run)["updates"] == 6
    assert summary(run)["callback_errors"] == []
    said = succeeds(tmp_path, installed, "eval", run, "--episodes", 2)
    assert "algo.name rloo: my-marl 0.1.0" in said  # where the code comes from
    assert "patience" not in said  # only training needs callbacks

    gone = hpcmarl(tmp_path, None, "train", "--resume", run)
    assert gone.returncode == 2
    assert "algo.name is 'rloo'; allowed: " in gone.stderr
    assert len(gone.stderr.splitlines()) == 1


def test_installed_package_is_listed_and_submitted(installed: Path, tmp_path: Path) -> None:
    rows = json.loads(succeeds(tmp_path, installed, "list", "algos", "--json"))["algorithms"]
    assert rows[-1] == {
        "name": "rloo",
        "package": "my-marl 0.1.0",
        "summary": "REINFORCE with a leave-one-out baseline",
    }
    assert "patience" in succeeds(tmp_path, installed, "list", "callbacks")
    assert "algo.entropy_cost" in succeeds(tmp_path, installed, "config", "schema", "algo.name=rloo")
    script = succeeds(tmp_path, installed, "submit", EXAMPLE / "rloo.yaml", *RLOO, "--dry-run")
    assert "#SBATCH --job-name=rloo" in script


@pytest.mark.mpi
def test_rank_that_cannot_import_a_class_is_named(tmp_path: Path) -> None:
    """The job ends with one line before anything trains."""
    (tmp_path / "halfway.py").write_text(
        "import os\n"
        "from hpcmarl.optim.rounds.sync import Sync\n"
        "if {'1', '2'} & {os.environ.get('OMPI_COMM_WORLD_RANK'), os.environ.get('PMI_RANK')}:\n"
        "    import not_installed_here\n"
        "class Mine(Sync):\n"
        "    pass\n"
    )
    config = ROOT / "configs" / "quickstart.yaml"
    arguments = ["train", config, "-n", 3, "rounds.rule=halfway:Mine", "--run-dir", tmp_path / "run"]
    done = hpcmarl(tmp_path, None, *arguments)
    assert done.returncode == 2
    line = next(line for line in done.stderr.splitlines() if "rank 1 on" in line)
    assert "rounds.rule: halfway:Mine needs the package not_installed_here" in line
    assert "(and on 1 more ranks); install the package on every node" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.mpi
def test_learner_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """Only learners import the class; the others wait for the answer."""
    (tmp_path / "learnerless.py").write_text(
        "from hpcmarl.algos.design import reinforce_design\n"
        "from hpcmarl.algos.external import ExternalAlgorithm\n"
        "class Mine(ExternalAlgorithm):\n"
        "    learner = 'learnerless:Misspelt'\n"
        "    design = staticmethod(reinforce_design)\n"
    )
    changes = ["algo={name: 'learnerless:Mine'}", "--run-dir", tmp_path / "run"]
    done = hpcmarl(tmp_path, None, "train", ROOT / "configs" / "quickstart.yaml", "-n", 2, *changes)
    assert done.returncode == 2
    assert "(learner) on" in done.stderr
    assert (
        "algo.name learnerless:Mine: learnerless:Misspelt: learnerless has no class Misspelt" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
