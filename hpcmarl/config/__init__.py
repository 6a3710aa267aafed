"""Configuration models of runs and simulations, and the functions that read them from YAML.

`schema` holds the model of a run and `simulation` the model of a simulation; the other modules hold their
sections and checks. `file` reads YAML files. Most code receives the models as arguments.
"""

from hpcmarl.config.algo_checks import common_reward_text
from hpcmarl.config.algos import (
    ActorCriticConfig,
    AgentNetworkConfig,
    Algo,
    AlgoConfig,
    COMAConfig,
    CommonReward,
    InferenceForm,
    IQLConfig,
    MATraceConfig,
    MixingConfig,
    NetworkConfig,
    OperatorConfig,
    PPOConfig,
    PriorityConfig,
    QLearningConfig,
    QMIXConfig,
    ReinforceConfig,
    ReplayConfig,
    RESConfig,
    SparseConfig,
    ValueCriticConfig,
    VDNConfig,
    WQMIXConfig,
)
from hpcmarl.config.environment import EnvConfig, PolicyConfig
from hpcmarl.config.rounds import (
    AdamConfig,
    NigtConfig,
    OptimizerSection,
    RmspropConfig,
    RoundsConfig,
    SgdConfig,
    critic_contradictions,
    round_contradictions,
)
from hpcmarl.config.run import EvalConfig, StopConfig
from hpcmarl.config.schema import Config, batch_of, contradictions, counts_episodes, inference_form
from hpcmarl.config.topology import DelayConfig, GroupConfig, TopologyConfig

__all__ = [
    "ActorCriticConfig",
    "AdamConfig",
    "AgentNetworkConfig",
    "Algo",
    "AlgoConfig",
    "COMAConfig",
    "CommonReward",
    "Config",
    "DelayConfig",
    "EnvConfig",
    "EvalConfig",
    "GroupConfig",
    "IQLConfig",
    "InferenceForm",
    "MATraceConfig",
    "MixingConfig",
    "NetworkConfig",
    "NigtConfig",
    "OperatorConfig",
    "OptimizerSection",
    "PPOConfig",
    "PolicyConfig",
    "PriorityConfig",
    "QLearningConfig",
    "QMIXConfig",
    "RESConfig",
    "ReinforceConfig",
    "ReplayConfig",
    "RmspropConfig",
    "RoundsConfig",
    "SgdConfig",
    "SparseConfig",
    "StopConfig",
    "TopologyConfig",
    "VDNConfig",
    "ValueCriticConfig",
    "WQMIXConfig",
    "batch_of",
    "common_reward_text",
    "contradictions",
    "counts_episodes",
    "critic_contradictions",
    "inference_form",
    "round_contradictions",
]
