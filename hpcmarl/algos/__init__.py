"""Algorithms by name.

An algorithm outside hpcmarl is described by a class (external.py). A new algorithm of hpcmarl needs

- a configuration section in config/algos.py,
- a function in design.py,
- a subclass of base.Algorithm in its own file, and
- a line in ALGORITHMS.

`make_algorithm` imports torch, because the result learns. `make_model` works without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hpcmarl import plugins
from hpcmarl.algos.design import make_design
from hpcmarl.algos.model import Model
from hpcmarl.config import AlgoConfig
from hpcmarl.types import EnvironmentSpec

if TYPE_CHECKING:
    from hpcmarl.algos.base import Algorithm


ALGORITHMS = {
    "reinforce": ("hpcmarl.algos.reinforce", "Reinforce"),
    "ma_trace": ("hpcmarl.algos.ma_trace", "MATrace"),
    "ppo": ("hpcmarl.algos.ppo", "PPO"),
    "coma": ("hpcmarl.algos.coma", "COMA"),
    "iql": ("hpcmarl.algos.iql", "IQL"),
    "vdn": ("hpcmarl.algos.vdn", "VDN"),
    "qmix": ("hpcmarl.algos.qmix", "QMIX"),
    "wqmix": ("hpcmarl.algos.wqmix", "WQMIX"),
    "res": ("hpcmarl.algos.res", "RES"),
    "maddpg": ("hpcmarl.algos.maddpg", "MADDPG"),
    "masac": ("hpcmarl.algos.masac", "MASAC"),
}


def make_model(spec: EnvironmentSpec, config: AlgoConfig, seed: int | None) -> Model:
    """Create the networks of the algorithm `algo.name` without torch.

    Equal arguments give equal initial parameters.

    Args:
        spec: The environment.
        config: Configuration of the algorithm.
        seed: Seed of the initial parameters; None: zeros, for ranks that receive parameters before they act.

    Raises:
        ConfigError: If the name is unknown, or if the environment does not fit the configuration.
        UsageError: If actions are unbounded.
    """
    return Model(make_design(spec, config), seed)


def learner_class(name: str) -> type[Algorithm]:
    """Return the class that learners use for `algo.name`. Imports torch.

    Raises:
        ConfigError: The name is unknown, or its class outside hpcmarl does not exist or lacks a method.
        MissingPackageError: A package that it needs is not installed.
    """
    if name in ALGORITHMS:
        module, own = ALGORITHMS[name]
        found: type[Algorithm] = getattr(import_module(module), own)
        return found
    described = plugins.need("algorithms", name, ALGORITHMS)
    return plugins.derived(described.learner, "hpcmarl.algos.base:Algorithm")


def make_algorithm(spec: EnvironmentSpec, config: AlgoConfig, seed: int) -> Algorithm:
    """Create the same model with the ability to learn. Imports torch; raises as `make_model`."""
    algorithm: Algorithm = learner_class(config.name)(spec, config, seed)
    return algorithm
