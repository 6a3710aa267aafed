"""Commands that read a checkpoint import no untrusted environment."""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcmarl.cli.league import league_app
from hpcmarl.cli.main import app
from hpcmarl.envs.trust import VARIABLE
from hpcmarl.errors import ConfigError
from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from tests.support.leagues import RPS
from tests.support.worlds import ECHO, run_world

PRINTER = """
import pathlib

pathlib.Path("ran").touch()


def env(**_):
    raise ValueError("no environment")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Train a run and a league; tests copy their directories."""
    found = {name: tmp_path_factory.mktemp(name) / "run" for name in ("single", "league")}
    run_world(1, found["single"], text=ECHO)
    run_world(1, found["league"], text=RPS)
    return found


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a working directory in which nothing is trusted at first.

    It has a module that leaves a trace when it is imported.
    """
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # imports append the working directory
    monkeypatch.delitem(sys.modules, "smuggled", raising=False)
    (tmp_path / "smuggled.py").write_text(PRINTER)
    return tmp_path


@pytest.fixture
def single(trained: dict[str, Path], place: Path) -> Path:
    return Path(shutil.copytree(trained["single"], place / "run"))


@pytest.fixture
def league(trained: dict[str, Path], place: Path) -> Path:
    shutil.copytree(trained["league"], place / "another")
    return Path(shutil.copytree(trained["league"], place / "run"))


def rename(text: str, id: str, /, **kwargs: Any) -> str:
    config = yaml.safe_load(text)
    config["env"].update(id=id, kwargs=kwargs)
    return yaml.safe_dump(config, sort_keys=False)


def smuggle(run: Path, change: Callable[[str], str], *, everywhere: bool = False) -> None:
    """Change the configuration in the newest checkpoint of a run.

    Args:
        everywhere: Whether to change config.yaml of the run as well.
    """
    path = list_checkpoints(run)[0]
    state, attributes = load_checkpoint(path)
    changed = change(attributes["config"])
    version = attributes.pop("version")
    save_checkpoint(path.parent, state, version=version, attributes={**attributes, "config": changed})
    if everywhere:
        (run / "config.yaml").write_text(changed)


def smuggled(text: str) -> str:
    return rename(text, "smuggled:env")


EVAL = ["eval", "run", "--episodes", "2"]
LEAGUE_COMMANDS = {
    "match": ["run", "random", "random"],
    "tournament": ["run", "random", "random"],
    "show": ["run"],
    "export": ["run", "--table", "table.csv"],
    "exploit": ["run", "random", "stop.updates=1"],
    "transfer": ["run", "random", "run/config.yaml", "--out", "out.h5"],
}


def test_every_command_on_a_run_is_tested() -> None:
    names = {info.name or info.callback.__name__: info.callback for info in league_app.registered_commands}
    assert set(names) == set(LEAGUE_COMMANDS)
    callbacks = {info.name or info.callback.__name__: info.callback for info in app.registered_commands}
    for callback in [*names.values(), callbacks["eval"], callbacks["train"]]:
        assert "trusted" in inspect.signature(callback).parameters, callback


@pytest.mark.parametrize("name", LEAGUE_COMMANDS)
def test_smuggled_environment_of_a_league_is_not_imported(name: str, league: Path, run: Any) -> None:
    smuggle(league, smuggled)
    expect_refusal(run("league", name, *LEAGUE_COMMANDS[name]))


def test_smuggled_environment_of_a_visitor_is_not_imported(league: Path, run: Any) -> None:
    smuggle(league.parent / "another", smuggled)
    expect_refusal(run("league", "match", "run", "random", "a@another"))


def test_smuggled_environment_of_a_run_is_not_imported(single: Path, run: Any) -> None:
    smuggle(single, smuggled)
    expect_refusal(run(*EVAL))


def expect_refusal(outcome: tuple[int, str, str]) -> None:
    code, _, error = outcome
    assert code == 2, error
    assert "names the environment smuggled:env, which is not that of the run's config.yaml" in error
    assert "smuggled.py" in error
    assert "--trust smuggled:env" in error
    assert not Path("ran").exists()


def test_smuggled_environment_of_a_group_is_not_imported(single: Path, run: Any) -> None:
    def change(text: str) -> str:
        config = yaml.safe_load(text)
        config["topology"]["groups"] = [{"env": {"id": "smuggled:env"}}]
        return yaml.safe_dump(config, sort_keys=False)

    smuggle(single, change)
    expect_refusal(run(*EVAL))


# Functions in packages of environments, and in hpcmarl, that import modules named by their arguments.
LOADERS = {
    "gymnasium.envs.registration:make": {"id": "smuggled:Any-v0"},
    "gymnasium.envs.registration:load_env_creator": {"name": "smuggled:env"},
    "hpcmarl.envs.games.starcraft:_import": {"module": "smuggled", "package": "smac"},
}


@pytest.mark.parametrize("id", LOADERS)
def test_loader_in_a_package_of_environments_is_refused(id: str, single: Path, run: Any) -> None:
    smuggle(single, lambda text: rename(text, id, **LOADERS[id]))
    code, _, error = run(*EVAL)
    assert code == 2, error
    assert f"--trust {id}" in error
    assert not Path("ran").exists()


def test_other_arguments_than_the_runs_own_are_refused(single: Path, run: Any) -> None:
    id = "gymnasium.envs.registration:make"
    smuggle(single, lambda text: rename(text, id, id="CartPole-v1"), everywhere=True)
    smuggle(single, lambda text: rename(text, id, id="smuggled:Any-v0"))
    code, _, error = run(*EVAL)
    assert code == 2
    assert f"gives the environment {id} other arguments than the run's config.yaml" in error
    assert not Path("ran").exists()


def test_trusted_environment_is_imported(single: Path, run: Any) -> None:
    smuggle(single, smuggled)
    run(*EVAL, "--trust", "smuggled:env")
    assert Path("ran").exists()


def test_own_environment_of_the_run_is_imported_and_named(single: Path, run: Any) -> None:
    code, out, error = run(*EVAL, "--json")
    assert code == 0, error
    assert "environment tests.support.environments:Echo: " in error
    assert "environments.py" not in out


def test_earlier_configuration_of_the_run_vouches_too(single: Path, run: Any) -> None:
    own = (single / "config.yaml").read_text()
    (single / "starts").mkdir(exist_ok=True)
    (single / "starts" / "start-0001.yaml").write_text(own)
    (single / "config.yaml").write_text(smuggled(own))
    code, _, error = run(*EVAL)
    assert code == 0, error
    assert not Path("ran").exists()


@pytest.mark.parametrize("id", ["pygments.lexers:load_lexer_from_file", "os:system"])
def test_package_without_environments_is_always_refused(id: str, single: Path, run: Any) -> None:
    smuggle(single, lambda text: rename(text, id), everywhere=True)
    code, _, error = run(*EVAL)
    assert code == 2
    assert f"env.id {id} is not an environment: the package {id.partition('.')[0].partition(':')[0]}" in error


def test_names_from_files_do_not_steer_the_terminal(single: Path, run: Any) -> None:
    smuggle(single, lambda text: rename(text, "openspiel:\x1b[2J"))
    _, _, error = run(*EVAL)
    assert "openspiel:\\x1b[2J" in error
    assert "\x1b" not in error


def test_resuming_with_a_smuggled_environment_is_refused(single: Path) -> None:
    smuggle(single, smuggled)
    with pytest.raises(ConfigError, match="is of another environment"):
        run_world(1, single, "stop.updates=9", text=ECHO, resume=str(single))
    assert not Path("ran").exists()


def name_class(text: str) -> str:
    config = yaml.safe_load(text)
    config["optimizer"] = {"name": "smuggled:Sign", "step_size": 0.1}
    return yaml.safe_dump(config, sort_keys=False)


@pytest.mark.parametrize("command", [EVAL, ["league", "show", "run"]], ids=["single", "league"])
def test_smuggled_class_is_not_imported(command: list[str], request: Any, run: Any) -> None:
    smuggle(request.getfixturevalue("league" if "league" in command else "single"), name_class)
    code, _, error = run(*command)
    assert code == 2, error
    assert "names the class smuggled:Sign, which the run's config.yaml does not name" in error
    assert "--trust smuggled:Sign" in error
    assert not Path("ran").exists()


def test_class_of_the_own_configuration_is_named_and_imported(single: Path, run: Any) -> None:
    Path("smuggled.py").write_text("from tests.support.plugins import Sign")
    smuggle(single, name_class, everywhere=True)
    code, _, error = run(*EVAL)
    assert code == 0, error
    assert "optimizer.name smuggled:Sign: " in error


def test_class_of_config_yaml_alone_is_not_imported(single: Path, run: Any) -> None:
    """The file decides about trust in the checkpoint's environment; it is not a reason to run code."""
    path = single / "config.yaml"
    path.write_text(name_class(path.read_text()))
    (single / "starts").mkdir(exist_ok=True)
    run(*EVAL)
    assert not Path("ran").exists()
