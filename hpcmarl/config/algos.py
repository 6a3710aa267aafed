"""The section `algo`: the union of all algorithms.

A new algorithm of hpcmarl is a class in actor_critics.py, value_based.py or another module, and a member
here. An algorithm outside hpcmarl is named by its path (hpcmarl/plugins.py).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcmarl.config.action_critics import MADDPGConfig, MASACConfig
from hpcmarl.config.actor_critics import COMAConfig, MATraceConfig, PPOConfig, ReinforceConfig
from hpcmarl.config.choice import Choice
from hpcmarl.config.value_based import IQLConfig, QMIXConfig, RESConfig, VDNConfig, WQMIXConfig

_Own = (
    ReinforceConfig
    | MATraceConfig
    | PPOConfig
    | COMAConfig
    | IQLConfig
    | VDNConfig
    | QMIXConfig
    | WQMIXConfig
    | RESConfig
    | MADDPGConfig
    | MASACConfig
)
Algo = Annotated[_Own, Choice("algorithms", Annotated[_Own, Field(discriminator="name")])]
