"""Particle environments as natively batched environments: mpe2's tasks and hpcmarl's own family.

The games of all slots lie in a few arrays, and a step is some hundred times as fast as in the package. For
the same seeds and actions, observations and rewards equal those of the package.

Each task is one file with a subclass of World, and one line in TASKS. A configuration that needs a feature
without a World (rendering, nearest neighbours, curricula) uses the package's environment.
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

# env.id -> World of the task, as module:class
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
# Arguments that every task has, besides max_cycles. dynamic_rescaling changes only pictures.
OF_ALL = ("continuous_actions", "dynamic_rescaling")
# Arguments that only the package supports, with the value that disables them.
UNUSED: dict[str, Any] = {
    "render_mode": None,
    "benchmark_data": False,
    "curriculum": False,
    "num_agent_neighbors": None,
    "num_landmark_neighbors": None,
}


def task_of(config: EnvConfig) -> type[World]:
    """Return the World class of `env.id`."""
    module, _, name = TASKS[config.id].partition(":")
    world: type[World] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return world


def arguments_of(config: EnvConfig) -> dict[str, Any]:
    """Return the arguments that are specific to a task, with their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(task_of(config)).parameters.items()
        if name != "slots"
    }


def missing(config: EnvConfig) -> str:
    """Return the first argument that these environments do not support.

    Returns:
        The argument as `name: value`; empty if they support all.
    """
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
    """Return whether this module has the environment: a parallel task with supported arguments."""
    return config.kind != "aec" and config.id in TASKS and not missing(config)


def describe(config: EnvConfig, policies: Mapping[str, PolicyConfig]) -> EnvironmentSpec:
    """Return the specification of the package's environment, which checks the arguments.

    Raises as `make_environment` does.
    """
    from hpcmarl.envs.probe import probe

    return probe(config, policies)[1].spec


def make(
    config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds, *, record: bool, with_state: bool
) -> ParticleBatch:
    """Make `slots` games. Raises as `describe` does."""
    from hpcmarl.envs.particles.batch import ParticleBatch

    world = task_of(config)(
        slots, **{name: config.kwargs[name] for name in arguments_of(config).keys() & config.kwargs.keys()}
    )
    return ParticleBatch(config, spec, world, seeds, record=record, with_state=with_state)


def prepare(config: EnvConfig, slots: int) -> None:
    """Do nothing: making these games is fast."""


def bare(config: EnvConfig, spec: EnvironmentSpec, slots: int, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of `slots` games with random actions.

    It is the baseline for training speed.
    """
    from hpcmarl.envs.particles.batch import random_steps

    return random_steps(make(config, spec, slots, seeds, record=False, with_state=False), seeds)
