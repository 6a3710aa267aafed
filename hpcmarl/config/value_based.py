"""The section `algo` of IQL, VDN, QMIX, WQMIX and RES, with their replay."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from hpcmarl.config.algo_base import CommonReward, ValueLearningConfig
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


class DynamicReplayConfig(Section):
    """Replay of dynamic capacity (RLx2, arXiv 2205.15043).

    If the oldest episodes differ much from the present policy, the oldest tenth of the replay is removed.
    """

    every: Count = Field(
        400, description="new episodes between checks of the oldest ones (RLx2: 10,000 steps)"
    )
    oldest: Count = Field(64, description="number of oldest episodes that are checked (RLx2: 2,048 steps)")
    distance: Fraction = Field(
        0.5,
        description=(
            "share of their actions that the present policy would not choose, above which the oldest "
            "tenth of the replay is removed (RLx2, continuous actions: 0.2)"
        ),
    )
    least: Count = Field(
        500, description="number of episodes that always stay (RLx2: a tenth of the capacity)"
    )


class PriorityConfig(Section):
    """Prioritised replay (arXiv 1511.05952).

    Episodes with large temporal-difference errors are drawn more often. Importance weights correct for that.
    """

    alpha: Fraction = Field(
        0.6, description="exponent of the priorities; 0: all episodes have the same probability (R2D2: 0.9)"
    )
    beta: Fraction = Field(
        0.4,
        description=(
            "exponent of the importance weights at the start of the run; 1: full correction (R2D2: 0.6)"
        ),
    )
    beta_steps: PositiveInt = Field(
        1_000_000, description="environment steps of the run over which beta rises linearly to 1"
    )
    max_share: Fraction = Field(
        0.9,
        description=(
            "weight of an episode's largest temporal-difference error in its priority; the mean error "
            "has the rest (R2D2)"
        ),
    )


class ReplayConfig(Section):
    """Replay buffer of finished episodes; each learner has one for the episodes of its actors."""

    episodes: Count = Field(
        5000, description="largest number of episodes in the replay of a learner; the oldest leave first"
    )
    megabytes: PositiveFloat = Field(
        2048.0, description="largest size of the replay in megabytes; the oldest episodes leave first"
    )
    learning_starts: Count = Field(
        32, description="number of episodes that each learner collects before its first gradient"
    )
    samples_per_insert: PositiveFloat = Field(
        32.0,
        description=(
            "number of times that an episode is learned from on average; at this limit the learner waits "
            "for new episodes"
        ),
    )
    recent: Natural = Field(
        0,
        description=(
            "number of newest episodes from which a part of each gradient is drawn (MAST: 128); 0: none"
        ),
    )
    recent_share: Fraction = Field(
        0.375, description="share of each gradient that is drawn from the recent episodes (MAST: 12 of 32)"
    )
    dynamic: DynamicReplayConfig | None = Field(
        None, description="remove the oldest episodes early, as in RLx2; null: never"
    )
    priority: PriorityConfig | None = Field(
        None,
        description=(
            "draw episodes by their temporal-difference errors; null: all with the same probability"
        ),
    )
    save: Literal["stop", "checkpoint", "never"] = Field(
        "stop",
        description=(
            "when the replay is written to replay/ in the run directory; deterministic runs: with every "
            "checkpoint"
        ),
    )


class QLearningConfig(ValueLearningConfig):
    """Keys of all value-based algorithms: agents, replay, targets and exploration."""

    gradient_episodes: ClassVar[int] = 32
    network: AgentNetworkConfig = section(AgentNetworkConfig, "networks of the agents")
    agent_id: bool = Field(
        True, description="append the agent's number in its policy, one-hot, to its observation"
    )
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
    target_every: PositiveInt = Field(
        200, description="versions between copies of the network to the target network"
    )
    target_rate: Fraction | None = Field(
        None,
        description=(
            "instead of copies: share of the distance by which the target network moves at every "
            "version; null: copies"
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
    replay: ReplayConfig = section(ReplayConfig, "replay of finished episodes")
    sparse: SparseConfig | None = Field(
        None, description="sparse training of all weight matrices of agents and mixers; null: dense"
    )

    @property
    def common_reward(self) -> CommonReward:
        return "all"

    @property
    def sparse_training(self) -> SparseConfig | None:
        return self.sparse

    @property
    def appends_agent_id(self) -> bool:
        return self.agent_id

    @property
    def target_interval(self) -> int | None:
        return self.target_every


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
