"""Plain torch loops of MADDPG and MASAC with continuous actions, for `hpcmarl bench learning`.

learning.py lists the letters of the shapes. All agents are of one policy and act until the episode ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributions import Normal
from torch.nn import functional

from hpcmarl.algos.batch import join
from hpcmarl.algos.episodes import episodes_of
from hpcmarl.bench.reference.learning import ReferenceLoop
from hpcmarl.bench.reference.networks import ReferenceAgent, multilayer
from hpcmarl.config import Config
from hpcmarl.errors import UsageError
from hpcmarl.types import Rollout


@dataclass
class Steps:
    """Stacked tensors of whole episodes of equal length.

    Attributes:
        obs: Inputs of the actors, [T+1, B, N, D].
        seen: Inputs of the critics without actions, [T+1, B, U, S].
        action: Actions scaled to -1..1, [T, B, N, A].
        reward: Scaled reward of each unit, [T, B, U].
        continues: 0 in rows that terminate, else 1, [T, B, 1].
    """

    obs: torch.Tensor
    seen: torch.Tensor
    action: torch.Tensor
    reward: torch.Tensor
    continues: torch.Tensor


class ReferenceActionCritic(ReferenceLoop):
    """Base of both loops: networks, stacking of inputs and the target network."""

    def __init__(self, config: Config, algorithm: Any) -> None:
        given: Any = config
        self.config = given.algo
        policy, network = algorithm.spec.policies[0], self.config.network
        self.action, self.central = policy.action, self.config.critic != "independent"
        size, agents = self.action.sizes[0], len(policy.agents)
        outputs = size if self.config.name == "maddpg" else 2 * size
        seen = algorithm.acting_inputs(policy.name)
        if self.central:
            observed = agents * policy.observation_size
            seen = algorithm.spec.state_size if self.config.critic == "state" else observed
        inputs = seen + size * (agents if self.central else 1)
        critic = self.config.critic_network or network
        parts: dict[str, nn.Module] = {
            "actor": ReferenceAgent(algorithm.acting_inputs(policy.name), outputs, network),
            "critic": nn.ModuleList(
                multilayer((inputs, *critic.hidden, 1), critic.activation)
                for _ in range(2 if self.config.twin_critics else 1)
            ),
        }
        if getattr(self.config, "target_entropy", None) is not None:
            parts["cost"] = nn.ParameterDict({"logarithm": nn.Parameter(torch.zeros(1))})
        super().__init__(config, algorithm, nn.ModuleDict(parts))
        self.every = None if self.config.target_rate is not None else self.config.target_every
        # the first draw is that of hpcmarl's first gradient
        self.generator = np.random.default_rng([config.seed, 1, 0])

    def stack(self, rollouts: Sequence[Rollout]) -> Steps:
        episodes = episodes_of(join(rollouts), self.algorithm.spec, self.algorithm.design.policies)
        part = episodes.parts[0]
        if not part.active.all():
            raise UsageError(
                "env.id: the bare loops of maddpg and masac need episodes of equal length, in which no agent "
                f"dies; {self.algorithm.spec.id} has others"
            )
        inputs = part.inputs
        assert isinstance(inputs, torch.Tensor)
        seen = inputs
        if self.config.critic == "state":
            assert episodes.state is not None
            seen = episodes.state.unsqueeze(-2)
        elif self.central:
            size = self.algorithm.spec.policies[0].observation_size
            seen = inputs[..., :size].flatten(-2).unsqueeze(-2)
        low, high = torch.tensor(self.action.low), torch.tensor(self.action.high)
        reward = torch.from_numpy(part.reward * np.float32(self.config.reward_scale))
        continues = 1.0 - torch.from_numpy((episodes.end == 1).astype(np.float32))
        return Steps(
            inputs,
            seen,
            2.0 * (part.action - low) / (high - low) - 1.0,
            reward.mean(-1, keepdim=True) if self.central else reward,
            continues.unsqueeze(-1),
        )

    def update(self, inputs: Steps) -> None:
        super().update(inputs)
        if (rate := self.config.target_rate) is not None:
            with torch.no_grad():
                for own, other in zip(self.target.parameters(), self.module.parameters(), strict=True):
                    own.lerp_(other, rate)

    def values(self, critics: Any, seen: torch.Tensor, action: torch.Tensor) -> list[torch.Tensor]:
        """Return the values [..., U] of actions [..., N, A] by each critic."""
        acted = action.flatten(-2).unsqueeze(-2) if self.central else action
        inputs = torch.cat([seen, acted], -1)
        return [critic(inputs).squeeze(-1) for critic in critics]

    def critic_loss(self, inputs: Steps, future: torch.Tensor) -> torch.Tensor:
        """Return the loss of the critics, whose next values are `future` [T, B, U]."""
        wanted = inputs.reward + self.config.discount * inputs.continues * future
        values = self.values(self.module["critic"], inputs.seen[:-1], inputs.action)
        return torch.stack([functional.mse_loss(value, wanted) for value in values]).sum()

    def judged(self, inputs: Steps, action: torch.Tensor) -> list[torch.Tensor]:
        """Return the values of the actors' actions; the critics are constants."""
        self.module["critic"].requires_grad_(False)
        values = self.values(self.module["critic"], inputs.seen[:-1], action)
        self.module["critic"].requires_grad_(True)
        return values


class ReferenceMADDPG(ReferenceActionCritic):
    """MADDPG and IDDPG."""

    def loss(self, inputs: Steps) -> torch.Tensor:
        with torch.no_grad():
            later = torch.tanh(self.target["actor"](inputs.obs[1:]))
            values = self.values(self.target["critic"], inputs.seen[1:], later)
            future = torch.stack(values).amin(0)
        raw = self.module["actor"](inputs.obs[:-1])
        gain = self.judged(inputs, torch.tanh(raw))[0].mean() - self.config.output_cost * raw.square().mean()
        loss: torch.Tensor = self.critic_loss(inputs, future) - gain
        return loss


class ReferenceMASAC(ReferenceActionCritic):
    """MASAC and ISAC."""

    def loss(self, inputs: Steps) -> torch.Tensor:
        learned = "cost" in self.module
        logarithm = self.module["cost"]["logarithm"][0] if learned else None
        alpha = self.config.entropy_cost if logarithm is None else float(logarithm.detach().exp())
        mean, spread = self.module["actor"](inputs.obs).chunk(2, -1)
        deviation = functional.softplus(spread + math.log(math.e - 1.0)) + 1e-3
        noise = torch.from_numpy(self.generator.standard_normal(tuple(mean.shape), dtype=np.float32))
        u = mean + deviation * noise
        slope = 2.0 * (math.log(2.0) - u - functional.softplus(-2.0 * u))
        logp = (Normal(mean, deviation).log_prob(u) - slope).sum(-1)  # type: ignore[no-untyped-call]
        action = torch.tanh(u)
        units = logp.mean(-1, keepdim=True) if self.central else logp
        with torch.no_grad():
            values = self.values(self.target["critic"], inputs.seen[1:], action[1:].detach())
            future = torch.stack(values).amin(0) - alpha * units[1:].detach()
        gain = (torch.stack(self.judged(inputs, action[:-1])).amin(0) - alpha * units[:-1]).mean()
        if logarithm is not None:
            auto = self.config.target_entropy == "auto"
            target = -float(self.action.sizes[0]) if auto else self.config.target_entropy
            missing = target + float(logp[:-1].detach().mean())
            gain = gain + self.config.entropy_cost_rate * missing * logarithm
        loss: torch.Tensor = self.critic_loss(inputs, future) - gain
        return loss
