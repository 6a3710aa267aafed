"""Plain torch loops as somebody would write them for one algorithm on one machine.

`hpcmarl bench learning` compares hpcmarl with them. They have the same networks with the same parameters in
the same order, and the same loss. The inputs are stacked already; each update is torch modules, torch's
autograd and a step of torch.optim. This module has the common parts and the value-based algorithms,
critics.py the actor-critics. A test compares the gradients with those of algos/. The loops support single
discrete actions and agents of one policy.

    T  steps                    N  agents                           A  actions
    B  trajectories             U  units with a value, 1 or N       S  length of the state
    T+1 rows include the closing row of each episode
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import join
from hpcmarl.algos.design import mixer_state, mixer_state_size
from hpcmarl.algos.episodes import episodes_of
from hpcmarl.bench.reference.networks import Observed, make_agent, multilayer
from hpcmarl.config import Config
from hpcmarl.errors import UsageError
from hpcmarl.maths.qlearning import greedy_actions, near_greedy, optimistic_weights, softmax_value, taken
from hpcmarl.types import FloatArray, Rollout


class ReferenceLoop(ABC):
    """A plain training loop.

    Attributes:
        module: The trained networks.
        target: Copy of `module`, updated every `algo.target_every` updates if the algorithm has that key.
        clips: Parameters, and the limit of their gradient's norm (None: no limit).
        every: Value of `algo.target_every`; None: the algorithm has no target networks.
    """

    def __init__(self, config: Config, algorithm: Algorithm, module: nn.Module) -> None:
        self.algorithm, self.updates = algorithm, 0
        self.module: Any = module
        vector_to_parameters(torch.from_numpy(algorithm.initial_parameters()), module.parameters())
        self.target: Any = copy.deepcopy(module).requires_grad_(False)
        self.optimizer = torch_optimizer(config, module)
        chosen: Any = config.optimizer
        self.clips: list[tuple[list[nn.Parameter], float | None]] = [
            (
                list(part.parameters()),
                chosen.max_gradient_norm_of_critics if name == "critic" else chosen.max_gradient_norm,
            )
            for name, part in _optimised_apart(module).items()
        ]
        self.every = config.algo.target_interval

    @abstractmethod
    def stack(self, rollouts: Sequence[Rollout]) -> Any:
        """Return the inputs of an update; this work is not timed."""

    @abstractmethod
    def loss(self, inputs: Any) -> torch.Tensor:
        """Return the mean loss over trajectories, differentiable."""

    def update(self, inputs: Any) -> None:
        """Make one step of torch.optim on the loss."""
        self.optimizer.zero_grad()
        self.loss(inputs).backward()  # type: ignore[no-untyped-call]
        for parameters, limit in self.clips:
            if limit is not None:
                clip_grad_norm_(parameters, limit)
        self.optimizer.step()
        self.updates += 1
        if self.every is not None and self.updates % self.every == 0:
            self.target.load_state_dict(self.module.state_dict())

    def gradient(self, inputs: Any) -> FloatArray:
        """Return the gradient of the loss, shape [P], in the order of the algorithm's parameter vector."""
        self.optimizer.zero_grad()
        self.loss(inputs).backward()  # type: ignore[no-untyped-call]
        return parameters_to_vector(
            [torch.zeros_like(own) if own.grad is None else own.grad for own in self.module.parameters()]
        ).numpy()


def torch_optimizer(config: Config, module: nn.Module) -> torch.optim.Optimizer:
    """Return torch's optimizer with the same settings and a constant step size.

    Raises:
        UsageError: torch has no such optimizer.
    """
    chosen: Any = config.optimizer
    size, critic_size = chosen.step_size, chosen.step_size_of_critics
    groups: list[dict[str, Any]] = [
        {"params": part.parameters(), "lr": critic_size if name == "critic" else size}
        for name, part in _optimised_apart(module).items()
    ]
    if chosen.name == "adam":
        return torch.optim.Adam(groups, size, (chosen.beta1, chosen.beta2), chosen.epsilon)
    if chosen.name == "rmsprop":
        return torch.optim.RMSprop(groups, size, chosen.decay, chosen.epsilon)
    if chosen.name == "sgd":
        return torch.optim.SGD(groups, size, chosen.momentum)
    raise UsageError(
        f"optimizer.name: torch has no {chosen.name} to compare with; use optimizer.name=adam, rmsprop or sgd"
    )


def _optimised_apart(module: nn.Module) -> dict[str, nn.Module]:
    """Return the parts that are clipped separately and have their own step size.

    They are the agent and the critic of an actor-critic; other algorithms are one part.
    """
    return dict(module.named_children()) if hasattr(module, "critic") else {"all": module}


class ReferenceMixer(nn.Module):
    """QMIX's mixing network: utilities [..., K, n] and state [..., S] -> [..., K]."""

    def __init__(self, agents: int, state: int, width: int, hyper: int, activation: str) -> None:
        super().__init__()
        self.agents, self.width = agents, width
        self.first = multilayer((state, hyper, agents * width), activation)
        self.second = multilayer((state, hyper, width), activation)
        self.bias = multilayer((state, width), activation)
        self.value = multilayer((state, width, 1), activation)

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        first = self.first(state).abs().unflatten(-1, (self.agents, self.width))
        hidden = functional.elu(utilities @ first + self.bias(state).unsqueeze(-2))
        values: torch.Tensor = (hidden @ self.second(state).abs().unsqueeze(-1)).squeeze(-1) + self.value(
            state
        )
        return values


class ReferenceCentral(nn.Module):
    """WQMIX's unrestricted mixing network, with the same shapes."""

    def __init__(self, agents: int, state: int, width: int) -> None:
        super().__init__()
        self.mixed = multilayer((state + agents, width, width, width, 1), "relu")
        self.value = multilayer((state, width, 1), "relu")

    def forward(self, utilities: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        seen = state.unsqueeze(-2).expand(*utilities.shape[:-1], state.shape[-1])
        values: torch.Tensor = self.mixed(torch.cat([seen, utilities], -1)).squeeze(-1) + self.value(state)
        return values


@dataclass
class Stacked:
    """Stacked tensors of a batch of episodes.

    Attributes:
        obs: Inputs of the agents, [T+1, B, N, ...].
        alive: Agents that act, [T+1, B, N].
        mask: Allowed actions, [T+1, B, N, A]; None: all.
        action: Actions, [T, B, N].
        state: Environment state, [T+1, B, S]; None: not used.
        reward: Scaled reward of each unit, [T, B, U].
        counted: 1 in rows that hold a step, [T, B, U].
        goes_on: 0 in rows after which the return is zero, [T, B, U].
        ended: Whether an episode ends with the row, [T, B, U].
    """

    obs: Observed
    alive: torch.Tensor
    mask: torch.Tensor | None
    action: torch.Tensor
    state: torch.Tensor | None
    reward: torch.Tensor
    counted: torch.Tensor
    goes_on: torch.Tensor
    ended: torch.Tensor


class ReferenceValues(ReferenceLoop):
    """IQL, VDN, QMIX, WQMIX and RES."""

    def __init__(self, config: Config, algorithm: Any) -> None:
        given: Any = config
        self.config = given.algo
        self.name: str = self.config.name
        policy = algorithm.spec.policies[0]
        agents, shape = len(policy.agents), algorithm.design.policies[policy.name]
        parts: dict[str, nn.Module] = {"agent": make_agent(shape)}
        if self.name in ("qmix", "wqmix", "res"):
            state = mixer_state_size(algorithm.spec, mixer_state(algorithm.spec, self.config))
            widths = self.config.mixing_width, self.config.hypernetwork_width
            parts["mixer"] = ReferenceMixer(agents, state, *widths, self.config.hypernetwork_activation)
            if self.name == "wqmix":
                parts["central_mixer"] = ReferenceCentral(agents, state, self.config.central_width)
                parts["central_agent"] = make_agent(shape)
        super().__init__(config, algorithm, nn.ModuleDict(parts))

    def stack(self, rollouts: Sequence[Rollout]) -> Stacked:
        episodes = episodes_of(join(rollouts), self.algorithm.spec, self.algorithm.design.policies)
        part = episodes.parts[0]
        rows, given = part.alive.shape, part.inputs
        fields: list[Any] = [] if isinstance(given, torch.Tensor) else list(given.fields.values())
        inputs: Observed = (
            given
            if isinstance(given, torch.Tensor)
            else [
                value.view(*rows, *value.shape[1:])
                if isinstance(value, torch.Tensor)
                else {key: each.view(*rows, *each.shape[1:]) for key, each in value.items()}
                for value in fields
            ]
        )
        owner: Any = self.algorithm
        columns: Any = part if self.name == "iql" else owner._columns(episodes)
        state = owner._states(episodes) if "mixer" in self.module else None
        flags = [
            torch.from_numpy(array)
            for array in (columns.active, ~columns.terminated, columns.terminated | columns.truncated)
        ]
        reward = torch.from_numpy(columns.reward * np.float32(self.config.reward_scale))
        return Stacked(
            inputs,
            part.alive,
            part.mask,
            part.action,
            state,
            reward,
            flags[0].float(),
            flags[1].float(),
            flags[2],
        )

    def loss(self, inputs: Stacked) -> torch.Tensor:
        own, target = self.module, self.target
        inputs = replace(inputs, obs=own["agent"].prepare(inputs.obs))
        values = own["agent"](inputs.obs, inputs.mask)
        with torch.no_grad():
            later = target["agent"](inputs.obs, inputs.mask)
            greedy = greedy_actions(values if self.config.double_q else later, inputs.mask)
            if self.name == "wqmix":
                central_later = target["central_agent"](inputs.obs, inputs.mask)
                future = self._mixed(target["central_mixer"], inputs, taken(central_later, greedy))
            elif self.name == "res":
                future = self._near_greedy(inputs, values, later, greedy)
            else:
                future = self._mixed(getattr(target, "mixer", None), inputs, taken(later, greedy))
            targets = self._targets(inputs, future, self.config.trace_lambda, self.config.n_step)
        chosen = taken(values[:-1], inputs.action)
        total = self._mixed(getattr(own, "mixer", None), inputs, chosen)
        errors = (total - targets).square()
        if self.name == "res":
            with torch.no_grad():
                returns = self._targets(inputs, torch.zeros_like(future), 1.0)
            errors = errors + self.config.regularisation * (total - returns).square()
        if self.name == "wqmix":
            central = self._mixed(
                own["central_mixer"],
                inputs,
                taken(own["central_agent"](inputs.obs, inputs.mask)[:-1], inputs.action),
            )
            errors = (
                optimistic_weights(total.detach(), targets, self.config.alpha) * errors
                + (central - targets).square()
            )
        loss: torch.Tensor = (errors * inputs.counted).sum() / inputs.counted.sum()
        return loss

    def _mixed(self, mixer: Any, inputs: Stacked, utilities: torch.Tensor) -> torch.Tensor:
        """Mix utilities [rows, B, N] into values [rows, B, U]."""
        if self.name == "iql":
            return utilities
        present = utilities * inputs.alive[: len(utilities)]
        if mixer is None:
            return present.sum(-1, keepdim=True)
        assert inputs.state is not None
        mixed: torch.Tensor = mixer(present.unsqueeze(-2), inputs.state[: len(utilities)])
        return mixed

    def _near_greedy(
        self, inputs: Stacked, values: torch.Tensor, later: torch.Tensor, greedy: torch.Tensor
    ) -> torch.Tensor:
        assert inputs.state is not None
        state, active, actions = (array.flatten(0, 1) for array in (inputs.state, inputs.alive, greedy))
        mask = None if inputs.mask is None else inputs.mask.flatten(0, 1)
        joint, exists = near_greedy([later.flatten(0, 1)], [mask], [active], [actions])
        scores = totals = self.target["mixer"](joint, state)
        if self.config.double_q:
            scores = self.module["mixer"](
                near_greedy([values.flatten(0, 1)], [mask], [active], [actions])[0], state
            )
        return softmax_value(scores, totals, exists, self.config.softmax_beta).view(
            *inputs.state.shape[:2], 1
        )

    def _targets(
        self, inputs: Stacked, future: torch.Tensor, trace_lambda: float, n_step: int = 1
    ) -> torch.Tensor:
        gamma: float = self.config.discount
        after = future[1:] * inputs.goes_on
        if n_step > 1:
            return self._n_step_targets(inputs, future, after, n_step)
        if trace_lambda == 0:
            return inputs.reward + gamma * after
        targets = torch.empty_like(after)
        last = after[-1]
        for row in reversed(range(len(after))):
            ahead = torch.where(inputs.ended[row], after[row], last)
            last = inputs.reward[row] + gamma * ((1 - trace_lambda) * after[row] + trace_lambda * ahead)
            targets[row] = last
        return targets

    def _n_step_targets(
        self, inputs: Stacked, future: torch.Tensor, after: torch.Tensor, n_step: int
    ) -> torch.Tensor:
        targets, ahead = torch.empty_like(after), [after[-1]] * n_step
        for row in reversed(range(len(after))):
            longer = [
                inputs.reward[row] + self.config.discount * torch.where(inputs.ended[row], after[row], each)
                for each in ahead
            ]
            targets[row], ahead = longer[-1], [future[row], *longer[:-1]]
        return targets
