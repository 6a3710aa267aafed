"""Checks which environments may be imported: `env.id` names code that runs with the user's rights.

Both checks read the records of installed packages and import nothing:

- `check_importable` applies to every environment. Its code must come from hpcmarl, from a package of
  environments, or from the user. Code of the user is a module outside all installed packages, or a package
  installed from a directory or a repository.
- `check_offered` applies to an environment that only a checkpoint names. A package of environments must offer
  it as one.

`--trust ID` and the variable HPCMARL_TRUST override both.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from hpcmarl.errors import ConfigError
from hpcmarl.plugins import VARIABLE, Installed, entry_point, trust, trusted

__all__ = [
    "VARIABLE",
    "check_importable",
    "check_offered",
    "entry_point_of",
    "is_native",
    "origin",
    "trust",
    "trusted",
]

# A package that depends on one of these libraries holds environments.
LIBRARIES = frozenset({"pettingzoo", "gymnasium"})
OWN = "hpcmarl"
# kinds of environments that hpcmarl makes itself
NATIVE = ("smax", "matrix", "openspiel")
# PettingZoo's names for the factories of a module; "": no name, which selects one of them
OFFERED = (
    "",
    "parallel_env",
    "env",
    "raw_env",
)
# Private functions do not match, because some of them import modules.
_OWN_GAME = re.compile(r"hpcmarl\.envs\.games\.[a-z]\w*(:[A-Za-z]\w*)?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\b")


def entry_point_of(id: str) -> Installed | None:
    """Return the entry point `hpcmarl.environments` of an id; None: the id is a path, or there is none."""
    return entry_point("environments", id) if id.isidentifier() else None


def check_importable(id: str) -> None:
    """Refuse a factory outside packages of environments and the user's own modules.

    Refused are Python's standard library, hpcmarl itself and installed packages without environments.

    Args:
        id: Value of `env.id`.

    Raises:
        ConfigError: If it is refused; the message names the allowed ids.
    """
    package = _package(id)
    if id in trusted() or is_native(id) or holds_environments(package) or entry_point_of(id) is not None:
        return
    found = distributions(package)
    if package in sys.stdlib_module_names or package == OWN:
        reason = f"the package {package} ({origin(id)}) contains none"
    elif found and not any(map(_is_local, found)):
        reason = (
            f"the package {package} ({origin(id)}) depends on neither PettingZoo nor Gymnasium, so it "
            "contains none"
        )
    else:
        return
    raise ConfigError(
        f"env.id {id} is not an environment: {reason}; allowed: a PettingZoo module, package.module:factory "
        "of a package that depends on PettingZoo or Gymnasium, or your own module; to import it despite this "
        f"check, add --trust {id}, or set {VARIABLE}={id} for jobs"
    )


def check_offered(id: str, problem: str) -> None:
    """Refuse an environment that no package of environments offers, because only a file names it.

    Ids registered with Gymnasium are offered, and so are a module's parallel_env, env and raw_env. Other
    functions of such packages may import or load code that their arguments name
    (gymnasium.envs.registration:make).

    Args:
        id: Value of `env.id`.
        problem: Beginning of the message: the file that names the id, and why that is not enough.

    Raises:
        ConfigError: If it is refused; the message names the remedy.
    """
    if id in trusted() or is_native(id) or entry_point_of(id) is not None:
        return
    attribute = id.partition(":")[2]
    if holds_environments(_package(id)) and (attribute in OFFERED or not attribute.isidentifier()):
        return
    raise ConfigError(
        f"{problem}; no package that depends on PettingZoo or Gymnasium registers it, or offers it as "
        f"parallel_env, env or raw_env; importing it ({origin(id)}) runs its code: add --trust {id} if you "
        "trust it"
    )


def origin(id: str) -> str:
    """Describe the origin of an environment's code without importing it."""
    if is_native(id):
        return "part of hpcmarl"
    if (registered := entry_point_of(id)) is not None:
        return registered.package
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
    """Return whether a package holds environments.

    It does if all its distributions are, or require, PettingZoo or Gymnasium. Requirements of extras do not
    count, and hpcmarl is excluded.
    """
    found = distributions(package)
    return bool(found) and all(
        name != OWN and (name in LIBRARIES or LIBRARIES & _requirements(name)) for name in found
    )


@lru_cache
def distributions(package: str) -> tuple[str, ...]:
    """Return the installed distributions that a top-level package belongs to, by their normalised names."""
    if not package.isidentifier():
        return ()
    # Most distributions have the name of their package. Any other search reads the records of all of them.
    namesake = _installed(package)
    if namesake is not None and _owns(namesake, package):
        return (_normalised(package),)
    place = _place(package)
    if place is None or not any(
        name.endswith((".dist-info", ".egg-info")) for name in os.listdir(place.parent)
    ):
        # Nothing is installed there. This saves every rank reading the records of all packages.
        return ()
    candidates = {_normalised(name) for name in _packages().get(package, ())}
    return tuple(sorted(name for name in candidates if (found := _installed(name)) and _owns(found, package)))


def _place(package: str) -> Path | None:
    """Return the directory or file of a top-level package or module without importing it.

    Returns:
        The path; None if it does not exist.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    # A module of the user may lie in the working directory.
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
    """Return the installed distribution of that name.

    A distribution in the working directory does not count, because other users may have written there.
    """
    here = os.path.realpath(os.getcwd())
    places = [place for place in sys.path if os.path.realpath(place or ".") != here]
    return next(iter(metadata.distributions(name=name, path=places)), None)


def _owns(distribution: metadata.Distribution, package: str) -> bool:
    if any(str(file).startswith((f"{package}/", f"{package}.")) for file in distribution.files or ()):
        return True
    return package in (distribution.read_text("top_level.txt") or "").split()


def _requirements(distribution: str) -> frozenset[str]:
    """Return the requirements of a distribution without those of extras.

    Extras cover tests and optional parts, which do not characterise a package.
    """
    found = _installed(distribution)
    texts = [text.partition(";") for text in (found.requires if found is not None else None) or ()]
    return frozenset(
        _normalised(match[0])
        for name, _, marker in texts
        if not _EXTRA.search(marker) and (match := _NAME.match(name))
    )


def _is_local(distribution: str) -> bool:
    """Return whether a distribution was installed from a repository or an existing directory (PEP 610)."""
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
    """Return whether an environment is part of hpcmarl, so that no other code is imported for it."""
    return _OWN_GAME.fullmatch(id) is not None or id.partition(":")[0] in NATIVE


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
