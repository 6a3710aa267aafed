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

import re
import sys
from functools import lru_cache

from hpcmarl.errors import ConfigError
from hpcmarl.packages import distributions, is_local, place_of, record_of, requirements
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
NATIVE = ("smax", "matrix", "pixels", "openspiel")
# PettingZoo's names for the factories of a module; "": no name, which selects one of them
OFFERED = (
    "",
    "parallel_env",
    "env",
    "raw_env",
)
# Private functions do not match, because some of them import modules.
_OWN_GAME = re.compile(r"hpcmarl\.envs\.games\.[a-z]\w*(:[A-Za-z]\w*)?")


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
    elif found and not any(map(is_local, found)):
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
            f"{name} {distribution.version}" for name in found if (distribution := record_of(name))
        )
    if package in sys.stdlib_module_names:
        return "Python's standard library"
    place = place_of(package)
    return "not installed" if place is None else str(place)


@lru_cache
def holds_environments(package: str) -> bool:
    """Return whether a package holds environments.

    It does if all its distributions are, or require, PettingZoo or Gymnasium. Requirements of extras do not
    count, and hpcmarl is excluded.
    """
    found = distributions(package)
    return bool(found) and all(
        name != OWN and (name in LIBRARIES or LIBRARIES & requirements(name)) for name in found
    )


def _package(id: str) -> str:
    return id.partition(":")[0].partition(".")[0]


def is_native(id: str) -> bool:
    """Return whether an environment is part of hpcmarl, so that no other code is imported for it."""
    return _OWN_GAME.fullmatch(id) is not None or id.partition(":")[0] in NATIVE
