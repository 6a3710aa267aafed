"""Environments that may be imported: those of environment packages and those of the user.

Other code must not run because a file names it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpcmarl import packages
from hpcmarl.config import EnvConfig
from hpcmarl.envs import trust as module
from hpcmarl.envs.resolve import resolve
from hpcmarl.envs.trust import VARIABLE, check_importable, check_offered, holds_environments, origin, trust
from hpcmarl.errors import ConfigError

# Functions that must not run because a configuration names them. They belong to the standard library, to
# hpcmarl, and to installed packages without environments.
CODE = [
    "os:system",
    "subprocess:run",
    "hpcmarl.training:train",
    "hpcmarl.envs.games.starcraft:_import",
    "torch:load",
    "yaml:unsafe_load",
    "numpy:load",
    "pygments.lexers:load_lexer_from_file",
    "typer:launch",
    "pip:main",
    "pytest:main",
    "_pytest.config:main",
]
# Objects of environment packages that are not environments.
LOADERS = [
    "gymnasium.envs.registration:make",
    "gymnasium.envs.registration:load_env_creator",
    "pettingzoo.utils.conversions:parallel_wrapper_fn",
    "shimmy:GymV26CompatibilityV0",
]
ENVIRONMENTS = [
    "mpe2.simple_spread_v3",
    "mpe2.simple_spread_v3:env",
    "gymnasium:CartPole-v1",
    "pettingzoo.classic.connect_four_v3",
    "lbforaging:Foraging-8x8-2p-3f-v3",
    "hpcmarl.envs.games.particles:parallel_env",
    "smax:3m",
    "matrix:rps",
]
Install = Callable[..., None]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove all trust and all cached facts about installed packages."""
    monkeypatch.setenv(VARIABLE, "")
    forget()
    yield
    forget()


def forget() -> None:
    for function in (module.distributions, module.holds_environments, packages._packages, packages.record_of):
        function.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that writes a distribution of one module to a directory of packages."""

    def lay(
        package: str,
        *requirements: str,
        url: dict[str, object] | None = None,
        name: str = "",
        place: Path = tmp_path / "site",
    ) -> None:
        record = place / f"{name or package}-1.0.dist-info"
        record.mkdir(parents=True)
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name or package}",
            "Version: 1.0",
            *(f"Requires-Dist: {text}" for text in requirements),
        ]
        (record / "METADATA").write_text("\n".join(lines) + "\n")
        (record / "RECORD").write_text(f"{package}.py,,\n")
        if url is not None:
            (record / "direct_url.json").write_text(json.dumps(url))
        (place / f"{package}.py").write_text("raise AssertionError('imported')\n")

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return lay


def refused(id: str) -> bool:
    try:
        check_importable(id)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize("id", CODE)
def test_code_that_is_no_environment_is_refused(id: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"env\.id {id} is not an environment: the package .* contains none; .*--trust {id}",
    ):
        check_importable(id)
    with pytest.raises(ConfigError, match="is not an environment"):
        resolve(EnvConfig(id=id))


@pytest.mark.parametrize("id", ENVIRONMENTS)
def test_environments_of_packages_need_nobody_to_vouch(id: str) -> None:
    check_importable(id)
    check_offered(id, "problem")


@pytest.mark.parametrize(
    "id", [*CODE, *LOADERS, "tests.support.environments:Echo", "nowhere:env", "", ":", "a b:c"]
)
def test_what_no_package_offers_is_refused(id: str) -> None:
    with pytest.raises(
        ConfigError,
        match=r"^problem; no package that depends on .*; importing it \(.*\) runs its code: add --trust",
    ):
        check_offered(id, "problem")


def test_local_module_is_importable() -> None:
    check_importable("tests.support.environments:Echo")


def test_only_packages_that_need_the_libraries_count(install: Install) -> None:
    install("plain_package", "numpy")
    install("tested_package", 'gymnasium[atari] ; python_version < "3.99" and extra == "testing"')
    install("direct_package", "PettingZoo>=1.24")
    install("marked_package", 'gymnasium (>=1.0) ; python_version >= "3"')
    assert [refused(f"{name}_package:make") for name in ("plain", "tested", "direct", "marked")] == [
        True,
        True,
        False,
        False,
    ]
    check_offered("direct_package:parallel_env", "problem")
    with pytest.raises(ConfigError, match=r"direct-package 1\.0"):
        check_offered("direct_package:make", "problem")


def test_package_from_a_directory_or_repository_is_ones_own(install: Install, tmp_path: Path) -> None:
    install("of_directory", url={"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    install("of_repository", url={"url": "https://example.org/x.git", "vcs_info": {"vcs": "git"}})
    install("of_lost_directory", url={"url": (tmp_path / "gone").as_uri(), "dir_info": {}})
    install("of_archive", url={"url": "https://example.org/x.whl", "archive_info": {}})
    assert [
        refused(f"of_{name}:make") for name in ("directory", "repository", "lost_directory", "archive")
    ] == [False, False, True, True]


def test_every_owner_of_a_package_must_hold_environments(install: Install) -> None:
    install("shared_name", "gymnasium", name="first")
    assert holds_environments("shared_name")
    forget()
    install("shared_name", "numpy", name="second")
    assert not holds_environments("shared_name")


def test_records_in_the_working_directory_prove_nothing(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("planted", "gymnasium", place=tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.syspath_prepend("")
    assert not holds_environments("planted")
    with pytest.raises(ConfigError, match=r"planted\.py"):
        check_offered("planted:env", "problem")


def test_trusted_environments_pass() -> None:
    trust(["pygments.lexers:load_lexer_from_file", "tests.support.environments:Echo"])
    check_importable("pygments.lexers:load_lexer_from_file")
    check_offered("tests.support.environments:Echo", "problem")
    with pytest.raises(ConfigError):
        check_importable("pygments.lexers:get_lexer_by_name")


def test_nothing_is_imported_to_find_out() -> None:
    before = set(sys.modules)
    assert not holds_environments("rich")
    assert holds_environments("lbforaging")
    assert "mpe2" in origin("mpe2.simple_spread_v3")
    assert "lbforaging" not in set(sys.modules) - before


def test_origin_says_where_code_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert origin("os:system") == "Python's standard library"
    assert origin("nowhere_at_all:env") == "not installed"
    assert origin("smax:3m") == "part of hpcmarl"
    (tmp_path / "own_module.py").touch()
    monkeypatch.chdir(tmp_path)
    assert origin("own_module:make") == str(tmp_path / "own_module.py")


def test_own_module_does_not_read_the_records_of_all_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_module.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        packages.metadata, "packages_distributions", lambda: pytest.fail("a thousand ranks would do so")
    )
    check_importable("own_module:make")
