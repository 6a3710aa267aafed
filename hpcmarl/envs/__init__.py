"""Environments: one interface to PettingZoo, Gymnasium and natively batched environments.

This module is the public face of the package. It covers the parallel and the turn-based interface of
PettingZoo.

To add a kind of environment, write one file with a `slot.SlotAdapter` and add one line to KINDS. To add an
environment that steps all slots in one call, write one file and add one line to BATCHED. The file has
`takes()`, `describe()`, `make()`, `prepare()` and `bare()`.

PettingZoo, Gymnasium and JAX are imported when an environment is made, not when this package is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import BatchedEnvironment, Seeds, episode_seed, image_remark, new_frame, new_outcome
from hpcmarl.envs.known import KNOWN_ENVIRONMENTS, KnownEnvironment, has_fixed_length
from hpcmarl.errors import ConfigError
from hpcmarl.types import EnvironmentSpec

__all__ = [
    "BATCHED",
    "BATCHED_ONLY",
    "KINDS",
    "KNOWN_ENVIRONMENTS",
    "BatchedEnvironment",
    "KnownEnvironment",
    "Seeds",
    "batching_remark",
    "describe",
    "episode_seed",
    "has_batched_form",
    "has_fixed_length",
    "image_remark",
    "is_batched",
    "make_environment",
    "new_frame",
    "new_outcome",
    "prepare_environment",
]

# kind -> class that drives one environment of that kind, as module:name
KINDS: dict[str, str] = {
    "parallel": "hpcmarl.envs.adapters.parallel:ParallelSlot",
    "aec": "hpcmarl.envs.adapters.aec:TurnSlot",
}
# env.id, or its part before the colon (smax:3m) or before the first dot (mpe2.simple_v3)
# -> modules of natively batched environments. The first one that accepts the configuration (takes()) is used.
# If none accepts it, each slot drives an environment separately.
BATCHED: dict[str, tuple[str, ...]] = {
    "mpe2": ("hpcmarl.envs.particles",),
    "hpcmarl.envs.games.particles": ("hpcmarl.envs.particles",),
    "pettingzoo.classic.connect_four_v3": ("hpcmarl.envs.native.boards",),
    "pettingzoo.classic.tictactoe_v3": ("hpcmarl.envs.native.boards",),
    "smax": ("hpcmarl.envs.smax.env",),
    "matrix": ("hpcmarl.envs.native.matrix",),
    "pixels": ("hpcmarl.envs.native.pixels",),
    "openspiel": ("hpcmarl.envs.native.boards", "hpcmarl.envs.native.game_tree"),
}
BATCHED_ONLY = ("smax", "matrix", "pixels")


def batched_module(config: EnvConfig) -> Any:
    """Return the module of the natively batched environment for a configuration.

    Args:
        config: The environment; `env.id` names it and `env.batched` allows or requires a batched form.

    Returns:
        The module, or None if the slots are driven one by one.

    Raises:
        MissingPackageError: If a package that the environment needs is not installed.
        ConfigError: If the configuration is wrong, or `env.batched` requires a form that does not exist.
        EnvironmentFailure: If `env.batched` is true, no batched form exists and the factory raises.
    """
    if config.batched is False:
        if config.id.partition(":")[0] in BATCHED_ONLY:
            raise ConfigError(
                f"env.batched is false, but {config.id} has only a batched form; allowed: auto, true"
            )
        return None
    found = next(
        (module for module in map(importlib.import_module, _modules(config.id)) if module.takes(config)), None
    )
    if found is None and config.batched is True:
        from hpcmarl.envs.resolve import resolve

        # If the package refuses the arguments as well, resolve() raises the more precise error.
        resolve(config)[1].close()
        raise ConfigError(
            f"env.batched is true, but {config.id} has no batched form with {_given(config)}; "
            "allowed: auto, false"
        )
    return found


def is_batched(config: EnvConfig) -> bool:
    """Return whether all slots are stepped together. Raises as `make_environment` does."""
    return batched_module(config) is not None


def batching_remark(config: EnvConfig) -> str:
    """Describe in one line how the slots of an actor are stepped.

    Returns:
        The line; empty if the environment has no batched form. Raises as `make_environment` does.
    """
    if is_batched(config):
        return f"{config.id}: all slots of an actor are stepped together (env.batched)"
    if not has_batched_form(config.id):
        return ""
    reason = (
        "env.batched is false" if config.batched is False else f"it has no batched form with {_given(config)}"
    )
    return f"{config.id}: the slots of an actor are stepped one after the other, because {reason}"


def has_batched_form(id: str) -> bool:
    """Return whether an environment is natively batched, at least with some arguments.

    Nothing is imported for the answer.
    """
    return bool(_modules(id))


def _modules(id: str) -> tuple[str, ...]:
    kind = id.partition(":")[0]
    return BATCHED.get(kind) or BATCHED.get(kind.partition(".")[0], ())


def _given(config: EnvConfig) -> str:
    return f"env.kwargs {config.kwargs}" + ("" if config.kind == "auto" else f" and env.kind {config.kind}")


def make_environment(
    config: EnvConfig,
    policies: Mapping[str, PolicyConfig],
    slots: int,
    seeds: Seeds,
    *,
    spec: EnvironmentSpec | None = None,
    record: bool = False,
    with_state: bool = False,
    skip_bad_numbers: bool = False,
) -> BatchedEnvironment:
    """Make environments that are stepped together; `reset()` returns the first observations.

    Args:
        config: The environment.
        policies: Agents of each policy.
        slots: Number of environments.
        seeds: Source of the episodes' seeds.
        spec: Result of `describe()`, if it is known already. It saves natively batched environments a query
            of their package.
        record: Keep the actions of unfinished episodes, so that `state_dict()` can restore the environments
            exactly.
        with_state: Write `env.state()` into frames that have room for it.
        skip_bad_numbers: End episodes with non-finite observations or rewards instead of raising.

    Returns:
        The batched environment.

    Raises:
        MissingPackageError: If a package that the environment needs is not installed.
        ConfigError: If `env` or `policies` does not fit the environment.
        EnvironmentFailure: If the environment raises or breaks its interface.
    """
    if (module := batched_module(config)) is not None:
        batch: BatchedEnvironment = module.make(
            config, spec or describe(config, policies), slots, seeds, record=record, with_state=with_state
        )
        return batch
    from hpcmarl.envs.batch import SlotBatch
    from hpcmarl.envs.probe import probe

    source, layout = probe(config, policies)
    layout = layout if spec is None else layout.in_order_of(spec)
    return SlotBatch(
        config,
        source,
        layout,
        slots,
        seeds,
        adapter=KINDS[source.kind],
        record=record,
        with_state=with_state,
        skip_bad_numbers=skip_bad_numbers,
    )


def prepare_environment(config: EnvConfig, slots: int) -> None:
    """Do in advance the work that is slow the first time in a process, such as compiling.

    Only natively batched environments need it. Raises as `make_environment` does.

    Args:
        config: The environment.
        slots: Number of environments.
    """
    if (module := batched_module(config)) is not None:
        module.prepare(config, slots)


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of an environment.

    The function builds one environment, reads its spaces and closes it. Raises as `make_environment` does.

    Args:
        config: The environment.
        policies: Agents of each policy.
    """
    if (module := batched_module(config)) is not None:
        spec: EnvironmentSpec = module.describe(config, policies)
    else:
        from hpcmarl.envs.probe import probe

        spec = probe(config, policies)[1].spec
    if config.common_reward and spec.turn_based:
        raise ConfigError(
            f"env.common_reward is true, but {spec.id} is turn-based; allowed: games with simultaneous "
            "actions; remove the key"
        )
    return spec
