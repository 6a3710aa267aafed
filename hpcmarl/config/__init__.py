"""The configuration: the models of a run (`schema`, with its parts beside it) and of a simulation, and what reads YAML into them.

Everything takes the models as arguments, from here; only the command line and the roles read files (`file`)."""

from hpcmarl.config.algos import (
    ActorCriticConfig,
    Algo,
    AlgoConfig,
    IQLConfig,
    MATraceConfig,
    MixingConfig,
    NetworkConfig,
    OperatorConfig,
    PPOConfig,
    QLearningConfig,
    QMIXConfig,
    ReinforceConfig,
    ReplayConfig,
    RESConfig,
    VDNConfig,
    WQMIXConfig,
)
from hpcmarl.config.rounds import AdamConfig, NigtConfig, OptimizerSection, RmspropConfig, RoundsConfig, SgdConfig, round_contradictions
from hpcmarl.config.schema import Config, DelayConfig, EnvConfig, GroupConfig, PolicyConfig, TopologyConfig, batch_of, contradictions, counts_episodes

__all__ = [
    "ActorCriticConfig",
    "AdamConfig",
    "Algo",
    "AlgoConfig",
    "Config",
    "DelayConfig",
    "EnvConfig",
    "GroupConfig",
    "IQLConfig",
    "MATraceConfig",
    "MixingConfig",
    "NetworkConfig",
    "NigtConfig",
    "OperatorConfig",
    "OptimizerSection",
    "PPOConfig",
    "PolicyConfig",
    "QLearningConfig",
    "QMIXConfig",
    "RESConfig",
    "ReinforceConfig",
    "ReplayConfig",
    "RmspropConfig",
    "RoundsConfig",
    "SgdConfig",
    "TopologyConfig",
    "VDNConfig",
    "WQMIXConfig",
    "batch_of",
    "contradictions",
    "counts_episodes",
    "round_contradictions",
]
