"""Which environments may be imported: `env.id` names code that runs with the user's rights.

A configuration that the user wrote is his word. One that a checkpoint carries is somebody's: its environment must be that of the
run's own config.yaml, or come from a package of environments. Nothing is imported to find out. `--trust ID` overrules.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata

from hpcmarl.errors import ConfigError

VARIABLE = "HPCMARL_TRUST"  # ids that --trust has named, separated by blanks; ranks and their replacements inherit it
LIBRARIES = frozenset({"pettingzoo", "gymnasium"})  # what depends on these holds environments
OWN = "hpcmarl"
OWN_GAMES = "hpcmarl.envs.games."  # the environments that hpcmarl brings along
NATIVE = ("smax", "matrix", "openspiel")  # kinds of environments that hpcmarl makes itself
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def trust(ids: Iterable[str]) -> None:
    """Trust these environments in this process and in those that it starts."""
    os.environ[VARIABLE] = " ".join(dict.fromkeys([*trusted(), *ids]))


def check_importable(id: str) -> None:
    """Refuse an environment in Python's standard library, hpcmarl itself or what hpcmarl is made of, since none holds environments.

    Raises:
        ConfigError: one line with what is allowed.
    """
    package = _package(id)
    if id in trusted() or _is_native(id) or holds_environments(package):
        return
    if package in sys.stdlib_module_names or package == OWN or set(distributions(package)) & _parts():
        raise ConfigError(
            f"env.id {id} is no environment: the package {package} holds none; allowed: a PettingZoo module, or package.module:factory "
            f"(--trust {id} imports it all the same)"
        )


def check_origin(ids: Iterable[str], own: Iterable[str], source: str) -> None:
    """Refuse environments that a file names and nobody vouches for.

    Args:
        ids: environments of the configuration in the file.
        own: environments of the run's own config.yaml.
        source: the file.

    Raises:
        ConfigError: one line that names the file, the environment and the remedy.
    """
    vouched = {*own, *trusted()}
    for id in ids:
        if id in vouched or _is_native(id) or holds_environments(_package(id)):
            continue
        raise ConfigError(
            f"{source} names the environment {id} ({origin(id)}), which is neither that of the run's config.yaml nor in a package that depends on "
            f"PettingZoo or Gymnasium; importing it runs its code: say --trust {id} if you know it"
        )


def origin(id: str) -> str:
    """Say where an environment's code comes from, without importing it."""
    if _is_native(id):
        return "part of hpcmarl"
    package = _package(id)
    if found := distributions(package):
        return ", ".join(f"{name} {metadata.version(name)}" for name in found)
    if package in sys.stdlib_module_names:
        return "Python's standard library"
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    place = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
    return place or "not installed"


def holds_environments(package: str) -> bool:
    """Whether a package is PettingZoo, Gymnasium or of a distribution that depends on one of them; hpcmarl's own count apart."""
    return any(name in LIBRARIES or LIBRARIES & _requirements(name) for name in distributions(package) if name != OWN)


@lru_cache
def distributions(package: str) -> tuple[str, ...]:
    """Return the installed distributions that a top-level package belongs to, by their normalised names."""
    if not package.isidentifier():
        return ()
    try:  # mostly they have the same name, and finding out otherwise reads the records of all
        own = metadata.distribution(package)
        if any(str(file).startswith((f"{package}/", f"{package}.")) for file in own.files or ()):
            return (_normalised(own.metadata["Name"]),)
    except metadata.PackageNotFoundError:
        pass
    return tuple(sorted({_normalised(name) for name in _packages().get(package, ())}))


@lru_cache
def _packages() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


@lru_cache
def _requirements(distribution: str) -> frozenset[str]:
    """What a distribution depends on directly, extras included."""
    try:
        requires = metadata.requires(distribution) or ()
    except metadata.PackageNotFoundError:
        return frozenset()
    return frozenset(_normalised(match[0]) for text in requires if (match := _NAME.match(text)))


@lru_cache
def _parts() -> frozenset[str]:
    """What hpcmarl is made of: its distribution, and all that this depends on, directly or not."""
    found, waiting = set[str](), [OWN]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _requirements(name)
    return frozenset(found)


def _package(id: str) -> str:
    return id.partition(":")[0].partition(".")[0]


def _is_native(id: str) -> bool:
    return id.startswith(OWN_GAMES) or id.partition(":")[0] in NATIVE


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def trusted() -> list[str]:
    """Return what `trust` was given in this process, or in the one that started it."""
    return os.environ.get(VARIABLE, "").split()
