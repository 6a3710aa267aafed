"""Environments: one interface over PettingZoo's parallel and turn-based ones, Gymnasium's, and natively
batched ones. The package's public face.

Called by roles/ and cli/main.py. A new kind of environment is one file with a slot.SlotAdapter and one line
in KINDS; one that steps all slots by itself is one file with takes(), describe(), make(), prepare() and
bare(), and one line in BATCHED. PettingZoo, gymnasium and JAX are imported when an environment is made, not
when this package is.
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

# kind -> the class that drives one environment of that kind, as module:name
KINDS: dict[str, str] = {
    "parallel": "hpcmarl.envs.adapters.parallel:ParallelSlot",
    "aec": "hpcmarl.envs.adapters.aec:TurnSlot",
}
# env.id, or what it begins with, before a colon (smax:3m) or the first dot (mpe2.simple_v3) -> modules of
# natively batched environments, the first that takes it; where none does it is driven one by one
BATCHED: dict[str, tuple[str, ...]] = {
    "mpe2": ("hpcmarl.envs.particles",),
    "hpcmarl.envs.games.particles": ("hpcmarl.envs.particles",),
    "pettingzoo.classic.connect_four_v3": ("hpcmarl.envs.native.boards",),
    "pettingzoo.classic.tictactoe_v3": ("hpcmarl.envs.native.boards",),
    "smax": ("hpcmarl.envs.smax.env",),
    "matrix": ("hpcmarl.envs.native.matrix",),
    "openspiel": ("hpcmarl.envs.native.boards", "hpcmarl.envs.native.game_tree"),
}
BATCHED_ONLY = ("smax", "matrix")


def batched_module(config: EnvConfig) -> Any:
    """The module of the natively batched environment that `env.id` names and `env.batched` allows, or None.
    Raises as make_environment does, and ConfigError where `env.batched` asks for what there is not."""
    if config.batched is False:
        if config.id.partition(":")[0] in BATCHED_ONLY:
            raise ConfigError(
                f"env.batched is false, but {config.id} has no other environment than the batched one; "
                "allowed: auto, true"
            )
        return None
    found = next(
        (module for module in map(importlib.import_module, _modules(config.id)) if module.takes(config)), None
    )
    if found is None and config.batched is True:
        from hpcmarl.envs.resolve import resolve

        resolve(config)[1].close()  # which says what is wrong where the package refuses the arguments, too
        raise ConfigError(
            f"env.batched is true, but there is no batched environment of {config.id} with {_given(config)}; "
            "allowed: auto, false"
        )
    return found


def is_batched(config: EnvConfig) -> bool:
    """Whether all slots are stepped together. Raises as make_environment does."""
    return batched_module(config) is not None


def batching_remark(config: EnvConfig) -> str:
    """One line about how the slots of an actor are stepped; empty where there is no choice. Raises as
    make_environment does."""
    if is_batched(config):
        return f"{config.id}: all slots of an actor are stepped together (env.batched)"
    if not has_batched_form(config.id):
        return ""
    reason = (
        "env.batched is false"
        if config.batched is False
        else f"there is no batched environment with {_given(config)}"
    )
    return f"{config.id}: the slots of an actor are stepped one after the other, since {reason}"


def has_batched_form(id: str) -> bool:
    """Whether an environment is natively batched, at least with some arguments. Imports nothing."""
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
    """Make environments that are stepped together; the first observations come with reset().

    Args:
        config: The environment.
        policies: Which agents each policy has.
        slots: How many environments.
        seeds: Of their episodes.
        spec: What describe() returns for them, where it is known already: natively batched environments then
            need not ask the package.
        record: Keep the actions of unfinished episodes, so that state_dict() says exactly where the
            environments stand.
        with_state: Write env.state() into frames that have room for it.
        skip_bad_numbers: End episodes with observations or rewards that are not finite instead of raising.

    Raises:
        MissingPackageError: If a package is missing.
        ConfigError: If the configuration does not fit the environment.
        EnvironmentFailure: If the environment cannot be made.
    """
    if (module := batched_module(config)) is not None:
        batch: BatchedEnvironment = module.make(
            config, spec or describe(config, policies), slots, seeds, record=record, with_state=with_state
        )
        return batch
    from hpcmarl.envs.batch import SlotBatch
    from hpcmarl.envs.probe import probe

    source, layout = probe(config, policies)
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
    """Do ahead what takes long the first time in a process: natively batched environments are compiled.
    Raises as make_environment does."""
    if (module := batched_module(config)) is not None:
        module.prepare(config, slots)


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of an environment: builds one, reads its spaces, closes it. Raises as make_environment
    does."""
    if (module := batched_module(config)) is not None:
        spec: EnvironmentSpec = module.describe(config, policies)
    else:
        from hpcmarl.envs.probe import probe

        spec = probe(config, policies)[1].spec
    if config.common_reward and spec.turn_based:
        raise ConfigError(
            f"env.common_reward: true is for games whose agents act at once, and {spec.id} is turn-based; "
            "remove the key"
        )
    return spec
