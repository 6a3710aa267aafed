"""Particle environments, mpe2's and a family of our own, as natively batched ones: all slots' games in a few
arrays, some hundred times as fast.

Made through the package's make_environment. A task is one file with a World of its own and one line in TASKS;
what the package's environment has and a World does not (rendering, nearest neighbours, curricula) is left to
the package, whose games these are: for the same seeds and actions they show and pay the same.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.base import Seeds
from hpcmarl.types import EnvironmentSpec

if TYPE_CHECKING:
    from hpcmarl.envs.particles.batch import ParticleBatch
    from hpcmarl.envs.particles.world import World

# env.id -> the task, as module:World
TASKS = {
    "mpe2.simple_v3": "simple:Simple",
    "mpe2.simple_spread_v3": "spread:Spread",
    "mpe2.simple_speaker_listener_v4": "speaker_listener:SpeakerListener",
    "mpe2.simple_reference_v3": "reference:Reference",
    "mpe2.simple_adversary_v3": "adversary:Adversary",
    "mpe2.simple_crypto_v3": "crypto:Crypto",
    "mpe2.simple_push_v3": "push:Push",
    "mpe2.simple_tag_v3": "tag:Tag",
    "mpe2.simple_world_comm_v3": "world_comm:WorldComm",
    "hpcmarl.envs.games.particles:parallel_env": "family:Family",
}
OF_ALL = ("continuous_actions", "dynamic_rescaling")  # besides max_cycles; the latter changes pictures alone
# arguments that the package alone has, where they ask for something
UNUSED: dict[str, Any] = {
    "render_mode": None,
    "benchmark_data": False,
    "curriculum": False,
    "num_agent_neighbors": None,
    "num_landmark_neighbors": None,
}


def task_of(config: EnvConfig) -> type[World]:
    """The World of `env.id`."""
    module, _, name = TASKS[config.id].partition(":")
    world: type[World] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return world


def arguments_of(config: EnvConfig) -> dict[str, Any]:
    """The arguments that a task has of its own, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(task_of(config)).parameters.items()
        if name != "slots"
    }


def missing(config: EnvConfig) -> str:
    """Which argument these environments do not have, or not with this value, as `name: value`; empty where
    they have all."""
    task, own = task_of(config), arguments_of(config)
    for name, value in config.kwargs.items():
        if name == "max_cycles" or type(own.get(name)) is int:
            known = type(value) is int and value >= task.least.get(name, value)
        elif name in UNUSED:
            known = value == UNUSED[name] and type(value) is type(UNUSED[name])
        else:
            known = name in own or name in OF_ALL
        if not known:
            return f"{name}: {value}"
    return ""


def takes(config: EnvConfig) -> bool:
    """The tasks as parallel environments, with arguments that they have."""
    return config.kind != "aec" and config.id in TASKS and not missing(config)


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """The spec of the package's environment, which checks the arguments. Raises as make_environment does."""
    from hpcmarl.envs.probe import probe

    return probe(config, policies)[1].spec


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> ParticleBatch:
    """`slots` games. Raises as describe() does."""
    from hpcmarl.envs.particles.batch import ParticleBatch

    world = task_of(config)(
        slots, **{name: config.kwargs[name] for name in arguments_of(config).keys() & config.kwargs.keys()}
    )
    return ParticleBatch(config, spec, world, seeds, record=record, with_state=with_state)


def prepare(config: EnvConfig, slots: int) -> None:
    """Nothing takes long."""


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """A function that takes one step of `slots` games with random actions: what training is measured
    against."""
    from hpcmarl.envs.particles.batch import random_steps

    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)
