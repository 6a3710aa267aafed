"""From `env.id: smax:3m` to the rules of a map: loads JaxMARL for one rank, and checks the arguments."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from hpcmarl.config import EnvConfig
from hpcmarl.errors import ConfigError, MissingPackageError

GAMES = "hpcmarl.envs.smax.games"
# Variables that JAX reads on import: no accelerator, and no threads on the cores of other ranks.
SETTINGS = {"JAX_PLATFORMS": "cpu", "PJRT_NPROC": "1", "NPROC": "1"}
ATTACK_MODES = ("closest", "random")
# arguments that the name of the map determines
FROM_MAP = ("scenario", "num_allies", "num_enemies")


def load(id: str) -> ModuleType:
    """Import games.py with JAX on one core and return it.

    Args:
        id: Value of `env.id`, for messages.

    Raises:
        MissingPackageError: If JaxMARL is not installed or cannot be imported.
    """
    if GAMES in sys.modules:
        return sys.modules[GAMES]
    spec = importlib.util.find_spec("jaxmarl")
    if spec is None or importlib.util.find_spec("jax") is None:
        raise MissingPackageError(
            f"env.id {id} needs the package jaxmarl, which is not installed; pip install 'hpcmarl[smax]'"
        )
    if "jax" not in sys.modules:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
    with _without_other_environments(list(spec.submodule_search_locations or [])):
        try:
            return importlib.import_module(GAMES)
        except ImportError as error:
            reason = " ".join(str(error).split())
            raise MissingPackageError(
                f"env.id {id}: JaxMARL cannot be imported: {reason}; pip install 'hpcmarl[smax]'"
            ) from error


@contextlib.contextmanager
def _without_other_environments(places: Sequence[str]) -> Iterator[None]:
    """Import only SMAX from JaxMARL.

    JaxMARL's own __init__ files load all its environments and print. Loading them costs every rank four
    seconds and 400 MB. After the block, `import jaxmarl` works as usual.
    """
    bare = {
        "jaxmarl": places,
        "jaxmarl.environments": [os.path.join(place, "environments") for place in places],
    }
    bare = {name: path for name, path in bare.items() if name not in sys.modules}
    for name, path in bare.items():
        module: Any = ModuleType(name)
        module.__path__ = path
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in bare:
            del sys.modules[name]


def find_map(config: EnvConfig) -> Any:
    """Return the rules of the map.

    Args:
        config: The environment.

    Raises:
        MissingPackageError: If JaxMARL is not installed.
        ConfigError: If the map is unknown or an argument does not fit.
    """
    module = load(config.id)
    name = config.id.partition(":")[2]
    if name not in (names := module.map_names()):
        raise ConfigError(
            f"env.id {config.id}: SMAX has no map {name or '(no name)'}; allowed: "
            f"{', '.join(f'smax:{known}' for known in names)}"
        )
    if config.kind == "aec":
        raise ConfigError(f"env.kind aec: {config.id} is not turn-based; use parallel or auto")
    for key in FROM_MAP:
        if key in config.kwargs:
            raise ConfigError(
                f"env.kwargs.{key}: {config.kwargs[key]} contradicts env.id {config.id}, which "
                "determines it; remove the key"
            )
    if (mode := config.kwargs.get("attack_mode", ATTACK_MODES[0])) not in ATTACK_MODES:
        raise ConfigError(
            f"env.kwargs.attack_mode: {mode!r} is unknown to {config.id}; allowed: {', '.join(ATTACK_MODES)}"
        )
    try:
        return _game(name, json.dumps(config.kwargs, sort_keys=True))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"env.kwargs {config.kwargs} does not fit {config.id}: {' '.join(str(error).split())}"
        ) from error


@functools.lru_cache(maxsize=16)
def _game(name: str, options: str) -> Any:
    return sys.modules[GAMES].Game(name, json.loads(options))
