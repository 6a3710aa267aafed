"""The section `algo`: one model for each algorithm, and the models of its networks and replay.

A new algorithm is a class here and a member of the union `Algo`.
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
    activation: Literal["tanh", "relu"] = "tanh"
    recurrent: bool = Field(False, description="put a GRU between the hidden layers and the policy head")
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
    discount: Annotated[float, Field(gt=0, le=1)] = 0.99
    network: NetworkConfig = section(NetworkConfig)

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
        False, description="networks see their inputs in units of their spread so far"
    )
    normalisation_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.001, description="share of each update in what `so far` means"
    )
    reward_scale: PositiveFloat = Field(
        1.0, description="rewards are multiplied by this before learning (not in reports)"
    )


class ActorCriticConfig(ValueLearningConfig):
    """Keys of all actor-critic algorithms."""

    trajectory_unit: ClassVar[Literal["unroll", "episode"]] = "unroll"
    unroll: Count = Field(25, description="steps of one unroll, T")
    critic: Literal["joint_observation", "state", "independent"] = Field(
        "joint_observation",
        description="critic on all observations, on the environment's state, or one per agent",
    )
    critic_network: NetworkConfig | None = Field(
        None,
        description=(
            "default: the shape of `network`, without recurrence; recurrent: true gives the critics "
            "of ma_trace and ppo a memory"
        ),
    )
    trace_lambda: Fraction = Field(1.0, description="lambda of the trace")
    value_cost: NonNegative = 0.25
    value_loss: Literal["squared", "huber"] = Field(
        "squared",
        description=(
            "of the critic's error e, in units of its outputs: e^2, or (huber) beyond huber_delta "
            "only 2 delta |e| - delta^2"
        ),
    )
    huber_delta: PositiveFloat = Field(
        10.0, description="where the Huber loss becomes linear (MAPPO's authors: 10)"
    )
    entropy_cost: NonNegative = Field(
        0.01, description="the entropy bonus; the initial one where target_entropy is set"
    )
    entropy_cost_final: NonNegative = Field(
        0.0, description="what entropy_cost falls to, where entropy_cost_steps says so"
    )
    entropy_cost_steps: Natural = Field(
        0, description="environment steps of the run over which entropy_cost falls linearly; 0: it stays"
    )
    target_entropy: Fraction | None = Field(
        None,
        description="learn the entropy cost towards this share of the maximum entropy (discrete actions)",
    )
    entropy_cost_rate: PositiveFloat = Field(
        0.1, description="scale of the entropy cost's own gradient (Lagrange rule)"
    )
    normalise_advantages: bool = Field(
        False, description="advantages of mean 0 and deviation 1 in each gradient"
    )
    normalise_values: bool = Field(
        False, description="critics predict values in units of the spread of their targets so far"
    )
    agent_id: bool = Field(
        False,
        description="append to an observation which agent of its policy sees it (critic: independent, too)",
    )

    @property
    def common_reward(self) -> CommonReward:
        return "none" if self.critic == "independent" else "policy"


class ValueCriticConfig(ActorCriticConfig):
    """Keys of MA-Trace and PPO, whose critics estimate the value of observations or states."""

    critic_input: Literal["team", "agent"] = Field(
        "team",
        description="what critics joint_observation and state see: the same for all agents (one value), or "
        "with the own "
        "observation of an agent behind it (a value for each; MAPPO's agent-specific global state)",
    )


class MATraceConfig(ValueCriticConfig):
    """MA-Trace (arXiv 2111.11229): V-trace with importance ratios of the team or of each agent."""

    name: Literal["ma_trace"] = "ma_trace"
    ratios: Literal["joint", "agent"] | None = Field(
        None,
        description=(
            "importance ratios of the team or of each agent; default: joint, with critic: independent: agent"
        ),
    )
    teams: Literal["auto"] | tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        "auto",
        description=(
            "policies that a joint ratio covers together, one list a team; auto: those with one "
            "reward (env.common_reward), others alone"
        ),
    )
    rho_max: PositiveFloat = Field(
        1.0, description="clip of the ratio in the temporal difference and the advantage"
    )
    c_max: PositiveFloat = Field(1.0, description="clip of the ratio in the trace")
    importance_sampling: bool = Field(True, description="false sets all ratios to 1 (ablation)")
    reuse: PositiveInt = Field(
        1, description="how many gradients each rollout takes part in (ratios correct its age)"
    )


class COMAConfig(ActorCriticConfig):
    """COMA (arXiv 1705.08926): counterfactual advantages from a central critic of joint actions."""

    name: Literal["coma"] = "coma"
    trace_lambda: Fraction = Field(0.8, description="lambda of the critic's TD(lambda) targets")
    target_every: PositiveInt = Field(
        200, description="versions after which the target network becomes a copy of the present one"
    )
    rho_max: PositiveFloat = Field(
        1.0, description="clip of the importance ratio that a decision's gain is weighed with"
    )


class PPOConfig(ValueCriticConfig):
    """PPO (arXiv 1707.06347): IPPO with critic: independent, else MAPPO."""

    name: Literal["ppo"] = "ppo"
    trace_lambda: Fraction = Field(0.95, description="lambda of the generalised advantage estimation")
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="epsilon: beyond 1 ± epsilon a ratio gains nothing"
    )
    epochs: PositiveInt = Field(5, description="how often each batch is gone through")
    minibatches: PositiveInt = Field(
        1,
        description=(
            "random parts of a batch, each a gradient of rounds.batch trajectories; a batch has as "
            "many trajectories as all of them"
        ),
    )
    value_cost: NonNegative = 0.5
    advantages: Literal["each_pass", "once"] = Field(
        "each_pass",
        description="made, with the critic's targets, of the values of each gradient's parameters, or once "
        "of those at the batch's beginning and normalised over the whole batch (MAPPO's authors: once)",
    )
    value_clip: PositiveFloat | None = Field(
        None,
        description="epsilon, in units of the critic's outputs: the larger loss of the value and of one cut "
        "off epsilon from that of the batch's beginning (MAPPO's authors: 0.2); null: not cut off",
    )
    kl_target: PositiveFloat | None = Field(
        None,
        description="once a gradient finds a larger approximate KL between the policies that sampled and the "
        "present ones, its learner leaves out the rest of the batch; null: never (as MAPPO's authors)",
    )
    normalise_advantages: bool = Field(
        True, description="advantages of mean 0 and deviation 1 in each gradient"
    )


class DynamicReplayConfig(Section):
    """Replay of dynamic capacity (RLx2, arXiv 2205.15043).

    If the oldest episodes differ much from the present policy, the oldest tenth of the replay is removed.
    """

    every: Count = Field(
        400, description="new episodes after which the oldest are looked at (RLx2: 10,000 steps)"
    )
    oldest: Count = Field(64, description="how many of the oldest are looked at (RLx2: 2,048 steps)")
    distance: Fraction = Field(
        0.5,
        description=(
            "share of their actions that are no longer the best, above which they leave (RLx2, "
            "continuous actions: 0.2)"
        ),
    )
    least: Count = Field(500, description="episodes that always stay (RLx2: a tenth of the capacity)")


class PriorityConfig(Section):
    """Prioritised replay (arXiv 1511.05952).

    Episodes with large temporal-difference errors are drawn more often. Importance weights correct for that.
    """

    alpha: Fraction = Field(0.6, description="exponent of the priorities: 0 draws all alike (R2D2: 0.9)")
    beta: Fraction = Field(
        0.4,
        description=(
            "exponent of the importance weights at the run's beginning: 1 corrects the draws in full "
            "(R2D2: 0.6)"
        ),
    )
    beta_steps: PositiveInt = Field(
        1_000_000, description="environment steps of the run over which it rises linearly to 1"
    )
    max_share: Fraction = Field(
        0.9,
        description=(
            "priority: this share of an episode's largest temporal-difference error, the rest of the "
            "mean (R2D2)"
        ),
    )


class ReplayConfig(Section):
    """Replay buffer of finished episodes; each learner has one for the episodes of its actors."""

    episodes: Count = Field(5000, description="episodes that a learner keeps; the oldest leave")
    megabytes: PositiveFloat = Field(2048.0, description="or so many megabytes, whichever is reached first")
    learning_starts: Count = Field(
        32, description="episodes that a learner waits for before its first gradient"
    )
    samples_per_insert: PositiveFloat = Field(
        32.0,
        description=(
            "how often, on average, an episode may be learned from; then the learner waits for new ones"
        ),
    )
    recent: Natural = Field(
        0,
        description=(
            "MAST's second buffer: part of each gradient comes from so many newest episodes; 0: none "
            "(MAST: 128)"
        ),
    )
    recent_share: Fraction = Field(0.375, description="how large that part is (MAST: 12 of 32)")
    dynamic: DynamicReplayConfig | None = Field(
        None, description="let the oldest episodes leave early, as RLx2 does; null: never"
    )
    priority: PriorityConfig | None = Field(
        None, description="draw by temporal-difference errors instead of all alike; null: all alike"
    )
    save: Literal["stop", "checkpoint", "never"] = Field(
        "stop",
        description=(
            "when it is written to replay/ in the run directory; deterministic runs: with every checkpoint"
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
            "where weights come back: the largest gradient (MAST, RigL, RLx2), anywhere (SET), "
            "nowhere (static)"
        ),
    )
    every: PositiveInt = Field(200, description="updates after which weights leave and come")
    initial_share: Fraction = Field(
        0.5, description="share of a layer's weights that changes at first; it falls like a cosine"
    )
    last: PositiveInt = Field(20_000, description="updates after which the topology stays")
    inference: InferenceForm = Field(
        "auto",
        description=(
            "multiply by all weights, by those that are there, or layer by layer by what was measured quicker"
        ),
    )
    training: Literal["dense", "sparse"] = Field(
        "dense", description="form in which the recurrence learns; sparse is quicker where it is wide"
    )


class AgentNetworkConfig(NetworkConfig):
    """Shape of the agents' networks in value-based algorithms: recurrent by default, as in PyMARL."""

    hidden: tuple[Width, ...] = Field((64,), max_length=64, description="units of each hidden layer")
    activation: Literal["tanh", "relu"] = "relu"
    recurrent: bool = Field(True, description="put a GRU between the hidden layers and the action values")
    dueling: bool = Field(
        False,
        description=(
            "action values are a value of what is seen and advantages, of mean 0 over the allowed actions"
        ),
    )


class QLearningConfig(ValueLearningConfig):
    """Keys of all value-based algorithms: agents, replay, targets and exploration."""

    gradient_episodes: ClassVar[int] = 32
    network: AgentNetworkConfig = section(AgentNetworkConfig)
    agent_id: bool = Field(True, description="append to an observation which agent of its policy sees it")
    obs_last_action: bool = Field(
        False,
        description="append to an observation the agent's last action in the episode, one-hot (PyMARL: true)",
    )
    double_q: bool = Field(
        True, description="the present network chooses the next action, the target network values it"
    )
    target_every: PositiveInt = Field(
        200, description="versions after which the target network becomes a copy of the present one"
    )
    target_rate: Fraction | None = Field(
        None, description="instead: it moves by this share of the way at every version"
    )
    trace_lambda: Fraction = Field(
        0.0, description="lambda of the TD(lambda) targets; 0: one step (MAST: 0.6 to 0.8)"
    )
    trace_from: Natural = Field(
        0, description="environment steps of the run before which lambda is 0 (MAST's hybrid targets: 750000)"
    )
    n_step: Count = Field(
        1,
        description=(
            "rewards in a target before the next value; above 1 in place of trace_lambda, which must be 0"
        ),
    )
    epsilon_start: Fraction = Field(1.0, description="share of random actions at the run's beginning")
    epsilon_final: Fraction = 0.05
    epsilon_steps: PositiveInt = Field(
        50_000, description="environment steps of the run over which it falls linearly"
    )
    replay: ReplayConfig = section(ReplayConfig)
    sparse: SparseConfig | None = Field(
        None, description="sparse training of all weight matrices of agents and mixers"
    )

    @property
    def common_reward(self) -> CommonReward:
        return "all"


class OperatorConfig(QLearningConfig):
    """Keys of the operator that turns action values into the value of the next step."""

    operator: Literal["max", "mellowmax"] = Field(
        "max", description="mellowmax: MAST's soft mellowmax of each agent's target values"
    )
    mellowmax_omega: PositiveFloat = Field(
        5.0, description="omega of the soft mellowmax: for returns of about 20, larger for smaller ones"
    )
    mellowmax_alpha: NonNegative = Field(1.0, description="alpha of the soft mellowmax, in the same way")


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
            "what the mixer sees: the environment's state, or all observations joined; auto: the "
            "state where there is one"
        ),
    )
    mixing_width: Width = Field(32, description="hidden units of the mixing network")
    hypernetwork_width: Width = Field(64, description="hidden units of the networks that make its weights")
    hypernetwork_activation: Literal["relu", "tanh"] = Field(
        "relu",
        description=(
            "of these networks; tanh bounds the weights, where states have no bounds: with relu "
            "values can diverge there"
        ),
    )


class QMIXConfig(OperatorConfig, MixingConfig):
    """QMIX (arXiv 1803.11485): a monotonic network mixes the agents' values."""

    name: Literal["qmix"] = "qmix"


class WQMIXConfig(OperatorConfig, MixingConfig):
    """Weighted QMIX (arXiv 2006.10800): CW-QMIX or OW-QMIX."""

    name: Literal["wqmix"] = "wqmix"
    weighting: Literal["central", "optimistic"] = Field("optimistic", description="CW-QMIX or OW-QMIX")
    weight: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None,
        description="alpha, of the joint actions that count less; default: 0.5, with central weighting 0.75",
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
            "inverse temperature of the softmax over joint actions: values that differ by 1/beta weigh 1 to e"
        ),
    )
    regularisation: NonNegative = Field(
        0.05, description="lambda, the weight of the distance to the discounted return"
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
