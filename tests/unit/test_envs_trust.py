"""Which environments may be imported: packages of environments, the user's own, nothing that a file smuggles in."""

from __future__ import annotations

import sys

import pytest

from hpcmarl.config import EnvConfig
from hpcmarl.envs.resolve import resolve
from hpcmarl.envs.trust import VARIABLE, check_importable, check_origin, holds_environments, origin, trust
from hpcmarl.errors import ConfigError

# what must not run because a configuration names it: the standard library, hpcmarl, and what hpcmarl is made of
CODE = [
    "os:system",
    "subprocess:run",
    "hpcmarl.roles.run:train",
    "torch:load",
    "yaml:unsafe_load",
    "numpy:load",
    "pygments.lexers:load_lexer_from_file",
    "typer:launch",
    "pip:main",
    "pytest:main",
    "_pytest.config:main",
]


@pytest.mark.parametrize("id", CODE)
def test_code_that_is_no_environment_is_refused(id: str) -> None:
    with pytest.raises(ConfigError, match=rf"env\.id {id} is no environment: the package .* holds none; .*--trust {id}"):
        check_importable(id)
    with pytest.raises(ConfigError, match="is no environment"):
        resolve(EnvConfig(id=id))


@pytest.mark.parametrize("id", ["mpe2.simple_spread_v3", "gymnasium:CartPole-v1", "pettingzoo.classic.connect_four_v3", "smax:3m", "matrix:rps"])
def test_environments_of_known_packages_need_nobody_to_vouch(id: str) -> None:
    check_importable(id)
    check_origin([id], [], "file")


def test_local_module_needs_the_runs_own_configuration() -> None:
    id = "tests.support.environments:Echo"
    check_importable(id)
    check_origin([id], [id], "file")
    with pytest.raises(ConfigError, match=rf"file names the environment {id} \(.*tests.*\), which is neither .* say --trust {id}"):
        check_origin([id], ["mpe2.simple_spread_v3"], "file")


def test_trusted_environments_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    trust(["pygments.lexers:load_lexer_from_file", "tests.support.environments:Echo"])
    check_importable("pygments.lexers:load_lexer_from_file")
    check_origin(["tests.support.environments:Echo"], [], "file")
    with pytest.raises(ConfigError):
        check_importable("pygments.lexers:get_lexer_by_name")


def test_nothing_is_imported_to_find_out() -> None:
    before = set(sys.modules)
    assert not holds_environments("rich")
    assert holds_environments("lbforaging")
    assert "mpe2" in origin("mpe2.simple_spread_v3")
    assert "lbforaging" not in set(sys.modules) - before


def test_origin_says_where_code_comes_from() -> None:
    assert origin("os:system") == "Python's standard library"
    assert origin("nowhere_at_all:env") == "not installed"
    assert origin("smax:3m") == "part of hpcmarl"
