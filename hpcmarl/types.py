"""Data types of the batch interface: observations, decisions, outcomes, rollouts and gradients.

The shapes of all arrays are defined in this module. It imports numpy only. Letters in the shapes:

    T  steps of an unroll              E  environment slots that are stepped together
    N  agents of one policy            A  number of actions (the sum over components if multi-discrete)
    S  size of the environment state   H  size of the memory of an acting policy
    K  truncated episodes in a rollout U  units with a value: 1 (a team) or N (agents)
    P  number of parameters
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Array = NDArray[Any]
PartKind = Literal["actor", "critic", "cost"]

UNNUMBERED = -1


@dataclass(frozen=True)
class ActionSpace:
    """Action space of one agent.

    Attributes:
        kind: Kind of the space.
        sizes: (A,) for discrete actions; one number for each component for multi-discrete ones; (D,) for
            continuous ones, dimensions flattened.
        low: Least value of each dimension, D finite floats, for continuous actions; else empty.
        high: Largest value of each dimension, as `low`.
    """

    kind: Literal["discrete", "multi_discrete", "continuous"]
    sizes: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: () if discrete, (components,) if multi-discrete, else (D,)."""
        if self.kind == "discrete":
            return ()
        return (len(self.sizes),) if self.kind == "multi_discrete" else (self.sizes[0],)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of actions: int64 for discrete and multi-discrete ones, float32 for continuous ones."""
        return np.dtype(np.float32) if self.kind == "continuous" else np.dtype(np.int64)

    def holds(self, actions: Array) -> bool:
        """Return whether all actions [..., *shape] are in the space; bounds are compared in float32."""
        if self.kind == "continuous":
            low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
            return bool(((actions >= low) & (actions <= high)).all())
        limits = np.asarray(self.sizes if self.kind == "multi_discrete" else self.sizes[0])
        return bool(((actions >= 0) & (actions < limits)).all())

    @property
    def mask_size(self) -> int:
        """Length of an action mask: A for (multi-)discrete actions, 0 for continuous ones."""
        return 0 if self.kind == "continuous" else sum(self.sizes)


@dataclass(frozen=True)
class ObservationPart:
    """One entry of an observation of a Dict or Tuple space.

    Attributes:
        key: Key in the space; the place of an entry of a Tuple. Keys of nested spaces are joined by "/".
        shape: Shape of the entry.
        dtype: Name of its numpy type, such as "uint8".
    """

    key: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of values in the entry."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class PolicySpec:
    """Agents that share one set of parameters and the same observation and action spaces.

    Arrays of observations have the shape [..., *observation_shape] and the type `observation_dtype`.
    Observations of Dict and Tuple spaces are records: a structured type with one field for each key, and the
    shape [...].

    Attributes:
        name: Name of the policy.
        agents: Names of its agents.
        observation_shape: Shape of the observation of one agent; () for records. The environment adapter
            one-hot encodes observations of a Discrete space.
        action: Action space of each agent.
        has_mask: Whether the environment gives action masks.
        observation_type: Name of the numpy type of an observation that is no record.
        observation_parts: Entries of a record; empty if an observation is one array.
    """

    name: str
    agents: tuple[str, ...]
    observation_shape: tuple[int, ...]
    action: ActionSpace
    has_mask: bool = False
    observation_type: str = "float32"
    observation_parts: tuple[ObservationPart, ...] = ()

    @cached_property
    def observation_dtype(self) -> np.dtype[Any]:
        """Data type of arrays of observations; structured for records."""
        if not self.observation_parts:
            return np.dtype(self.observation_type)
        return np.dtype([(part.key, part.dtype, part.shape) for part in self.observation_parts])

    @property
    def observation_size(self) -> int:
        """Number of values in one observation, in all of its parts."""
        if self.observation_parts:
            return sum(part.size for part in self.observation_parts)
        return int(np.prod(self.observation_shape, dtype=np.int64))


@dataclass(frozen=True)
class EnvironmentSpec:
    """Policies, state and reward structure of an environment.

    Attributes:
        id: Name of the environment.
        policies: Policies that act in it.
        state_size: S; None if the environment has no state.
        turn_based: Whether agents act one after another.
        constant_sum: Whether the sum of the rewards of all agents is known to be the same in every episode,
            as in zero-sum games.
        teams: Groups of policies whose agents are known to share one reward. A policy outside all teams may
            have separate rewards.
    """

    id: str
    policies: tuple[PolicySpec, ...]
    state_size: int | None
    turn_based: bool
    constant_sum: bool = False
    teams: tuple[tuple[str, ...], ...] = ()

    def policy(self, name: str) -> PolicySpec:
        """Return the policy with this name."""
        return next(policy for policy in self.policies if policy.name == name)

    def tree(self) -> dict[str, Any]:
        """Return the specification as plain values, to send to other ranks."""
        return asdict(self)

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> EnvironmentSpec:
        """Return the specification that `tree` was made from; lists may stand in place of tuples."""
        policies = []
        for policy in tree["policies"]:
            action = policy["action"]
            space = ActionSpace(
                action["kind"], tuple(action["sizes"]), tuple(action["low"]), tuple(action["high"])
            )
            policies.append(
                PolicySpec(
                    policy["name"],
                    tuple(policy["agents"]),
                    tuple(policy["observation_shape"]),
                    space,
                    policy["has_mask"],
                    policy["observation_type"],
                    tuple(
                        ObservationPart(part["key"], tuple(part["shape"]), part["dtype"])
                        for part in policy["observation_parts"]
                    ),
                )
            )
        return cls(
            **{**tree, "policies": tuple(policies), "teams": tuple(tuple(team) for team in tree["teams"])}
        )


@dataclass
class PolicyFrame:
    """Observations of the agents of one policy before a step.

    The arrays are views into a rollout, which the environment writes in place.

    Attributes:
        obs: [E, N, *observation_shape] of the policy's `observation_dtype`; valid for every living agent,
            zero for dead or absent ones.
        alive: [E, N] bool; whether the agent acts at this step. In a turn-based game: whether it is its turn.
        action_mask: [E, N, A] bool, allowed actions, or None. All true for an acting agent if the environment
            gives no mask for it.
    """

    obs: Array
    alive: BoolArray
    action_mask: BoolArray | None = None


@dataclass
class Frame:
    """Observations of all policies before a step.

    Attributes:
        policies: Observations by policy.
        state: [E, S] float32, or None.
        episode_start: [E] bool; whether this is the first step of an episode.
    """

    policies: dict[str, PolicyFrame]
    state: FloatArray | None
    episode_start: BoolArray


@dataclass
class PolicyOutcome:
    """Rewards and endings of the agents of one policy after a step.

    In a turn-based game the reward of an agent is written at the step that earned it, even if the agent did
    not act.

    Attributes:
        reward: [E, N] float32.
        terminated: [E, N] bool. An agent that acted in the episode is marked as terminated or truncated when
            it dies, or else at the last step.
        truncated: [E, N] bool; as `terminated`.
    """

    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray


@dataclass
class FinalFrame:
    """Last observations of a truncated episode, taken before its slot was reset.

    Values are bootstrapped from them.

    Attributes:
        slot: Index of the slot.
        obs: Policy -> [N, *observation_shape] of the policy's `observation_dtype`.
        state: [S] float32, or None.
    """

    slot: int
    obs: dict[str, Array]
    state: FloatArray | None


@dataclass
class Episode:
    """One finished episode.

    Attributes:
        slot: Slot in which it ran.
        index: Index of the episode in its slot.
        length: Number of steps.
        return_mean: Sum over steps of the mean reward over all agents.
        returns: Policy -> sum over steps of the mean reward over its agents.
        terminated: Whether it terminated; else it was truncated.
        outcome: Numbers that the environment reported, such as "win".
    """

    slot: int
    index: int
    length: int
    return_mean: float
    returns: dict[str, float]
    terminated: bool
    outcome: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """Results of one step of all slots.

    Attributes:
        policies: Rewards and endings by policy.
        episode_end: [E] uint8: 0 the episode continues, 1 it terminated, 2 it was truncated.
        finals: Last observations of the episodes that were truncated in this step.
        episodes: Episodes that ended in this step. Like `finals`, cleared and filled again at each step.
    """

    policies: dict[str, PolicyOutcome]
    episode_end: NDArray[np.uint8]
    finals: list[FinalFrame] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)


@dataclass
class Decision:
    """Actions of one policy for all slots.

    Attributes:
        action: [E, N, *action.shape].
        logp: [E, N] float32, log probabilities of the actions, 0 for agents that do not act; or None.
        memory: [E, N, H], recurrent memory after the decision; or None.
    """

    action: Array
    logp: FloatArray | None
    memory: FloatArray | None = None


@dataclass
class PolicyRollout:
    """Data of one policy in a rollout.

    The last row of `obs`, `alive` and `action_mask` is the first step of the next unroll.

    Attributes:
        obs: [T+1, E, N, *observation_shape] of the policy's `observation_dtype`.
        alive: [T+1, E, N] bool.
        action: [T, E, N, *action.shape].
        logp: [T, E, N] float32, log probabilities under the behaviour policy.
        reward: [T, E, N] float32.
        terminated: [T, E, N] bool.
        truncated: [T, E, N] bool.
        final_obs: [K, N, *observation_shape] of the same type, last observations of truncated episodes, in
            the order of `Rollout.final_index`.
        action_mask: [T+1, E, N, A] bool, or None.
        memory: [E, N, H] float32, recurrent memory of the policy before step 0 (nets/policy.py); or None.
        critic_memory: [E, U, H'] float32, memory of a recurrent critic before step 0; or None. The learner
            adds it; it is never sent.
    """

    obs: Array
    alive: BoolArray
    action: Array
    logp: FloatArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    final_obs: Array
    action_mask: BoolArray | None = None
    memory: FloatArray | None = None
    critic_memory: FloatArray | None = None


@dataclass
class CriticRecord:
    """Outputs of a critic for a rollout, recorded at the start of a batch that is used for several passes.

    Attributes:
        outputs: [T, E, U] float32; 0 in rows without a value.
        targets: [T, E, U] float32, targets of the values; None if each gradient computes its own.
        counted: [T, E, U] float32; 1 in rows that are used for learning, else 0; None as `targets`.
        advantages: [T, E, N] float32; 0 where the agent does not act; None as `targets`.
    """

    outputs: FloatArray
    targets: FloatArray | None = None
    counted: FloatArray | None = None
    advantages: FloatArray | None = None


@dataclass
class Rollout:
    """E unrolls of T steps that one actor sampled together under one version of the parameters.

    An algorithm that counts whole episodes gets rollouts with E = 1 and T = the length of the episode.

    Attributes:
        policies: Data by policy.
        episode_start: [T+1, E] bool.
        episode_end: [T, E] uint8: 0 the episode continues, 1 it terminated, 2 it was truncated.
        final_index: [K, 2] int32; (step, slot) of the last step of each truncated episode.
        first_step: [E] int64; index, within its episode, of step 0 of each slot.
        episode: [E] int64; index of the episode to which step 0 belongs.
        slots: [E] int64; numbers of the slots on their rank.
        workers: [E] int32; numbers of the workers, among those of the actor, that stepped the slots; -1: the
            actor itself.
        version: Version of the parameters.
        actor: Number of the actor.
        state: [T+1, E, S] float32, or None.
        final_state: [K, S] float32, or None.
        episodes: Episodes that ended in the rollout.
        number: Place of a whole episode in the order in which the episodes of its actor began under
            `version`; UNNUMBERED if that order does not matter.
        records: Critic outputs by policy, kept for a batch (`Algorithm.begin_batch`) or None; never sent.
        pieces: Whether only step 0 of each slot is learned from (rollouts/pieces.py); never sent.
    """

    policies: dict[str, PolicyRollout]
    episode_start: BoolArray
    episode_end: NDArray[np.uint8]
    final_index: NDArray[np.int32]
    first_step: IntArray
    episode: IntArray
    slots: IntArray
    workers: NDArray[np.int32]
    version: int
    actor: int
    state: FloatArray | None = None
    final_state: FloatArray | None = None
    episodes: list[Episode] = field(default_factory=list)
    number: int = UNNUMBERED
    records: dict[str, CriticRecord] | None = None
    pieces: bool = False

    @property
    def steps(self) -> int:
        """Number of steps, T."""
        return int(self.episode_end.shape[0])

    @property
    def count(self) -> int:
        """Number of trajectories, E, that the rollout adds to the batch of a round."""
        return int(self.episode_end.shape[1])


@dataclass(frozen=True)
class Layer:
    """Place of a weight matrix in the parameter vector.

    Attributes:
        place: Slice of the parameter vector.
        shape: (outputs, inputs).
    """

    place: slice
    shape: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A slice of the parameter vector that is optimised separately from the others (optim/base.py).

    Attributes:
        policy: Name of the policy to which it belongs.
        kind: `actor`: the acting network and everything that is trained with it by one loss (mixers);
            `critic`; `cost`: a learned entropy cost.
        place: Slice of the parameter vector.
    """

    policy: str
    kind: PartKind
    place: slice


@dataclass
class Gradient:
    """Sum of an ascent direction over some trajectories.

    Attributes:
        group: Group that computed it.
        version: Version of the parameters at which it was taken.
        count: Number of trajectories in the sum.
        vector: [P] float32; None if only the count is sent (AllReduce).
        env_steps: Environment steps that were used for it.
        agent_steps: Agent steps that were used for it.
        staleness: Sum of the ages of its trajectories in versions; divide by `count` for the mean.
        statistics: Numbers that the algorithm reports, by name.
        summed: Whether the learner has already added the vector to its share of the sum of that round
            (AllReduce).
    """

    group: int
    version: int
    count: int
    vector: FloatArray | None
    env_steps: int = 0
    agent_steps: int = 0
    staleness: float = 0.0
    statistics: dict[str, float] = field(default_factory=dict)
    summed: bool = False


def fields_of(obs: Array) -> dict[str, Array]:
    """Return views of the entries of observations by key; the key "" stands for those that are one array."""
    names = obs.dtype.names
    return {"": obs} if names is None else {name: obs[name] for name in names}


def flat_observations(obs: Array, leading: int) -> FloatArray:
    """Return observations as float32 rows [..., observation_size]; a view if they are float32 already.

    Args:
        obs: Observations, shape [..., *observation_shape] of any type. Entries of records follow each other.
        leading: Number of dimensions before the observation.
    """
    shape = obs.shape[:leading]
    parts = [part.reshape(*shape, math.prod(part.shape[leading:])) for part in fields_of(obs).values()]
    first, *others = [part.astype(np.float32, copy=False) for part in parts]
    return np.concatenate([first, *others], -1) if others else first
