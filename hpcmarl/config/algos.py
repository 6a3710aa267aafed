"""The section `algo`: the union of all algorithms.

A new algorithm is a class in actor_critics.py, value_based.py or another module, and a member here.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hpcmarl.config.actor_critics import COMAConfig, MATraceConfig, PPOConfig, ReinforceConfig
from hpcmarl.config.value_based import IQLConfig, QMIXConfig, RESConfig, VDNConfig, WQMIXConfig

Algo = Annotated[
    ReinforceConfig
    | MATraceConfig
    | PPOConfig
    | COMAConfig
    | IQLConfig
    | VDNConfig
    | QMIXConfig
    | WQMIXConfig
    | RESConfig,
    Field(discriminator="name"),
]
