"""The package as a user installs it: from a wheel, in a directory without the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return the directory of a package that was built into a wheel and unpacked."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    for name in ("hpcmarl", "configs", "slurm"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel = ["wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(place)]
    subprocess.run([*pip, *wheel], check=True, timeout=240)
    (file,) = place.glob("hpcmarl-*.whl")
    target = ["install", "--no-deps", "--no-index", "--target", str(place / "site"), str(file)]
    subprocess.run([*pip, *target], check=True, timeout=240)
    return place / "site"


@pytest.fixture
def run(installed, tmp_path):
    """Return a function that runs hpcmarl from the wheel in an empty directory."""

    def run(*arguments, code=0):
        found = subprocess.run(
            [sys.executable, "-m", "hpcmarl", *arguments],
            env={**os.environ, "PYTHONPATH": str(installed)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert found.returncode == code, found.stdout + found.stderr
        return found.stdout + found.stderr

    return run


pytestmark = pytest.mark.slow("builds a wheel and starts Python several times")


def test_wheel_has_every_configuration_and_trains_by_name(run, installed, tmp_path):
    listed = run("list", "configs")
    names = [
        path.relative_to(ROOT / "configs").with_suffix("").as_posix()
        for path in ROOT.glob("configs/**/*.yaml")
    ]
    assert not [name for name in names if f"\n{name} " not in listed]
    (line,) = [line for line in listed.splitlines() if line.startswith("smax/3m_mappo ")]
    assert all(word in line for word in ("train", " 2 ", "14 minutes", "hpcmarl[smax]"))
    text = run("train", "quickstart", "stop.updates=2", "eval.episodes=0", "--run-dir", "run")
    assert "finished" in text
    assert str(ROOT) not in text
    assert (tmp_path / "run" / "summary.json").exists()
    assert "did you mean env/hopper or paper/hopper?" in run("config", "check", "hopper", code=2)
    assert (installed / "hpcmarl" / "shipped" / "slurm" / "train.sbatch").exists()


def test_init_copies_a_configuration_and_its_batch_script(run, tmp_path):
    text = run("init", "first")
    assert "hpcmarl train first/quickstart.yaml -n 4" in text
    copied = (tmp_path / "first" / "quickstart.yaml").read_text()
    assert "#   hpcmarl train quickstart.yaml -n 4" in copied
    subprocess.run(["bash", "-n", tmp_path / "first" / "train.sbatch"], check=True)
    assert "valid" in run("config", "check", "first/quickstart.yaml")
    run("init", "first", "mpe/spread_qmix")  # the batch script is the same and stays
    (tmp_path / "first" / "quickstart.yaml").write_text("changed")
    assert "exists with other content" in run("init", "first", code=2)
    assert "did you mean quickstart?" in run("init", "other", "quikstart", code=2)
    assert not Path(tmp_path / "other").exists()
