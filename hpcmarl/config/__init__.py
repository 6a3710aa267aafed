"""The configuration: the models of a run (`schema`, with its parts beside it) and of a simulation, and what reads YAML into them.

Everything takes the models as arguments, from here; only the command line and the roles read files (`file`)."""

from hpcmarl.config.algos import ActorCriticConfig, Algo, AlgoConfig, COMAConfig, MATraceConfig, NetworkConfig, PPOConfig, ReinforceConfig
from hpcmarl.config.rounds import AdamConfig, NigtConfig, OptimizerSection, RoundsConfig, SgdConfig, round_contradictions
from hpcmarl.config.schema import Config, DelayConfig, EnvConfig, GroupConfig, PolicyConfig, TopologyConfig, batch_of, contradictions, counts_episodes

__all__ = [
    "ActorCriticConfig",
    "AdamConfig",
    "Algo",
    "AlgoConfig",
    "COMAConfig",
    "Config",
    "DelayConfig",
    "EnvConfig",
    "GroupConfig",
    "MATraceConfig",
    "NetworkConfig",
    "NigtConfig",
    "OptimizerSection",
    "PPOConfig",
    "PolicyConfig",
    "ReinforceConfig",
    "RoundsConfig",
    "SgdConfig",
    "TopologyConfig",
    "batch_of",
    "contradictions",
    "counts_episodes",
    "round_contradictions",
]
