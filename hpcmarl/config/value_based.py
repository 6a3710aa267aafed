"""The section `algo` of IQL, VDN, QMIX, WQMIX and RES."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hpcmarl.config.algo_base import CommonReward, ReplayedConfig
from hpcmarl.config.base import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    PositiveFloat,
    PositiveInt,
    Section,
    Width,
    section,
)
from hpcmarl.config.networks import AgentNetworkConfig, ModuleName, SparseConfig


class QLearningConfig(ReplayedConfig):
    """Keys of all value-based algorithms: agents, targets and exploration."""

    has_random_share: ClassVar[bool] = True
    network: AgentNetworkConfig = section(AgentNetworkConfig, "networks of the agents")
    obs_last_action: bool = Field(
        False,
        description=(
            "append the agent's last action in the episode, one-hot, to its observation (PyMARL: true)"
        ),
    )
    double_q: bool = Field(
        True,
        description=(
            "choose the next action with the present network and take its value from the target network"
        ),
    )
    trace_lambda: Fraction = Field(
        0.0, description="lambda of the TD(lambda) targets; 0: one-step targets (MAST: 0.6 to 0.8)"
    )
    trace_from: Natural = Field(
        0,
        description=("environment steps of the run before which lambda is 0 (MAST's hybrid targets: 750000)"),
    )
    n_step: Count = Field(
        1,
        description=("number of rewards in a target before the next value; above 1 needs trace_lambda: 0"),
    )
    epsilon_start: Fraction = Field(1.0, description="share of random actions at the start of the run")
    epsilon_final: Fraction = Field(0.05, description="share of random actions after epsilon_steps")
    epsilon_steps: PositiveInt = Field(
        50_000,
        description="environment steps of the run over which the share of random actions falls linearly",
    )
    sparse: SparseConfig | None = Field(
        None, description="sparse training of all weight matrices of agents and mixers; null: dense"
    )

    @property
    def common_reward(self) -> CommonReward:
        return "all"

    @property
    def sparse_training(self) -> SparseConfig | None:
        return self.sparse


class OperatorConfig(QLearningConfig):
    """Keys of the operator that turns action values into the value of the next step."""

    operator: Literal["max", "mellowmax"] = Field(
        "max",
        description=(
            "value of the next step: the largest action value (max), or MAST's soft mellowmax of each "
            "agent's target values"
        ),
    )
    mellowmax_omega: PositiveFloat = Field(
        5.0,
        description=("omega of the soft mellowmax; 5 suits returns of about 20, smaller returns need more"),
    )
    mellowmax_alpha: NonNegative = Field(
        1.0, description="alpha of the soft mellowmax; smaller returns need more"
    )


class IQLConfig(OperatorConfig):
    """Independent Q-learning: every agent learns from its own reward."""

    name: Literal["iql"] = "iql"

    @property
    def common_reward(self) -> CommonReward:
        return "none"


class VDNConfig(OperatorConfig):
    """VDN (arXiv 1706.05296): the team's value is the sum of the agents' values."""

    name: Literal["vdn"] = "vdn"


class MixingConfig(Section):
    """Keys of the monotonic mixing network."""

    mixer_state: Literal["auto", "state", "joint_observation"] = Field(
        "auto",
        description=(
            "input of the mixer: the environment's state, or all observations; auto: the state if the "
            "environment has one"
        ),
    )
    mixer_module: ModuleName | None = Field(
        None,
        description=(
            "torch module in place of the monotonic mixing network: package.module:factory (docs/networks.md)"
        ),
    )
    mixer_arguments: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the factory in `mixer_module`"
    )
    mixing_width: Width = Field(32, description="hidden units of the mixing network")
    hypernetwork_width: Width = Field(
        64, description="hidden units of the networks that generate the mixer's weights"
    )
    hypernetwork_activation: Literal["relu", "tanh"] = Field(
        "relu",
        description=(
            "activation of the networks that generate the mixer's weights; tanh bounds these weights; "
            "with relu, values can diverge if states are unbounded"
        ),
    )


class QMIXConfig(OperatorConfig, MixingConfig):
    """QMIX (arXiv 1803.11485): a monotonic network mixes the agents' values."""

    name: Literal["qmix"] = "qmix"


class WQMIXConfig(OperatorConfig, MixingConfig):
    """Weighted QMIX (arXiv 2006.10800): CW-QMIX or OW-QMIX."""

    name: Literal["wqmix"] = "wqmix"
    weighting: Literal["central", "optimistic"] = Field(
        "optimistic", description="variant: CW-QMIX (central) or OW-QMIX (optimistic)"
    )
    weight: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description=(
            "alpha, the weight of joint actions that count less; null: 0.5 with optimistic, 0.75 with "
            "central weighting"
        ),
    )
    central_width: Width = Field(256, description="hidden units of the unrestricted mixer")

    @property
    def alpha(self) -> float:
        """`weight` if it is set, else the default of `weighting`.

        The default 0.5 is from the authors' command for OW-QMIX in SMAC; their configuration files have 0.1.
        """
        return (
            self.weight if self.weight is not None else {"optimistic": 0.5, "central": 0.75}[self.weighting]
        )


class RESConfig(QLearningConfig, MixingConfig):
    """RES (arXiv 2103.11883): regularised softmax QMIX."""

    name: Literal["res"] = "res"
    softmax_beta: NonNegative = Field(
        0.05,
        description=(
            "inverse temperature of the softmax over joint actions; values that differ by 1/beta weigh 1 to e"
        ),
    )
    regularisation: NonNegative = Field(
        0.05, description="lambda, weight of the squared distance to the discounted return"
    )
