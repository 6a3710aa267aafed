"""Classes outside hpcmarl that a configuration names: how they are found, checked and listed.

A name is `package.module:Class`, or the name of an entry point that an installed package registers in the
group `hpcmarl.KIND`. Names of hpcmarl's own parts never come here: they need no entry points and import no
foreign code. Every rank resolves a name anew.

An entry point is trusted, because somebody has installed its package for hpcmarl. A class that a checkpoint
names is imported only if the run's own config.yaml names it as well, or after `--trust`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from typing import Any

from hpcmarl.errors import ConfigError, HpcmarlError, MissingPackageError
from hpcmarl.packages import distributions, is_local, requirements
from hpcmarl.threads import set_thread_environment

# Names that --trust gave, separated by blanks. Ranks and respawned ranks inherit the variable.
VARIABLE = "HPCMARL_TRUST"
PAGE = "docs/extending.md"
OWN = "hpcmarl"


@dataclass(frozen=True)
class Kind:
    """A part of hpcmarl that may come from outside.

    Attributes:
        key: Key of the configuration that names it.
        base: Class that it must be derived from, as module:Class; empty: any callable is allowed.
        config: Class that its configuration class must be derived from; empty: it has none.
        path: Attribute of the class that names a further class as module:Class; empty: there is none.
    """

    key: str
    base: str = ""
    config: str = ""
    path: str = ""


KINDS = {
    "algorithms": Kind(
        "algo.name",
        "hpcmarl.algos.external:ExternalAlgorithm",
        "hpcmarl.config.algo_base:AlgoConfig",
        path="learner",
    ),
    "rules": Kind("rounds.rule", "hpcmarl.optim.rounds.base:RoundRule", "hpcmarl.config.rounds:RuleConfig"),
    "optimizers": Kind(
        "optimizer.name", "hpcmarl.optim.base:Optimizer", "hpcmarl.config.rounds:OptimizerConfig"
    ),
    "matchmakers": Kind(
        "league.matchmaking.name",
        "hpcmarl.league.core.matchmaking:Matchmaker",
        "hpcmarl.config.league:MatchmakerConfig",
    ),
    "trackers": Kind("logging.trackers", "hpcmarl.tracking.base:Tracker", "hpcmarl.config.run:TrackerConfig"),
    "callbacks": Kind("callbacks", "hpcmarl.callbacks:Callback", "hpcmarl.config.run:CallbackConfig"),
    "environments": Kind("env.id"),
    "modules": Kind("algo.network.module"),
}


@dataclass(frozen=True)
class Installed:
    """An entry point of an installed package.

    Attributes:
        name: Name for the configuration.
        value: What it stands for, as module:Class.
        package: Package and version.
    """

    name: str
    value: str
    package: str


@dataclass(frozen=True)
class _Stored:
    """Limits on imports while a stored configuration is read."""

    source: str
    known: frozenset[str]


_stored: ContextVar[_Stored | None] = ContextVar("stored", default=None)
_threads: ContextVar[int] = ContextVar("threads", default=1)


# ---- trust


def trust(names: Iterable[str]) -> None:
    """Trust these environments and classes in this process and in its child processes."""
    os.environ[VARIABLE] = " ".join(dict.fromkeys([*trusted(), *names]))


def trusted() -> list[str]:
    """Return the names that `trust` received in this process or in a parent process."""
    return os.environ.get(VARIABLE, "").split()


@contextlib.contextmanager
def only_known(source: str, known: Collection[str]) -> Iterator[None]:
    """Refuse classes that only a stored configuration names, while it is read.

    Args:
        source: The file, for messages.
        known: Names that are allowed besides entry points and those of `trust`.
    """
    token = _stored.set(_Stored(source, frozenset(known)))
    try:
        yield
    finally:
        _stored.reset(token)


@contextlib.contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """Set the number of threads of numerical libraries before a class is imported, which may load them."""
    token = _threads.set(threads)
    try:
        yield
    finally:
        _threads.reset(token)


# ---- entry points


def installed(kind: str) -> list[Installed]:
    """Return the entry points of a kind, sorted by name. Imports none of them.

    Records in the working directory do not count, because other users may have written there.
    """
    found = set()
    here = os.path.realpath(os.getcwd())
    places = [place for place in sys.path if os.path.realpath(place or ".") != here]
    for distribution in metadata.distributions(path=places):
        for point in distribution.entry_points:
            if point.group == f"hpcmarl.{kind}":
                package = f"{distribution.metadata['Name']} {distribution.version}"
                found.add((point.name, point.value, package))
    return [Installed(*each) for each in sorted(found, key=lambda each: (each[0], each[2]))]


@lru_cache
def entry_point(kind: str, name: str) -> Installed | None:
    """Return the entry point of a name; None if there is none.

    Raises:
        ConfigError: Several packages register the name.
    """
    found = [each for each in installed(kind) if each.name == name]
    if len(found) > 1:
        packages, values = (
            " and ".join(getattr(each, part) for each in found) for part in ("package", "value")
        )
        raise ConfigError(
            f"{name} is registered by {len(found)} packages, {packages}; uninstall one of them, or name the "
            f"class: {values.replace(' and ', ' or ')}"
        )
    return found[0] if found else None


# ---- classes


@lru_cache
def _cached(kind: str, name: str) -> Any:
    if ":" in name:
        target = name
        _check_origin(target)
    elif (point := entry_point(kind, name)) is not None:
        target = point.value
    else:
        return None
    return _checked(kind, target)


def _check_origin(target: str) -> None:
    """Refuse a path into an installed package that has nothing to do with hpcmarl, before its import.

    Code of the user is allowed: a module of no installed package, or a package installed from a directory or
    a repository.

    Raises:
        ConfigError: It is refused; the message names the remedy.
    """
    package = target.partition(":")[0].partition(".")[0]
    found = () if package == OWN else distributions(package)
    if not found or any(is_local(name) or OWN in requirements(name) for name in found) or target in trusted():
        return
    raise ConfigError(
        f"{target}: the package {package} ({', '.join(found)}) does not depend on hpcmarl, so it has no part "
        f"for it; use a package that does, or your own module; to import it anyway, add --trust {target}"
    )


def find(kind: str, name: str) -> Any:
    """Return the class that a name of the configuration stands for.

    Args:
        kind: A key of KINDS.
        name: `package.module:Class`, or the name of an entry point.

    Returns:
        The class, which is derived from the kind's base and lacks no method. None: the name is neither a path
        nor an entry point.

    Raises:
        ConfigError: The class does not exist, is not what the kind needs, or may not be imported.
        MissingPackageError: A package is not installed.
    """
    check_stored(name)
    return _cached(kind, name)


def check_stored(name: str) -> None:
    """Refuse a class that only a stored configuration names, while it is read (`only_known`).

    Raises:
        ConfigError: It is refused; the message names the remedy.
    """
    stored = _stored.get()
    if stored is not None and ":" in name and name not in stored.known and name not in trusted():
        raise ConfigError(
            f"{stored.source} names the class {name}, which the run's config.yaml does not name; importing "
            f"it runs its code: add --trust {name} if you trust it"
        )


def need(kind: str, name: str, own: Iterable[str] = ()) -> type[Any]:
    """Return the class as `find` does.

    Args:
        kind: A key of KINDS.
        name: Name of the class.
        own: Names of hpcmarl's own parts, for the message.

    Raises:
        ConfigError: As `find`, and if there is no such class.
    """
    found: type[Any] | None = find(kind, name)
    if found is None:
        raise ConfigError(
            f"{KINDS[kind].key}: {name} is not known; allowed: {', '.join([*own, *others(kind)])}"
        )
    return found


def others(kind: str) -> list[str]:
    """Return the names that a kind allows besides those of hpcmarl, for messages."""
    return ["package.module:Class", *(each.name for each in installed(kind))]


def config_class(kind: str, name: str) -> type[Any] | None:
    """Return the configuration class of a class outside hpcmarl; returns and raises as `find`."""
    found = find(kind, name)
    return None if found is None else _config_of(kind, found)


def load(target: str) -> Any:
    """Return the object that `module:name` stands for, without checks of its kind.

    Raises:
        ConfigError: It does not exist, or its import fails.
        MissingPackageError: A package is not installed.
    """
    module_name, _, attribute = target.partition(":")
    value: Any = import_module(module_name, target)
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise ConfigError(f"{target}: {_no_attribute(module_name, value, part)}")
        value = getattr(value, part)
    return value


def _checked(kind: str, target: str) -> Any:
    """Return the class at `module:Class` after the checks of its kind.

    Kinds without a base may also be functions.
    """
    if not KINDS[kind].base:
        return _callable(target)
    found = derived(target, KINDS[kind].base)
    _config_of(kind, found)
    if attribute := KINDS[kind].path:
        _check_path(f"{_name(found)}.{attribute}", getattr(found, attribute))
    return found


def _callable(target: str) -> Any:
    found: Any = load(target)
    if not callable(found):
        raise ConfigError(
            f"{target} is of type {type(found).__name__}; allowed: a function or class that returns a "
            "torch.nn.Module (docs/networks.md)"
        )
    return found


def _check_path(attribute: str, target: Any) -> None:
    """Check that an attribute names a module that exists, without importing it."""
    module = target.partition(":")[0] if isinstance(target, str) and ":" in target else ""
    try:
        exists = bool(module) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        exists = False
    if not exists:
        raise ConfigError(
            f"{attribute} is {target!r}; allowed: package.module:Class, in a module that exists"
        )


def derived(target: str, base_target: str) -> type[Any]:
    """Return the class at `module:Class`.

    Args:
        target: The class.
        base_target: Class that it must be derived from, also as `module:Class`.

    Raises:
        ConfigError: It does not exist, is not derived from that class, or lacks a method.
        MissingPackageError: A package is not installed.
    """
    found: Any = load(target)
    base: type[Any] = load(base_target)
    if not isinstance(found, type):
        what = "a function" if inspect.isroutine(found) else f"of type {type(found).__name__}"
        raise ConfigError(f"{target} is {what}; allowed: a class derived from {_name(base)} ({PAGE})")
    if not issubclass(found, base):
        raise ConfigError(f"{target} is no {_name(base)}; it must be derived from that class ({PAGE})")
    if abstract := getattr(found, "__abstractmethods__", ()):
        missing = ", ".join(sorted(abstract))
        raise ConfigError(f"{target} lacks {missing}, which {_name(base)} requires; write it ({PAGE})")
    return found


def _config_of(kind: str, found: type[Any]) -> type[Any]:
    base: type[Any] = load(KINDS[kind].config)
    model: Any = getattr(found, "config_class", base)
    if not (isinstance(model, type) and issubclass(model, base)):
        raise ConfigError(
            f"{_name(found)}.config_class is {model!r}; allowed: a class derived from {_name(base)} ({PAGE})"
        )
    chosen: Any = model
    if chosen.model_fields["name"].annotation is not str:
        raise ConfigError(
            f'{_name(model)} restricts name; declare name: str = "" instead, since configurations name the '
            "class by its path or entry point"
        )
    return model


def import_module(name: str, target: str) -> Any:
    """Import a module for `target`; the working directory is searched last.

    Raises:
        ConfigError: The module does not exist, or raises.
        MissingPackageError: A package is not installed.
    """
    if (
        not all(part.isidentifier() for part in name.split("."))
        or name.split(".")[0] in sys.stdlib_module_names
    ):
        raise ConfigError(f"{target} is not the path of a class; write package.module:Class")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    # The module may load numpy, which reads the number of its threads only once.
    if not name.startswith("hpcmarl.") and "numpy" not in sys.modules:
        set_thread_environment(_threads.get(), os.environ)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _not_found(name, error.name or name, target) from error
    except HpcmarlError:
        raise
    except Exception as error:
        raise ConfigError(f"{target}: the import of {name} failed: {said(error)}; correct it") from error


def said(error: BaseException) -> str:
    """Return an exception on one line, with the last line of source that is not hpcmarl's."""
    here = os.path.dirname(__file__) + os.sep
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((here, "<frozen"))
    ]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def _not_found(name: str, missing: str, target: str) -> HpcmarlError:
    if name != missing and not name.startswith(missing + "."):
        return MissingPackageError(
            f"{target} needs the package {missing}, which is not installed; pip install {missing}"
        )
    parent, _, last = missing.rpartition(".")
    if not parent:
        return MissingPackageError(
            f"{target} needs the package {missing}, which is not installed; pip install it, or start hpcmarl "
            f"in the directory of {missing}.py"
        )
    modules = [
        module.name for module in pkgutil.iter_modules(getattr(sys.modules.get(parent), "__path__", []))
    ]
    return ConfigError(f"{target}: {parent} has no module {last}; {_meant(last, modules, parent + '.')}")


def _no_attribute(module: str, value: Any, name: str) -> str:
    own = [
        other
        for other, thing in vars(value).items()
        if isinstance(thing, type) and thing.__module__ == module and not other.startswith("_")
    ]
    return f"{module} has no class {name or '(no name)'}; {_meant(name, own, f'{module}:')}"


def _meant(name: str, names: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {prefix}{near[0]}?" if near else f"it has {', '.join(names) or 'none'}"


def _name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
