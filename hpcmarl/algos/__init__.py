"""Algorithms by name. Adding one: a section in config/algos.py, a function in design.py, a file with a
subclass of base.Algorithm, a line here.

torch is imported where an algorithm is made that learns, and not by a model that acts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hpcmarl.algos.design import make_design
from hpcmarl.algos.model import Model
from hpcmarl.config import AlgoConfig
from hpcmarl.errors import ConfigError
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
}


def make_model(spec: EnvironmentSpec, config: AlgoConfig, seed: int | None) -> Model:
    """The networks of the algorithm that `algo.name` asks for, without torch; equal arguments give equal
    initial parameters.

    Args:
        spec: The environment.
        config: The algorithm's configuration.
        seed: Of the initial parameters; None: zeros, for who gets parameters before it acts.

    Raises:
        ConfigError: For an unknown name, or where the environment does not fit the configuration.
        UsageError: For unbounded actions.
    """
    return Model(make_design(spec, config), seed)


def make_algorithm(spec: EnvironmentSpec, config: AlgoConfig, seed: int) -> Algorithm:
    """The same model, which can also learn. Imports torch. Raises as make_model does."""
    if config.name not in ALGORITHMS:
        raise ConfigError(f"algo.name: {config.name} is not known; allowed: {', '.join(ALGORITHMS)}")
    module, own = ALGORITHMS[config.name]
    algorithm: Algorithm = getattr(import_module(module), own)(spec, config, seed)
    return algorithm
