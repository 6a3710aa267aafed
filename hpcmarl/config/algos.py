"""The section `algo`: one model for each algorithm, and the models of its networks and replay.

A new algorithm is a class here and a member of the union `Algo`. The module is longer than 500 lines, because
every key states its meaning.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

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

InferenceForm = Literal["auto", "dense", "sparse"]
# Agents whose mean reward an agent learns from: all agents, those of its policy, or the agent alone (none).
CommonReward = Literal["all", "policy", "none"]


class NetworkConfig(Section):
    """Shape of a multi-layer perceptron, with an optional GRU before its head."""

    hidden: tuple[Width, ...] = Field((64, 64), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = Field(
        "tanh", description="activation function of the hidden layers"
    )
    recurrent: bool = Field(False, description="put a GRU between the hidden layers and the head")
    memory: Width = Field(64, description="units of the GRU")


class AlgoConfig(Section):
    """Keys and properties of all algorithms.

    Attributes:
        gradient_episodes: Default number of episodes in one gradient, if trajectories are whole episodes.
        trajectory_unit: What one trajectory is: an unroll or a whole episode.
        is_on_policy: Whether the algorithm learns only from trajectories sampled with the newest parameters.
    """

    gradient_episodes: ClassVar[int] = 1
    trajectory_unit: ClassVar[Literal["unroll", "episode"]] = "episode"
    is_on_policy: ClassVar[bool] = False
    discount: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="discount factor of rewards, gamma"
    )
    network: NetworkConfig = section(NetworkConfig, "networks of the policies")

    @property
    def common_reward(self) -> CommonReward:
        """Agents whose mean reward each agent learns from."""
        return "none"


class ReinforceConfig(AlgoConfig):
    """REINFORCE as in arXiv 2509.24305: discounted rewards to go, no baseline; whole episodes."""

    is_on_policy: ClassVar[bool] = True
    name: Literal["reinforce"] = "reinforce"

    @property
    def common_reward(self) -> CommonReward:
        return "policy"


class ValueLearningConfig(AlgoConfig):
    """Keys of all algorithms that learn values: units of observations and rewards."""

    normalise_observations: bool = Field(
        False, description="normalise the inputs of networks by their running mean and deviation"
    )
    normalisation_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.001,
        description="weight of each update in the running means and deviations of normalised quantities",
    )
    reward_scale: PositiveFloat = Field(
        1.0,
        description=("factor by which rewards are multiplied before learning; reports have unscaled rewards"),
    )


class ActorCriticConfig(ValueLearningConfig):
    """Keys of all actor-critic algorithms."""

    trajectory_unit: ClassVar[Literal["unroll", "episode"]] = "unroll"
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


class COMAConfig(ActorCriticConfig):
    """COMA (arXiv 1705.08926): counterfactual advantages from a central critic of joint actions."""

    name: Literal["coma"] = "coma"
    trace_lambda: Fraction = Field(0.8, description="lambda of the critic's TD(lambda) targets")
    target_every: PositiveInt = Field(
        200, description="versions between copies of the critic to its target network"
    )
    rho_max: PositiveFloat = Field(1.0, description="largest importance ratio in the weight of a decision")


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


class SparseConfig(Section):
    """Sparse training with the topology of MAST, RigL or SET, or a fixed one: most weights stay zero."""

    sparsity: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="share of the weights that are zero; small layers are denser (Erdős–Rényi)"
    )
    growth: Literal["gradient", "random", "none"] = Field(
        "gradient",
        description=(
            "where new weights grow: at the largest gradients (gradient: MAST, RigL, RLx2), at random "
            "(random: SET), or nowhere (none: fixed topology)"
        ),
    )
    every: PositiveInt = Field(200, description="updates between changes of the topology")
    initial_share: Fraction = Field(
        0.5,
        description=(
            "share of a layer's weights that the first change replaces; it then falls like a cosine"
        ),
    )
    last: PositiveInt = Field(20_000, description="number of updates after which the topology stays fixed")
    inference: InferenceForm = Field(
        "auto",
        description=(
            "multiply by all weights (dense), by the active weights (sparse), or by the form that was "
            "measured to be faster for each layer (auto)"
        ),
    )
    training: Literal["dense", "sparse"] = Field(
        "dense",
        description=(
            "form in which learners multiply by the weights of the GRU; sparse is faster for wide GRUs"
        ),
    )


class AgentNetworkConfig(NetworkConfig):
    """Shape of the agents' networks in value-based algorithms: recurrent by default, as in PyMARL."""

    hidden: tuple[Width, ...] = Field((64,), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = Field(
        "relu", description="activation function of the hidden layers"
    )
    recurrent: bool = Field(True, description="put a GRU between the hidden layers and the action values")
    dueling: bool = Field(
        False,
        description=(
            "compute action values as a state value plus advantages, whose mean over the allowed actions is 0"
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
