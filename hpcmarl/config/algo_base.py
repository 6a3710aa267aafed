"""Keys and properties that algorithms share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from hpcmarl.config.base import (
    Fraction,
    PositiveFloat,
    PositiveInt,
    Section,
    section,
)
from hpcmarl.config.networks import NetworkConfig, SparseConfig
from hpcmarl.config.replay import ReplayConfig

# Agents whose mean reward an agent learns from: all agents, those of its policy, or the agent alone (none).
CommonReward = Literal["all", "policy", "none"]


class MinibatchPasses(NamedTuple):
    """Passes over one batch, and the number of random parts in each pass."""

    epochs: int
    minibatches: int


class AlgoConfig(Section):
    """Keys and properties of all algorithms.

    Attributes:
        trajectory_unit: What one trajectory is: an unroll or a whole episode.
        is_on_policy: Whether the algorithm learns only from trajectories sampled with the newest parameters.
        has_critics: Whether critics are parts of their own, with their own step size.
        has_random_share: Whether agents take a share of random actions, which `epsilon` of a worker replaces.
    """

    trajectory_unit: ClassVar[Literal["unroll", "episode"]] = "episode"
    is_on_policy: ClassVar[bool] = False
    has_critics: ClassVar[bool] = False
    has_random_share: ClassVar[bool] = False
    name: str = ""
    discount: Annotated[float, Field(gt=0, le=1)] = Field(
        0.99, description="discount factor of rewards, gamma"
    )
    network: NetworkConfig = section(NetworkConfig, "networks of the policies")

    @property
    def common_reward(self) -> CommonReward:
        """Agents whose mean reward each agent learns from."""
        return "none"

    @property
    def unroll_steps(self) -> int | None:
        """Steps of one unroll, T; None if trajectories are whole episodes."""
        return None

    @property
    def gradients_per_rollout(self) -> int:
        """Number of gradients that each rollout contributes to, one after the other (algo.reuse)."""
        return 1

    @property
    def minibatch_passes(self) -> MinibatchPasses | None:
        """Passes over each batch; None: rollouts are used in the order of their arrival."""
        return None

    @property
    def replay_section(self) -> ReplayConfig | None:
        """Replay of finished episodes from which the algorithm learns; None: it has none."""
        return None

    @property
    def decisions_per_target(self) -> int:
        """Decisions of an agent in a target before the next value (n_step)."""
        return 1

    @property
    def draws_steps(self) -> bool:
        """Whether gradients draw single steps from the replay; rounds then count steps, not episodes."""
        return False

    @property
    def gradient_draws(self) -> int:
        """Default number of trajectories that one gradient draws from the replay."""
        return 1

    @property
    def sparse_training(self) -> SparseConfig | None:
        """Sparse training of the networks; None: dense."""
        return None

    @property
    def appends_agent_id(self) -> bool:
        """Whether each observation is followed by the agent's number in its policy, one-hot."""
        return False

    @property
    def target_interval(self) -> int | None:
        """Versions between copies to the target network; None: no target network."""
        return None


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


class ReplayedConfig(ValueLearningConfig):
    """Keys of all algorithms with a replay and a target network: value-based ones, MADDPG and MASAC."""

    agent_id: bool = Field(
        True, description="append the agent's number in its policy, one-hot, to its observation"
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
    replay: ReplayConfig = section(ReplayConfig, "replay of finished episodes")

    @property
    def replay_section(self) -> ReplayConfig | None:
        return self.replay

    @property
    def gradient_draws(self) -> int:
        return 1024 if self.draws_steps else 32

    @property
    def appends_agent_id(self) -> bool:
        return self.agent_id

    @property
    def target_interval(self) -> int | None:
        return self.target_every
