"""The sections `algo` and the networks in it: one model an algorithm. A new algorithm is a class here and a name in `Algo`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import Count, Fraction, NonNegative, PositiveFloat, PositiveInt, Section, Width


class NetworkConfig(Section):
    """The shape of a multi-layer perceptron, and the recurrence before its head."""

    hidden: tuple[Width, ...] = Field((64, 64), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = "tanh"
    recurrent: bool = Field(False, description="put a GRU between the hidden layers and the policy head")
    memory: Width = Field(64, description="units of the GRU")


class AlgoConfig(Section):
    """What every algorithm has."""

    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    network: NetworkConfig = NetworkConfig()


class ReinforceConfig(AlgoConfig):
    """The trajectory gradient of arXiv 2509.24305: discounted rewards to go, no baseline; whole episodes."""

    name: Literal["reinforce"] = "reinforce"


class ActorCriticConfig(AlgoConfig):
    """What the actor-critics share."""

    unroll: Count = Field(25, description="steps of one unroll, T")
    critic: Literal["obs", "full", "dec"] = Field("obs", description="critic on all observations, on the environment's state, or one per agent")
    critic_network: NetworkConfig | None = Field(None, description="default: the shape of `network`, without recurrence")
    trace_lambda: Fraction = Field(1.0, description="lambda of the trace")
    value_cost: NonNegative = 0.25
    entropy_cost: NonNegative = Field(0.01, description="the entropy bonus; the initial one where target_entropy is set")
    target_entropy: Fraction | None = Field(None, description="learn the entropy cost towards this share of the maximum entropy (discrete actions)")
    entropy_cost_rate: PositiveFloat = Field(0.1, description="scale of the entropy cost's own gradient (Lagrange rule)")
    normalise_advantages: bool = Field(False, description="divide advantages by their standard deviation in the batch")
    normalise_values: bool = Field(False, description="critics predict values in units of the spread of their targets so far")
    normalise_observations: bool = Field(False, description="policies and critics see their inputs in units of their spread so far")
    normalisation_rate: Annotated[float, Field(gt=0, le=1)] = Field(0.001, description="share of each update in what `so far` means")
    reward_scale: PositiveFloat = Field(1.0, description="rewards are multiplied by this before learning (not in reports)")


class MATraceConfig(ActorCriticConfig):
    """MA-Trace (arXiv 2111.11229): V-trace with ratios over the team."""

    name: Literal["ma_trace"] = "ma_trace"
    ratios: Literal["joint", "agent"] | None = Field(
        None, description="importance ratios of the team or of each agent; default: joint, with critic dec: agent"
    )
    rho_max: PositiveFloat = Field(1.0, description="clip of the ratio in the temporal difference and the advantage")
    c_max: PositiveFloat = Field(1.0, description="clip of the ratio in the trace")
    importance_sampling: bool = Field(True, description="false sets all ratios to 1 (ablation)")
    reuse: PositiveInt = Field(1, description="how many gradients each rollout takes part in (ratios correct its age)")


class COMAConfig(ActorCriticConfig):
    """COMA (arXiv 1705.08926): counterfactual advantages from a central critic of joint actions."""

    name: Literal["coma"] = "coma"
    trace_lambda: Fraction = Field(0.8, description="lambda of the critic's TD(lambda) targets")
    target_every: PositiveInt = Field(200, description="versions after which the target network becomes a copy of the present one")
    rho_max: PositiveFloat = Field(1.0, description="clip of the importance ratio that a decision's gain is weighed with")


class PPOConfig(ActorCriticConfig):
    """PPO (arXiv 1707.06347): IPPO with critic dec, MAPPO with critic obs or full."""

    name: Literal["ppo"] = "ppo"
    trace_lambda: Fraction = Field(0.95, description="lambda of the generalised advantage estimation")
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="epsilon: beyond 1 ± epsilon a ratio gains nothing")
    epochs: PositiveInt = Field(5, description="how often each batch is gone through before the actors get new weights")
    minibatches: PositiveInt = Field(
        1, description="random parts of a batch, each a gradient of rounds.batch trajectories; a batch has as many trajectories as all of them"
    )
    value_cost: NonNegative = 0.5
    normalise_advantages: bool = Field(True, description="advantages of mean 0 and deviation 1 in each gradient")


Algo = Annotated[ReinforceConfig | MATraceConfig | PPOConfig | COMAConfig, Field(discriminator="name")]


def algo_contradictions(algo: AlgoConfig) -> list[str]:
    """Choices of an algorithm that exclude each other, each as one line that names the keys, why, and what to change."""
    found = []
    if isinstance(algo, MATraceConfig) and algo.critic == "dec" and algo.ratios == "joint":
        found.append("algo.critic: dec has one value per agent and cannot use algo.ratios: joint; use ratios: agent, or critic: obs or full")
    if isinstance(algo, COMAConfig) and algo.critic == "dec":
        found.append("algo.critic: dec does not see the others' actions that COMA's critic judges by; use critic: obs or full")
    if isinstance(algo, ActorCriticConfig) and algo.critic_network is not None and algo.critic_network.recurrent:
        found.append("algo.critic_network.recurrent: true is not supported, critics are feed-forward; remove the key")
    return found
