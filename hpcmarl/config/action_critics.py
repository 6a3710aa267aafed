"""The section `algo` of MADDPG and MASAC, whose critics judge actions."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from hpcmarl.config.algo_base import CommonReward, ReplayedConfig
from hpcmarl.config.base import Count, Fraction, Natural, NonNegative, PositiveFloat, PositiveInt
from hpcmarl.config.networks import NetworkConfig


class ActionCriticConfig(ReplayedConfig):
    """Keys of MADDPG and MASAC: critics, target network and random actions at the start."""

    has_critics: ClassVar[bool] = True
    normalise_values: ClassVar[bool] = False
    critic: Literal["joint_observation", "state", "independent"] = Field(
        "joint_observation",
        description=(
            "critic of all agents' actions and observations (joint_observation) or of their actions and the "
            "environment's state (state), or of each agent's own action and observation (independent)"
        ),
    )
    critic_network: NetworkConfig | None = Field(
        None,
        description="networks of the critics, without recurrence; null: the shape of network without its GRU",
    )
    twin_critics: bool = Field(
        False, description="train two critics; targets take the smaller one of their values (TD3)"
    )
    target_rate: Fraction | None = Field(
        0.005,
        description=(
            "share of the distance by which the target network moves at every version; null: copies every "
            "target_every versions"
        ),
    )
    random_steps: Natural = Field(
        0, description="environment steps of the run before which agents act at random, uniformly"
    )

    @property
    def draws_steps(self) -> bool:
        if self.replay.draw is None:
            return not self.network.recurrent and self.replay.priority is None
        return self.replay.draw == "steps"

    @property
    def common_reward(self) -> CommonReward:
        return "none" if self.critic == "independent" else "policy"


class MADDPGConfig(ActionCriticConfig):
    """MADDPG (arXiv 1706.02275): deterministic policies; IDDPG with critic: independent."""

    name: Literal["maddpg"] = "maddpg"
    n_step: Count = Field(1, description="number of rewards in a target before the next value (D4PG: 5)")
    output_cost: NonNegative = Field(
        0.001,
        description="weight of the actors' mean squared outputs, before the squashing (authors' code: 0.001)",
    )
    noise_start: NonNegative = Field(
        0.8,
        description=(
            "deviation of the Gaussian noise of continuous actions at the start, in units of half their "
            "range (BenchMARL: 0.8)"
        ),
    )
    noise_final: NonNegative = Field(
        0.05, description="deviation of the noise after noise_steps (BenchMARL: 0.01)"
    )
    noise_steps: PositiveInt = Field(
        50_000, description="environment steps of the run over which the noise falls linearly"
    )

    @property
    def decisions_per_target(self) -> int:
        return self.n_step


class MASACConfig(ActionCriticConfig):
    """MASAC: soft actor-critic (arXiv 1801.01290, 1812.05905) for teams; ISAC with critic: independent."""

    name: Literal["masac"] = "masac"
    twin_critics: bool = Field(
        True, description="train two critics; targets and policies take the smaller one of their values"
    )
    entropy_cost: PositiveFloat = Field(
        1.0,
        description=(
            "alpha, the weight of the policies' entropy; its initial value if target_entropy is not null "
            "(BenchMARL: 1.0)"
        ),
    )
    target_entropy: Literal["auto"] | float | None = Field(
        "auto",
        description=(
            "entropy that the learned entropy_cost keeps: nats of an agent's actions scaled to -1..1, or "
            "the share of the largest entropy of discrete actions; auto: minus the dimensions of an action, "
            "or 0.2 (as BenchMARL); null: entropy_cost is not learned"
        ),
    )
    entropy_cost_rate: PositiveFloat = Field(
        1.0, description="scale of the gradient of a learned entropy_cost"
    )
