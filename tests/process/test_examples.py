"""Examples in the documentation.

The files that a page shows are written to an empty folder; then its commands are run there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pages import Block, apply, blocks_of

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
ALGORITHM = ROOT / "docs" / "first_algorithm.md"
ENVIRONMENT = EXAMPLES / "own_environment" / "README.md"
RULE = EXAMPLES / "own_rule" / "README.md"
NETWORK = EXAMPLES / "own_network" / "README.md"
FOLDERS = {
    ALGORITHM: EXAMPLES / "plugin",
    ENVIRONMENT: ENVIRONMENT.parent,
    RULE: RULE.parent,
    NETWORK: NETWORK.parent,
}


def follow(page: Path, directory: Path) -> str:
    """Write the files of a page to a directory, and run its commands there.

    Returns:
        Standard output of all commands.
    """
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    printed = ""
    for block in blocks_of(page):
        if block.title:
            apply(block, directory)
        elif block.is_run:
            printed += run(block, directory, environ)
        elif block.is_output:
            assert block.text in printed
    return printed


def run(block: Block, directory: Path, environ: dict[str, str]) -> str:
    """Run a block of commands; return their standard output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def summary(run_directory: Path) -> dict:
    return json.loads((run_directory / "summary.json").read_text())


@pytest.mark.parametrize("page", FOLDERS, ids=lambda page: FOLDERS[page].name)
def test_page_shows_all_files_of_its_example(page: Path) -> None:
    shown = {Path(block.title).name: block.text for block in blocks_of(page) if block.language != "diff"}
    files = {
        path.name: path.read_text()
        for path in FOLDERS[page].rglob("*")
        if path.suffix in (".py", ".yaml", ".toml")
    }
    assert files
    assert {name: shown.get(name) for name in files} == files


def test_page_of_extensions_shows_the_files_of_the_package() -> None:
    shown = {block.title: block.text for block in blocks_of(ROOT / "docs" / "extending.md") if block.title}
    assert len(shown) == 2
    assert shown == {name: (FOLDERS[ALGORITHM] / name).read_text() for name in shown}


@pytest.mark.slow("trains the example's policies")
@pytest.mark.mpi
def test_own_algorithm_passes_its_test_and_learns(tmp_path: Path) -> None:
    follow(ALGORITHM, tmp_path)
    assert summary(tmp_path / "runs" / "rloo")["eval_return_mean"] > 190  # the maximum is 200
    assert summary(tmp_path / "runs" / "rloo-4")["updates"] == 3


@pytest.mark.slow("trains the example's policies")
def test_own_environment_is_learned_without_changes(tmp_path: Path) -> None:
    follow(ENVIRONMENT, tmp_path)
    best = sum(1 - 0.1 * (-(-abs(i - j) // 2) - 1) for i in range(9) for j in range(9) if i != j) / 72
    assert best == pytest.approx(0.906, abs=5e-4)  # the value that the page states
    assert summary(tmp_path / "runs" / "own")["eval_return_mean"] > best - 0.05


def test_own_environment_follows_the_parallel_api(monkeypatch: pytest.MonkeyPatch) -> None:
    from pettingzoo.test import parallel_api_test

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(ENVIRONMENT.parent))
    from own_environment import Rendezvous

    environment = Rendezvous()
    parallel_api_test(environment, num_cycles=100)  # asserts
    observations, _ = environment.reset(seed=0)
    assert set(observations) == set(environment.possible_agents)


@pytest.mark.slow("starts four ranks")
@pytest.mark.mpi
def test_own_rule_passes_its_test_and_ends_rounds(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    follow(RULE, tmp_path)
    run_summary = summary(tmp_path / "runs" / "backup")
    assert run_summary["updates"] == 5
    assert run_summary["used_trajectories"] == 5 * 32  # two groups contribute 16 in each round


@pytest.mark.slow("starts three ranks, twice")
@pytest.mark.mpi
def test_own_network_trains_with_two_algorithms_and_exports(tmp_path: Path) -> None:
    printed = follow(NETWORK, tmp_path)
    assert "the factory failed: TypeError" in printed
    assert summary(tmp_path / "runs" / "own_network")["updates"] == 30
    assert summary(tmp_path / "runs" / "own_qmix")["updates"] == 3
    assert (tmp_path / "policy.pt2").stat().st_size > 60_000  # all weights, 4 bytes each
