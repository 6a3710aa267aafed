"""Commands that read a checkpoint import no environment that nobody vouches for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcmarl.envs.trust import VARIABLE
from hpcmarl.errors import ConfigError
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from tests.support.leagues import RPS
from tests.support.worlds import ECHO, run_world

PRINTER = '''
import pathlib

pathlib.Path("ran").touch()


def env(**_):
    raise ValueError("no environment")
'''


@pytest.fixture(autouse=True)
def untrusting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is trusted at first, and a module that leaves a trace when it is imported lies in the working directory."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "smuggled", raising=False)
    (tmp_path / "smuggled.py").write_text(PRINTER)


def smuggle(run: Path, id: str, *, everywhere: bool = False) -> None:
    """Have the newest checkpoint of a run name another environment; everywhere: its config.yaml, too."""
    path = list_checkpoints(run)[0]
    state, attributes = load_checkpoint(path)
    config = attributes["config"]
    own = next(line for line in config.splitlines() if line.startswith("  id: "))
    changed = config.replace(own, f"  id: {id}", 1)
    version = attributes.pop("version")
    save_checkpoint(path.parent, state, version=version, attributes={**attributes, "config": changed})
    if everywhere:
        (run / "config.yaml").write_text(changed)


COMMANDS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "eval": (ECHO, lambda run: ["eval", run, "--episodes", "2"]),
    "match": (RPS, lambda run: ["league", "match", run, "random", "random"]),
    "tournament": (RPS, lambda run: ["league", "tournament", run, "random", "random"]),
    "show": (RPS, lambda run: ["league", "show", run]),
    "export": (RPS, lambda run: ["league", "export", run, "--table", "table.csv"]),
    "exploit": (RPS, lambda run: ["league", "exploit", run, "random", "stop.updates=1"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_smuggled_environment_is_not_imported(name: str, tmp_path: Path, run: Any) -> None:
    text, arguments = COMMANDS[name]
    run_world(1, tmp_path / "run", text=text)
    smuggle(tmp_path / "run", "smuggled:env")
    code, _, error = run(*arguments("run"))
    assert code == 2, error
    assert "names the environment smuggled:env" in error
    assert "--trust smuggled:env" in error
    assert not (tmp_path / "ran").exists()


def test_trusted_environment_is_imported(tmp_path: Path, run: Any) -> None:
    run_world(1, tmp_path / "run", text=ECHO)
    smuggle(tmp_path / "run", "smuggled:env")
    run("eval", "run", "--episodes", "2", "--trust", "smuggled:env")
    assert (tmp_path / "ran").exists()


def test_own_environment_of_the_run_is_imported_and_named(tmp_path: Path, run: Any) -> None:
    run_world(1, tmp_path / "run", text=ECHO)
    code, _, error = run("eval", "run", "--episodes", "2")
    assert code == 0, error
    assert "environment tests.support.environments:Echo: " in error


def test_part_of_hpcmarl_is_refused_even_where_the_run_names_it(tmp_path: Path, run: Any) -> None:
    run_world(1, tmp_path / "run", text=ECHO)
    smuggle(tmp_path / "run", "pygments.lexers:load_lexer_from_file", everywhere=True)
    code, _, error = run("eval", "run", "--episodes", "2")
    assert code == 2
    assert "is no environment: the package pygments holds none" in error


def test_resuming_with_a_smuggled_environment_is_refused(tmp_path: Path) -> None:
    run_world(1, tmp_path / "run", text=ECHO)
    smuggle(tmp_path / "run", "smuggled:env")
    with pytest.raises(ConfigError, match="is of another environment"):
        run_world(1, tmp_path / "run", "stop.updates=9", text=ECHO, resume=str(tmp_path / "run"))
    assert not (tmp_path / "ran").exists()
