"""Algorithms by name. Adding one: a file with a subclass of base.Algorithm, a section in config/algos.py, and a line here."""

from __future__ import annotations

from typing import Any

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.coma import COMA
from hpcmarl.algos.common_reward import check_common_reward
from hpcmarl.algos.iql import IQL
from hpcmarl.algos.ma_trace import MATrace
from hpcmarl.algos.ppo import PPO
from hpcmarl.algos.qmix import QMIX
from hpcmarl.algos.reinforce import Reinforce
from hpcmarl.algos.res import RES
from hpcmarl.algos.vdn import VDN
from hpcmarl.algos.wqmix import WQMIX
from hpcmarl.config import AlgoConfig
from hpcmarl.errors import ConfigError
from hpcmarl.types import EnvironmentSpec

ALGORITHMS: dict[str, type[Algorithm]] = {
    "reinforce": Reinforce,
    "ma_trace": MATrace,
    "ppo": PPO,
    "coma": COMA,
    "iql": IQL,
    "vdn": VDN,
    "qmix": QMIX,
    "wqmix": WQMIX,
    "res": RES,
}


def make_algorithm(spec: EnvironmentSpec, config: AlgoConfig, seed: int) -> Algorithm:
    """The algorithm that `algo.name` asks for; equal arguments give equal initial parameters.

    Raises ConfigError for an unknown name, or where the environment does not fit the configuration; UsageError for unbounded actions.
    """
    name = getattr(config, "name", None)
    if name not in ALGORITHMS:
        raise ConfigError(f"algo.name: {name} is not known; allowed: {', '.join(ALGORITHMS)}")
    check_common_reward(spec, config)
    constructor: Any = ALGORITHMS[name]
    algorithm: Algorithm = constructor(spec, config, seed)
    return algorithm
