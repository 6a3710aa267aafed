"""Acting in a plain torch loop, as a reference for `hpcmarl bench acting`.

A decision is a forward pass of plain layers, or of the user's own module, for all agents of all slots, and a
sample of a distribution of torch. Agents that do not act are computed like the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.distributions import Categorical, Normal
from torch.nn.utils import vector_to_parameters

from hpcmarl.algos.model import Model
from hpcmarl.bench.reference.networks import Observed, Value, make_agent
from hpcmarl.nets.acting import agent_numbers
from hpcmarl.nets.choosers import LEAST_DEVIATION, UNAVAILABLE, UNIT_SOFTPLUS
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, Frame, PolicyFrame


def missing_reason(model: Model) -> str:
    """Return why there is no bare loop of a model, in one line; empty: there is one."""
    for name, shape in model.design.policies.items():
        if shape.module is None and (shape.config.body == "lstm" or shape.config.layer_norm):
            return f"the bare loop has no LSTM and no layer normalisation, as policy {name} has"
        if shape.normalise:
            return f"the bare loop does not normalise observations, as policy {name} does"
        if model.choosers[name].kind not in ("logits", "values", "gaussian") or len(shape.action.sizes) != 1:
            return f"the bare loop does not sample the actions of policy {name}"
    return ""


class ReferencePolicy:
    """The bare network of one policy, and the choice of its actions.

    Args:
        model: The model with the same parameters.
        name: Name of the policy.
        slots: Games that are stepped together, E.
    """

    def __init__(self, model: Model, name: str, slots: int) -> None:
        self.shape: PolicyShape = model.design.policies[name]
        self.chooser: Any = model.choosers[name]
        self.network: Any = make_agent(self.shape).eval()
        own, prefix = model.named_parameters(), model._prefixes[name]
        vector = np.concatenate([own[key].ravel() for key in own if key.startswith(prefix)])
        vector_to_parameters(torch.from_numpy(vector), self.network.parameters())
        agents = self.shape.agents
        width = self.shape.width
        self.memory = torch.zeros(slots * agents, width) if width else None
        self.numbers = torch.from_numpy(agent_numbers(agents).copy()).expand(slots, -1, -1)
        self.last = torch.zeros(slots, agents, self.shape.actions)

    @torch.no_grad()
    def act(self, frame: PolicyFrame, starts: torch.Tensor) -> Array:
        """Choose actions [E, N, ...] and remember what the next decision needs."""
        if self.memory is not None:
            self.memory = self.memory * ~starts.repeat_interleave(self.shape.agents).unsqueeze(-1)
        if self.shape.last_action:
            self.last = self.last * ~starts[:, None, None]
        mask = None if frame.action_mask is None else torch.from_numpy(frame.action_mask)
        raw, self.memory = self.network.step(self._inputs(frame.obs), self.memory, mask)
        action = self._choose(raw, mask)
        if self.shape.last_action:
            self.last = torch.nn.functional.one_hot(action, self.shape.actions).float()
        if action.dtype == torch.int64:
            action = action * torch.from_numpy(frame.alive)
        chosen: Array = action.numpy()
        return chosen

    def _inputs(self, obs: Array) -> Observed:
        numbers = [self.last] if self.shape.last_action else []
        if self.shape.agent_id:
            numbers.append(self.numbers)
        if self.shape.form.flat:
            seen = torch.from_numpy(obs).flatten(2).float()
            return torch.cat([seen, *numbers], -1) if numbers else seen
        first: Value = (
            torch.from_numpy(obs)
            if obs.dtype.names is None
            else {key: torch.from_numpy(np.ascontiguousarray(obs[key])) for key in obs.dtype.names}
        )
        return [first, *numbers]

    def _choose(self, raw: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        action: torch.Tensor
        if self.chooser.kind == "gaussian":
            mean, spread = raw.chunk(2, -1)
            deviation = torch.nn.functional.softplus(spread + UNIT_SOFTPLUS) + LEAST_DEVIATION
            normal: Any = Normal(mean, deviation, validate_args=False)
            drawn = normal.sample()
            slope = 2.0 * (np.log(2.0) - drawn - torch.nn.functional.softplus(-2.0 * drawn))
            self.logp = (normal.log_prob(drawn) - slope).sum(-1)
            centre, scale, _ = self.chooser.squashing
            action = torch.from_numpy(centre).float() + torch.from_numpy(scale).float() * torch.tanh(drawn)
            return action
        allowed = raw if mask is None else raw.masked_fill(~mask, UNAVAILABLE)
        if self.chooser.kind == "logits":
            categorical: Any = Categorical(logits=allowed, validate_args=False)
            action = categorical.sample()
            self.logp = categorical.log_prob(action)
            return action
        weight = torch.ones_like(raw) if mask is None else mask.float() + 1e-9
        uniform: Any = Categorical(probs=weight, validate_args=False)
        explores = torch.rand(raw.shape[:-1]) < self.chooser.epsilon
        return torch.where(explores, uniform.sample(), allowed.argmax(-1))


class ReferenceActing:
    """Bare decisions of all policies of a model.

    Args:
        model: The model, which is not used for acting.
        slots: Games that are stepped together, E.
    """

    def __init__(self, model: Model, slots: int) -> None:
        self.policies = {name: ReferencePolicy(model, name, slots) for name in model.design.policies}

    def decide(self, frame: Frame) -> dict[str, Array]:
        """Return the actions of each policy."""
        starts = torch.from_numpy(frame.episode_start)
        return {name: self.policies[name].act(seen, starts) for name, seen in frame.policies.items()}
