"""Configuration models of runs and simulations, and the functions that read them from YAML.

`schema` holds the model of a run and `simulation` the model of a simulation; the other modules hold their
sections and checks. `file` reads YAML files. Most code receives the models as arguments.
"""

from hpcmarl.config.action_critics import ActionCriticConfig, MADDPGConfig, MASACConfig
from hpcmarl.config.actor_critics import (
    ActorCriticConfig,
    COMAConfig,
    MATraceConfig,
    PPOConfig,
    ReinforceConfig,
    ValueCriticConfig,
)
from hpcmarl.config.algo_base import AlgoConfig, CommonReward, MinibatchPasses, ReplayedConfig
from hpcmarl.config.algo_checks import common_reward_text
from hpcmarl.config.algos import Algo
from hpcmarl.config.environment import EnvConfig, PolicyConfig
from hpcmarl.config.networks import (
    AgentNetworkConfig,
    CNNConfig,
    EncoderConfig,
    EntitiesConfig,
    InferenceForm,
    Initialisation,
    NetworkConfig,
    SparseConfig,
)
from hpcmarl.config.replay import PriorityConfig, ReplayConfig
from hpcmarl.config.rounds import (
    AdamConfig,
    NigtConfig,
    OptimizerConfig,
    OptimizerSection,
    RmspropConfig,
    RoundsConfig,
    RuleConfig,
    SgdConfig,
    critic_contradictions,
    round_contradictions,
)
from hpcmarl.config.run import CallbackConfig, EvalConfig, StopConfig, TrackerConfig
from hpcmarl.config.schema import Config, batch_of, contradictions, counts_episodes, inference_form
from hpcmarl.config.topology import DelayConfig, GroupConfig, InferenceSetting, TopologyConfig, WorkerConfig
from hpcmarl.config.value_based import (
    IQLConfig,
    MixingConfig,
    OperatorConfig,
    QLearningConfig,
    QMIXConfig,
    RESConfig,
    VDNConfig,
    WQMIXConfig,
)

__all__ = [
    "ActionCriticConfig",
    "ActorCriticConfig",
    "AdamConfig",
    "AgentNetworkConfig",
    "Algo",
    "AlgoConfig",
    "CNNConfig",
    "COMAConfig",
    "CallbackConfig",
    "CommonReward",
    "Config",
    "DelayConfig",
    "EncoderConfig",
    "EntitiesConfig",
    "EnvConfig",
    "EvalConfig",
    "GroupConfig",
    "IQLConfig",
    "InferenceForm",
    "InferenceSetting",
    "Initialisation",
    "MADDPGConfig",
    "MASACConfig",
    "MATraceConfig",
    "MinibatchPasses",
    "MixingConfig",
    "NetworkConfig",
    "NigtConfig",
    "OperatorConfig",
    "OptimizerConfig",
    "OptimizerSection",
    "PPOConfig",
    "PolicyConfig",
    "PriorityConfig",
    "QLearningConfig",
    "QMIXConfig",
    "RESConfig",
    "ReinforceConfig",
    "ReplayConfig",
    "ReplayedConfig",
    "RmspropConfig",
    "RoundsConfig",
    "RuleConfig",
    "SgdConfig",
    "SparseConfig",
    "StopConfig",
    "TopologyConfig",
    "TrackerConfig",
    "VDNConfig",
    "ValueCriticConfig",
    "WQMIXConfig",
    "WorkerConfig",
    "batch_of",
    "common_reward_text",
    "contradictions",
    "counts_episodes",
    "critic_contradictions",
    "inference_form",
    "round_contradictions",
]
