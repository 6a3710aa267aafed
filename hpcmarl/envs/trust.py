"""Which environments may be imported: `env.id` names code that runs with the user's rights.

Two questions, both answered from the records of installed packages, without importing anything:

- `check_importable`, asked of every environment: it comes from hpcmarl, from a package of environments, or
    from the user himself
  (a module of no package, or a package that was installed from a directory or a repository).
- `check_offered`, asked of an environment that only a checkpoint names: a package of environments offers it
    as one.

`--trust ID` and the variable HPCMARL_TRUST overrule both.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from hpcmarl.errors import ConfigError

# ids that --trust has named, separated by blanks; ranks and their replacements inherit it
VARIABLE = "HPCMARL_TRUST"
LIBRARIES = frozenset({"pettingzoo", "gymnasium"})  # what depends on these holds environments
OWN = "hpcmarl"
NATIVE = ("smax", "matrix", "openspiel")  # kinds of environments that hpcmarl makes itself
# PettingZoo's names for the factories of a module; "": the first of them
OFFERED = (
    "",
    "parallel_env",
    "env",
    "raw_env",
)
# no private function: some of them import
_OWN_GAME = re.compile(r"hpcmarl\.envs\.games\.[a-z]\w*(:[A-Za-z]\w*)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\b")


def trust(ids: Iterable[str]) -> None:
    """Trust these environments in this process and in those that it starts."""
    os.environ[VARIABLE] = " ".join(dict.fromkeys([*trusted(), *ids]))


def trusted() -> list[str]:
    """Return what `trust` was given in this process, or in the one that started it."""
    return os.environ.get(VARIABLE, "").split()


def check_importable(id: str) -> None:
    """Refuse a factory in Python's standard library, in hpcmarl itself or in an installed package that holds
    no environments.

    Args:
        id: `env.id`.

    Raises:
        ConfigError: one line with what is allowed.
    """
    package = _package(id)
    if id in trusted() or is_native(id) or holds_environments(package):
        return
    found = distributions(package)
    if package in sys.stdlib_module_names or package == OWN:
        reason = f"the package {package} ({origin(id)}) holds none"
    elif found and not any(map(_is_local, found)):
        reason = (
            f"the package {package} ({origin(id)}) depends on neither PettingZoo nor Gymnasium, so it "
            "holds none"
        )
    else:
        return
    raise ConfigError(
        f"env.id {id} is no environment: {reason}; allowed: a PettingZoo module, package.module:factory of a "
        f"package that depends on one of them, or a module of your own (--trust {id}, or {VARIABLE}={id} for "
        "jobs, imports it all the same)"
    )


def check_offered(id: str, problem: str) -> None:
    """Refuse an environment that no package of environments offers: nobody but a file has named it.

    An id that is registered with Gymnasium is offered, and so are a module's parallel_env, env and raw_env.
    Other functions of such packages may import or load what their arguments say
    (gymnasium.envs.registration:make).

    Args:
        id: `env.id`.
        problem: who names it and why that does not suffice; the message begins with it.

    Raises:
        ConfigError: one line that names the remedy.
    """
    if id in trusted() or is_native(id):
        return
    attribute = id.partition(":")[2]
    if holds_environments(_package(id)) and (attribute in OFFERED or not attribute.isidentifier()):
        return
    raise ConfigError(
        f"{problem}; no package that depends on PettingZoo or Gymnasium registers it, or offers it as "
        f"parallel_env, env or raw_env; importing it ({origin(id)}) runs its code: say --trust {id} if you "
        "know it"
    )


def origin(id: str) -> str:
    """Say where an environment's code comes from, without importing it."""
    if is_native(id):
        return "part of hpcmarl"
    package = _package(id)
    if found := distributions(package):
        return ", ".join(
            f"{name} {distribution.version}" for name in found if (distribution := _installed(name))
        )
    if package in sys.stdlib_module_names:
        return "Python's standard library"
    place = _place(package)
    return "not installed" if place is None else str(place)


@lru_cache
def holds_environments(package: str) -> bool:
    """Whether a package is PettingZoo, Gymnasium or of distributions that need one of them, not for an extra
    only. hpcmarl's own count apart."""
    found = distributions(package)
    return bool(found) and all(
        name != OWN and (name in LIBRARIES or LIBRARIES & _requirements(name)) for name in found
    )


@lru_cache
def distributions(package: str) -> tuple[str, ...]:
    """Return the installed distributions that a top-level package belongs to, by their normalised names."""
    if not package.isidentifier():
        return ()
    # mostly they have the same name, and finding out otherwise reads the records of all
    namesake = _installed(package)
    if namesake is not None and _owns(namesake, package):
        return (_normalised(package),)
    place = _place(package)
    if place is None or not any(
        name.endswith((".dist-info", ".egg-info")) for name in os.listdir(place.parent)
    ):
        # nothing is installed there, so that the records of all packages need not be read, by every rank
        return ()
    candidates = {_normalised(name) for name in _packages().get(package, ())}
    return tuple(sorted(name for name in candidates if (found := _installed(name)) and _owns(found, package)))


def _place(package: str) -> Path | None:
    """Where a top-level package or module lies: its directory or file; None where there is none. Finding it
    imports nothing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    # where a user's own module is found
    spec = spec or importlib.machinery.PathFinder.find_spec(package, [os.getcwd()])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.has_location and spec.origin else None


@lru_cache
def _packages() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


@lru_cache
def _installed(name: str) -> metadata.Distribution | None:
    """The installed distribution of that name. One that lies in the working directory does not count: others
    may have written there."""
    here = os.path.realpath(os.getcwd())
    places = [place for place in sys.path if os.path.realpath(place or ".") != here]
    return next(iter(metadata.distributions(name=name, path=places)), None)


def _owns(distribution: metadata.Distribution, package: str) -> bool:
    if any(str(file).startswith((f"{package}/", f"{package}.")) for file in distribution.files or ()):
        return True
    return package in (distribution.read_text("top_level.txt") or "").split()


def _requirements(distribution: str) -> frozenset[str]:
    """What a distribution needs itself, extras left out: those of tests and of optional parts say nothing
    about it."""
    found = _installed(distribution)
    texts = [text.partition(";") for text in (found.requires if found is not None else None) or ()]
    return frozenset(
        _normalised(match[0])
        for name, _, marker in texts
        if not _EXTRA.search(marker) and (match := _NAME.match(name))
    )


def _is_local(distribution: str) -> bool:
    """Whether the user has installed a distribution from a directory, which is still there, or from a
    repository (PEP 610)."""
    found = _installed(distribution)
    text = None if found is None else found.read_text("direct_url.json")
    try:
        facts = json.loads(text or "{}")
        return "vcs_info" in facts or (
            "dir_info" in facts and Path(unquote(urlparse(facts["url"]).path)).is_dir()
        )
    except (ValueError, KeyError, TypeError, OSError):
        return False


def _package(id: str) -> str:
    return id.partition(":")[0].partition(".")[0]


def is_native(id: str) -> bool:
    """Whether an environment is part of hpcmarl, so that nothing else is imported for it."""
    return _OWN_GAME.fullmatch(id) is not None or id.partition(":")[0] in NATIVE


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
