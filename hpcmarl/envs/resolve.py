"""From `env.id` to an environment: imports the module, finds its factory and builds PettingZoo environments.

The kind of environment follows `env.kind`. Environments of Gymnasium and OpenSpiel are built by
`adapters/gym.py` and `games/openspiel.py`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpcmarl.config import EnvConfig
from hpcmarl.envs.known import KNOWN_ENVIRONMENTS
from hpcmarl.envs.trust import check_importable, entry_point_of
from hpcmarl.errors import ConfigError, EnvironmentFailure, HpcmarlError, MissingPackageError

# prefix of the id -> argument of pip if an import fails; the longest matching prefix is used
PIP_HINTS = {
    "mpe2": "mpe2",
    "pettingzoo": "pettingzoo",
    "pettingzoo.atari": "'pettingzoo[atari]'",
    "pettingzoo.butterfly": "'pettingzoo[butterfly]'",
    "pettingzoo.classic": "'pettingzoo[classic]'",
    "pettingzoo.sisl": "'pettingzoo[sisl]'",
    "pettingzoo.mpe": "mpe2",
}


@dataclass(frozen=True)
class Source:
    """Factory of environments.

    Attributes:
        id: Value of `env.id`.
        kind: parallel or aec.
        build: Function that makes a new environment.
    """

    id: str
    kind: str
    build: Callable[[], Any]


def resolve(config: EnvConfig) -> tuple[Source, Any]:
    """Find the factory of `env.id` and build a first environment, whose type decides the kind.

    Returns:
        The source of further environments, and the first environment.

    Raises:
        MissingPackageError: If a package is not installed.
        ConfigError: If `env.id`, `env.kwargs` or `env.kind` is wrong.
        EnvironmentFailure: If the factory raises.
    """
    factory = _find(config)
    environment = _construct(factory, config)
    kind = _kind_of(environment, config)
    convert = _conversion(environment, kind, config)
    target_kind = {"gymnasium": "parallel"}.get(kind, kind) if config.kind == "auto" else config.kind
    source = Source(config.id, target_kind, lambda: convert(_construct(factory, config)))
    return source, convert(environment)


def _find(config: EnvConfig) -> Callable[..., Any]:
    """Return the factory that `env.id` names: an OpenSpiel game, a Gymnasium id or a function."""
    registered_id = entry_point_of(config.id)
    module_name, _, attribute = (config.id if registered_id is None else registered_id.value).partition(":")
    if module_name == "openspiel":
        from hpcmarl.envs.games.openspiel import factory

        return factory(attribute, config)
    module = _import(module_name, config.id)
    # The import has registered the ids of the package with Gymnasium.
    if module_name == "gymnasium" or (attribute and not attribute.isidentifier()):
        from hpcmarl.envs.adapters.gym import registered

        return registered(attribute, config)
    return _factory(module, attribute, config)


def _import(name: str, id: str) -> Any:
    # pygame prints a greeting on standard output.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    here = os.getcwd()
    if here not in sys.path:
        # The user's own module may lie in the working directory.
        # In the last position it hides no installed package.
        sys.path.append(here)
    if not all(part.isidentifier() for part in name.split(".")):
        meant = near_ids(id) or ([f"gymnasium:{id}"] if re.fullmatch(r"[\w/]+-v\d+", id) else [])
        hint = f"did you mean {' or '.join(meant)}? " if meant else ""
        raise ConfigError(
            f"env.id {id!r} is not an import path; {hint}allowed: a PettingZoo module "
            "(mpe2.simple_spread_v3), package.module:factory, gymnasium:ID, or openspiel:GAME"
        )
    check_importable(id)
    try:
        with warnings.catch_warnings():
            # PettingZoo warns about its own registry.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(missing + "."):
            raise MissingPackageError(
                f"env.id {id} needs the package {missing}, which is not installed; {_hint(name, missing)}"
            ) from error
        raise _not_found(name, missing, id) from error
    except ImportError as error:
        raise MissingPackageError(
            f"env.id {id} cannot be imported: {_line(error)}; {_hint(name, name.split('.')[0])}"
        ) from error


def _not_found(name: str, missing: str, id: str) -> Exception:
    """Return the error for a module that does not exist, in a missing or in an installed package."""
    parent, _, last = missing.rpartition(".")
    if not parent:
        if near := near_ids(id):
            return ConfigError(
                f"env.id {id}: no module {missing}; did you mean {' or '.join(near)}? For a module of your "
                f"own start hpcmarl in the directory of {missing}.py"
            )
        return MissingPackageError(
            f"env.id {id}: the module {missing} is not installed; {_hint(name, missing)}"
        )
    package = sys.modules.get(parent)
    modules = [module.name for module in pkgutil.iter_modules(getattr(package, "__path__", []))]
    close = difflib.get_close_matches(last, modules, n=1, cutoff=0.5)
    meant = f"did you mean {parent}.{close[0]}?" if close else f"it has {', '.join(modules) or 'no modules'}"
    return ConfigError(f"env.id {id}: {parent} has no module {last}; {meant}")


def _hint(name: str, missing: str) -> str:
    """Return how to get a missing package.

    Only known packages are named for pip. Anyone can publish a package under a name that a user mistypes.

    Args:
        name: Module that `env.id` names.
        missing: Module that is missing.
    """
    known = [prefix for prefix in PIP_HINTS if name == prefix or name.startswith(prefix + ".")]
    if known:
        return f"pip install {PIP_HINTS[max(known, key=len)]}"
    packages = {known.package for known in KNOWN_ENVIRONMENTS if missing.split(".")[0] in known.modules}
    if packages:
        return f"pip install '{min(packages, key=len)}'"
    return (
        f"install the package that has {missing}, or start hpcmarl in the directory of {missing}.py; hpcmarl "
        "list envs shows known environments"
    )


def near_ids(id: str) -> list[str]:
    """Return the known ids that a wrong id probably means, at most three, the best first.

    Args:
        id: Value of `env.id`, such as simple_spread, CartPole-v1 or 3m.
    """
    ids = [known.id for known in KNOWN_ENVIRONMENTS]
    word = id.replace(":", ".").split(".")[-1].lower()
    leaf_of = {known: known.replace(":", ".").split(".")[-1].lower() for known in ids}
    same = [
        known for known, leaf in leaf_of.items() if leaf == word or re.sub(r"[_-]v\d+$", "", leaf) == word
    ]
    if same:
        return same[:3]
    near = difflib.get_close_matches(word, list(leaf_of.values()), n=1, cutoff=0.8)
    return [known for known, leaf in leaf_of.items() if leaf in near][:3]


def _factory(module: Any, attribute: str, config: EnvConfig) -> Callable[..., Any]:
    """Return the named factory; without a name, `parallel_env` or `env` in the order of `env.kind`."""
    public = sorted(
        name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
    )
    if attribute:
        factory = getattr(module, attribute, None)
        if not callable(factory):
            raise ConfigError(
                f"env.id {config.id}: {module.__name__} has no factory {attribute}; it has "
                f"{', '.join(public) or 'none'}"
            )
        return factory  # type: ignore[no-any-return]
    names = {
        "auto": ("parallel_env", "env"),
        "parallel": ("parallel_env", "env"),
        "aec": ("env", "parallel_env"),
    }[config.kind]
    for name in names:
        factory = getattr(module, name, None)
        if callable(factory):
            return factory  # type: ignore[no-any-return]
    raise ConfigError(
        f"env.id {config.id}: the module has neither parallel_env nor env; name a factory as "
        f"{config.id}:NAME; it has {', '.join(public) or 'none'}"
    )


def _construct(factory: Callable[..., Any], config: EnvConfig) -> Any:
    given = f"env.kwargs {config.kwargs}"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            return factory(**config.kwargs)
    # hpcmarl's own adapters and games raise messages that need no addition.
    except HpcmarlError:
        raise
    except TypeError as error:
        raise ConfigError(f"{given} does not fit {config.id}: {_line(error)}") from error
    except ImportError as error:
        missing = getattr(error, "name", None) or "a package"
        raise MissingPackageError(
            f"env.id {config.id} needs {missing}: {_line(error)}; "
            f"{_hint(config.id.partition(':')[0], missing)}"
        ) from error
    except Exception as error:
        raise EnvironmentFailure(
            f"environment {config.id} could not be built with {given}: {type(error).__name__}: {_line(error)}"
        ) from error


def _kind_of(environment: Any, config: EnvConfig) -> str:
    """Return the kind of an environment: parallel, aec or gymnasium.

    The type decides, or attributes that only one kind has. Some environments do not show all attributes
    before a reset.
    """
    from pettingzoo.utils.env import AECEnv, ParallelEnv

    from hpcmarl.envs.adapters.gym import is_gymnasium

    if isinstance(environment, ParallelEnv):
        return "parallel"
    if isinstance(environment, AECEnv) or _has(environment, "agent_selection"):
        return "aec"
    if all(_has(environment, name) for name in ("reset", "step", "action_space", "observation_space")) and (
        _has(environment, "possible_agents") or _has(environment, "agents")
    ):
        return "parallel"
    if is_gymnasium(environment):
        return "gymnasium"
    cls = type(environment)
    raise ConfigError(
        f"env.id {config.id} makes a {cls.__module__}.{cls.__qualname__}; allowed: a PettingZoo ParallelEnv "
        "or AECEnv, or a Gymnasium Env"
    )


def _has(thing: Any, name: str) -> bool:
    return getattr(thing, name, None) is not None


def _conversion(environment: Any, kind: str, config: EnvConfig) -> Callable[[Any], Any]:
    """Return the function that converts a built environment to the kind that `env.kind` requires."""
    from pettingzoo.utils import aec_to_parallel, parallel_to_aec

    from hpcmarl.envs.adapters.gym import GymnasiumAgents

    if kind == "gymnasium":
        if config.kind == "aec":
            raise ConfigError(f"env.kind aec: {config.id} is not turn-based; use parallel or auto")
        return GymnasiumAgents
    if config.kind in ("auto", kind):
        return lambda built: built
    if config.kind == "aec":
        return lambda built: parallel_to_aec(built)
    if not environment.metadata.get("is_parallelizable", False):
        raise ConfigError(
            f"env.kind parallel: {config.id} is turn-based and its metadata is_parallelizable is not true; "
            "use aec or auto"
        )
    return lambda built: aec_to_parallel(built)


def _line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())
