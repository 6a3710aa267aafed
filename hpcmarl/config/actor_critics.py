"""The section `algo` of REINFORCE, MA-Trace, COMA and PPO."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hpcmarl.config.algo_base import AlgoConfig, CommonReward, MinibatchPasses, ValueLearningConfig
from hpcmarl.config.base import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
)
from hpcmarl.config.networks import NetworkConfig


class ReinforceConfig(AlgoConfig):
    """REINFORCE as in arXiv 2509.24305: discounted rewards to go, no baseline; whole episodes."""

    is_on_policy: ClassVar[bool] = True
    name: Literal["reinforce"] = "reinforce"

    @property
    def common_reward(self) -> CommonReward:
        return "policy"


class ActorCriticConfig(ValueLearningConfig):
    """Keys of all actor-critic algorithms."""

    trajectory_unit: ClassVar[Literal["unroll", "episode"]] = "unroll"
    has_critics: ClassVar[bool] = True
    unroll: Count = Field(25, description="steps of one unroll, T")
    critic: Literal["joint_observation", "state", "independent"] = Field(
        "joint_observation",
        description=(
            "critic of all observations (joint_observation), of the environment's state (state), or of "
            "each agent's own observation (independent)"
        ),
    )
    critic_network: NetworkConfig | None = Field(
        None,
        description=(
            "networks of the critics; null: the shape of network without recurrence; recurrent critics: "
            "only ma_trace and ppo"
        ),
    )
    shared_encoder: bool = Field(
        False,
        description=(
            "let critics use the features of the policies' encoders, which the losses of both train; each "
            "observation is encoded once (docs/networks.md); false: critics have their own encoders"
        ),
    )
    trace_lambda: Fraction = Field(1.0, description="lambda of the V-trace targets")
    value_cost: NonNegative = Field(0.25, description="weight of the critic's loss")
    value_loss: Literal["squared", "huber"] = Field(
        "squared",
        description=(
            "loss of the critic's error e, in units of its outputs: squared: e^2; huber: beyond "
            "huber_delta only 2 delta |e| - delta^2"
        ),
    )
    huber_delta: PositiveFloat = Field(
        10.0, description="error beyond which the Huber loss is linear (MAPPO's authors: 10)"
    )
    entropy_cost: NonNegative = Field(
        0.01,
        description=(
            "weight of the entropy bonus; its initial value if entropy_cost_steps or target_entropy is set"
        ),
    )
    entropy_cost_final: NonNegative = Field(
        0.0, description="weight of the entropy bonus after entropy_cost_steps"
    )
    entropy_cost_steps: Natural = Field(
        0, description="environment steps of the run over which entropy_cost falls linearly; 0: constant"
    )
    target_entropy: Fraction | None = Field(
        None,
        description=(
            "learn entropy_cost so that the entropy approaches this share of its maximum (discrete "
            "actions only); null: not learned"
        ),
    )
    entropy_cost_rate: PositiveFloat = Field(
        0.1, description="scale of the gradient of a learned entropy_cost (Lagrange rule)"
    )
    normalise_advantages: bool = Field(
        False, description="give the advantages of each gradient mean 0 and deviation 1"
    )
    normalise_values: bool = Field(
        False,
        description=(
            "let critics predict values in units of the running mean and deviation of their targets"
        ),
    )
    agent_id: bool = Field(
        False,
        description=(
            "append the agent's number in its policy, one-hot, to its observation; critics with critic: "
            "independent see it, too"
        ),
    )

    @property
    def common_reward(self) -> CommonReward:
        return "none" if self.critic == "independent" else "policy"

    @property
    def unroll_steps(self) -> int | None:
        return self.unroll

    @property
    def appends_agent_id(self) -> bool:
        return self.agent_id


class ValueCriticConfig(ActorCriticConfig):
    """Keys of MA-Trace and PPO, whose critics estimate the value of observations or states."""

    critic_input: Literal["team", "agent"] = Field(
        "team",
        description=(
            "input of the critics joint_observation and state: the same for all agents, with one value "
            "(team), or followed by an agent's own observation, with a value for each agent (agent; "
            "MAPPO's agent-specific global state)"
        ),
    )


class MATraceConfig(ValueCriticConfig):
    """MA-Trace (arXiv 2111.11229): V-trace with importance ratios of the team or of each agent."""

    name: Literal["ma_trace"] = "ma_trace"
    ratios: Literal["joint", "agent"] | None = Field(
        None,
        description=(
            "importance ratios of the team or of each agent; null: joint, but agent with critic: independent"
        ),
    )
    teams: Literal["auto"] | tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        "auto",
        description=(
            "policies that one joint ratio covers, one list for each team; auto: policies with a common "
            "reward (env.common_reward) are a team, others are alone"
        ),
    )
    rho_max: PositiveFloat = Field(
        1.0, description="largest importance ratio in the temporal difference and the advantage"
    )
    c_max: PositiveFloat = Field(1.0, description="largest importance ratio in the trace")
    importance_sampling: bool = Field(
        True, description="use importance ratios; false: all ratios are 1 (ablation)"
    )
    reuse: PositiveInt = Field(
        1,
        description=(
            "number of gradients each rollout contributes to; importance ratios correct for its age"
        ),
    )

    @property
    def gradients_per_rollout(self) -> int:
        return self.reuse


class COMAConfig(ActorCriticConfig):
    """COMA (arXiv 1705.08926): counterfactual advantages from a central critic of joint actions."""

    name: Literal["coma"] = "coma"
    trace_lambda: Fraction = Field(0.8, description="lambda of the critic's TD(lambda) targets")
    target_every: PositiveInt = Field(
        200, description="versions between copies of the critic to its target network"
    )
    rho_max: PositiveFloat = Field(1.0, description="largest importance ratio in the weight of a decision")

    @property
    def target_interval(self) -> int | None:
        return self.target_every


class PPOConfig(ValueCriticConfig):
    """PPO (arXiv 1707.06347): IPPO with critic: independent, else MAPPO."""

    name: Literal["ppo"] = "ppo"
    trace_lambda: Fraction = Field(0.95, description="lambda of the generalised advantage estimation")
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="epsilon: ratios beyond 1 ± epsilon bring no further gain"
    )
    epochs: PositiveInt = Field(5, description="number of passes over each batch")
    minibatches: PositiveInt = Field(
        1,
        description=(
            "random parts of a batch in each pass; each is one gradient of rounds.batch trajectories, "
            "and together they are the batch"
        ),
    )
    value_cost: NonNegative = Field(0.5, description="weight of the critic's loss")
    advantages: Literal["each_pass", "once"] = Field(
        "each_pass",
        description=(
            "compute advantages and targets with the parameters of each gradient (each_pass), or once "
            "with those at the start of the batch, normalised over the whole batch (MAPPO's authors: "
            "once)"
        ),
    )
    value_clip: PositiveFloat | None = Field(
        None,
        description=(
            "epsilon, in units of the critic's outputs: the loss is the larger one of the value and of "
            "the value clipped to within epsilon of that at the start of the batch (MAPPO's authors: "
            "0.2); null: no clipping"
        ),
    )
    kl_target: PositiveFloat | None = Field(
        None,
        description=(
            "approximate KL divergence from the sampling policies above which a learner skips the rest "
            "of its batch; null: never (as MAPPO's authors)"
        ),
    )
    normalise_advantages: bool = Field(
        True, description="give the advantages of each gradient mean 0 and deviation 1"
    )

    @property
    def minibatch_passes(self) -> MinibatchPasses | None:
        return MinibatchPasses(self.epochs, self.minibatches)
