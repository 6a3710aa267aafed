"""The batch vocabulary: what the environments show, what the policies do, what travels between roles. Shapes
stand here, once.

Every other package imports this one; it imports numpy alone and knows no transport, file, network or
environment library.

Letters in the shapes:
    T  steps of an unroll              E  environment slots stepped together
    N  agents of one policy            A  number of actions (the sum over components for multi-discrete ones)
    S  size of the environment state   H  size of an acting policy's memory      P  number of parameters
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
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
    """What an agent may do.

    `sizes` is (A,) for discrete actions, one number a component for multi-discrete ones, (D,) for continuous
    ones. `low` and `high` are tuples of D finite floats for continuous actions (dimensions flattened), empty
    otherwise.
    """

    kind: Literal["discrete", "multi_discrete", "continuous"]
    sizes: tuple[int, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: () for discrete actions, (components,) or (D,) otherwise."""
        if self.kind == "discrete":
            return ()
        return (len(self.sizes),) if self.kind == "multi_discrete" else (self.sizes[0],)

    @property
    def dtype(self) -> np.dtype[Any]:
        """int64 for discrete and multi-discrete actions, float32 for continuous ones."""
        return np.dtype(np.float32) if self.kind == "continuous" else np.dtype(np.int64)

    @property
    def mask_size(self) -> int:
        """Length of an action mask: A for discrete actions, the sum of the components for multi-discrete
        ones, else 0."""
        return 0 if self.kind == "continuous" else sum(self.sizes)


@dataclass(frozen=True)
class PolicySpec:
    """One policy group: agents that share observation and action spaces and one set of parameters."""

    name: str
    agents: tuple[str, ...]
    observation_shape: tuple[int, ...]  # float32; Discrete observations are one-hot encoded by the adapter
    action: ActionSpace
    has_mask: bool = False

    @property
    def observation_size(self) -> int:
        return int(np.prod(self.observation_shape, dtype=np.int64))


@dataclass(frozen=True)
class EnvironmentSpec:
    """What an environment is, seen from the policies. `state_size` is None where the environment has no
    state.

    constant_sum: all agents' rewards together are known to be the same in every episode, as in zero-sum
    games. teams: policies whose agents are known to have one reward, together; a policy that is in none may
    have rewards of its own.
    """

    id: str
    policies: tuple[PolicySpec, ...]
    state_size: int | None
    turn_based: bool
    constant_sum: bool = False
    teams: tuple[tuple[str, ...], ...] = ()

    def policy(self, name: str) -> PolicySpec:
        return next(policy for policy in self.policies if policy.name == name)

    def tree(self) -> dict[str, Any]:
        """Return the specification as plain values, for other ranks."""
        return asdict(self)

    @classmethod
    def of_tree(cls, tree: dict[str, Any]) -> EnvironmentSpec:
        """Return the specification that `tree` was made of; lists may stand for its tuples."""
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
                )
            )
        return cls(
            **{**tree, "policies": tuple(policies), "teams": tuple(tuple(team) for team in tree["teams"])}
        )


@dataclass
class PolicyFrame:
    """What one policy's agents see before a step. Views into a rollout: the environment writes them in place.

    obs [E, N, *observation_shape] float32: valid for every living agent, zeros for dead or absent ones; alive
    [E, N] bool: the agent takes an action at this step (in a turn-based game: it is its turn); action_mask
    [E, N, A] bool, or None: allowed actions; all true where the environment gives none for an acting agent.
    """

    obs: FloatArray
    alive: BoolArray
    action_mask: BoolArray | None = None


@dataclass
class Frame:
    """What all policies see before a step.

    state [E, S] float32 or None; episode_start [E] bool: this is the first step of an episode.
    """

    policies: dict[str, PolicyFrame]
    state: FloatArray | None
    episode_start: BoolArray


@dataclass
class PolicyOutcome:
    """What came of one policy's actions: reward [E, N] float32, terminated and truncated [E, N] bool.

    In a turn-based game every agent's reward is written at the step in which it was earned, acting or not. An
    agent that ever acted in an episode gets `terminated` or `truncated` at the step where it died, or at the
    last of the episode.
    """

    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray


@dataclass
class FinalFrame:
    """The last observations of an episode that was truncated, before the slot was reset: values are
    bootstrapped from them.

    obs: policy -> [N, *observation_shape] float32; state [S] float32 or None.
    """

    slot: int
    obs: dict[str, FloatArray]
    state: FloatArray | None


@dataclass
class Episode:
    """One finished episode. `returns` maps a policy to the sum over steps of the mean over its agents of the
    reward; `return_mean` is the same over all agents. `outcome` holds numbers the environment gave (for
    instance "win")."""

    slot: int
    index: int
    length: int
    return_mean: float
    returns: dict[str, float]
    terminated: bool
    outcome: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of one step of all slots. episode_end [E] uint8: 0 goes on, 1 terminated, 2 truncated.

    `finals` and `episodes` are filled anew at each step.
    """

    policies: dict[str, PolicyOutcome]
    episode_end: NDArray[np.uint8]
    finals: list[FinalFrame] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)


@dataclass
class Decision:
    """What one policy does: action [E, N, *action.shape], logp [E, N] float32 or None (0 where not alive),
    memory [E, N, H] or None."""

    action: Array
    logp: FloatArray | None
    memory: FloatArray | None = None


@dataclass
class PolicyRollout:
    """One policy's share of a rollout; the last row of obs, alive and action_mask is where the next unroll
    begins.

    obs [T+1, E, N, *observation_shape] float32    action [T, E, N, *action.shape]    logp [T, E, N] float32
        (behaviour)
    reward, terminated, truncated [T, E, N]        alive [T+1, E, N] bool             action_mask [T+1, E, N,
        A] bool or None
    final_obs [K, N, *observation_shape] float32: last observations of truncated episodes, placed by
    Rollout.final_index memory [E, N, H] float32 or None: what the policy remembers before step 0
    (nets/policy.py) critic_memory [E, U, H'] float32 or None: that of a recurrent critic, which the learner
    adds (U units with a value: 1 or N); never sent
    """

    obs: FloatArray
    alive: BoolArray
    action: Array
    logp: FloatArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    final_obs: FloatArray
    action_mask: BoolArray | None = None
    memory: FloatArray | None = None
    critic_memory: FloatArray | None = None


@dataclass
class CriticRecord:
    """What a policy's critic said of a rollout when a batch that is gone through several times began.

    outputs [T, E, U] float32, zero in rows without a value    (U units with a value: 1 for a team, or N
        agents)
    targets, counted [T, E, U] float32: of the values, and 1 in rows that are learned from, else 0; None where
    each gradient makes its own advantages [T, E, N] float32: of the agents, zero where they do not act; None
    likewise
    """

    outputs: FloatArray
    targets: FloatArray | None = None
    counted: FloatArray | None = None
    advantages: FloatArray | None = None


@dataclass
class Rollout:
    """E unrolls of T steps, sampled together by one actor under the parameters `version`.

    state [T+1, E, S] float32 or None          episode_start [T+1, E] bool         episode_end [T, E] uint8
        (0, 1, 2)
    final_index [K, 2] int32: (step, slot) of each truncated episode's last step    final_state [K, S] float32
        or None
    first_step [E] int64: index in its episode of each slot's step 0               episode [E] int64: that
        episode's index
    slots [E] int64: the slots' numbers in their rank records: by policy, where the algorithm keeps them for a
    batch (Algorithm.begin_batch); never sent number: place of a whole episode in the order in which its
    actor's episodes of `version` began; UNNUMBERED where that does not matter

    An algorithm that counts whole episodes gets rollouts of E = 1 and T = the episode's length.
    """

    policies: dict[str, PolicyRollout]
    episode_start: BoolArray
    episode_end: NDArray[np.uint8]
    final_index: NDArray[np.int32]
    first_step: IntArray
    episode: IntArray
    slots: IntArray
    version: int
    actor: int
    state: FloatArray | None = None
    final_state: FloatArray | None = None
    episodes: list[Episode] = field(default_factory=list)
    number: int = UNNUMBERED
    records: dict[str, CriticRecord] | None = None

    @property
    def steps(self) -> int:
        """T."""
        return int(self.episode_end.shape[0])

    @property
    def count(self) -> int:
        """E, the number of trajectories in a round's batch that this rollout stands for."""
        return int(self.episode_end.shape[1])


@dataclass(frozen=True)
class Layer:
    """A matrix of weights in the parameter vector: its slice, and its shape (outputs, inputs)."""

    place: slice
    shape: tuple[int, int]


@dataclass(frozen=True)
class Part:
    """A slice of the parameter vector that is optimised apart from the others (optim/base.py).

    kind: actor, what acts, with everything that one loss trains together with it (mixers); critic; cost, a
    learned entropy cost. policy: the name of the policy that it belongs to.
    """

    policy: str
    kind: PartKind
    place: slice


@dataclass
class Gradient:
    """The sum over `count` trajectories of an ascent direction at the parameters `version`. vector [P]
    float32.

    `vector` is None where only the count travels (AllReduce); `summed`: the learner adds it to its part of
    that round's sum. `env_steps` and `agent_steps` were used for it; `staleness` is the summed age in
    versions of its rollouts (for a mean, divide by count).
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
