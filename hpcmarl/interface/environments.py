"""Environments by the names that configurations use."""

from __future__ import annotations

from typing import Any, Literal

from hpcmarl.config import EnvConfig
from hpcmarl.envs import BATCHED_ONLY
from hpcmarl.errors import ConfigError


def make_env(id: str, *, kind: Literal["auto", "parallel", "aec"] = "auto", **kwargs: Any) -> Any:
    """Make a PettingZoo environment by its `env.id`.

    Args:
        id: Value of env.id, as "mpe2.simple_spread_v3", "package.module:factory", "gymnasium:Hopper-v5".
        kind: Interface of the environment; "auto": its own.
        **kwargs: Arguments of its factory (env.kwargs).

    Returns:
        A PettingZoo ParallelEnv or AECEnv.

    Raises:
        MissingPackageError: If a package that it needs is not installed.
        ConfigError: If the id or an argument is wrong, or the environment exists in a batched form only.
        EnvironmentFailure: If its factory raises.
    """
    from hpcmarl.envs.resolve import resolve

    if id.partition(":")[0] in BATCHED_ONLY:
        raise ConfigError(
            f"env.id {id}: exists in a batched form only, without a PettingZoo environment; allowed: "
            "mpe2.simple_spread_v3, package.module:factory, gymnasium:ID and openspiel:GAME"
        )
    return resolve(EnvConfig(id=id, kind=kind, kwargs=kwargs))[1]
