"""The policy network of one policy group: dense layers, perhaps a GRU, and raw outputs for a head.

`Policy` is the torch module that algos/ train; `Actor` is the same function in numpy, reading the same parameters, for acting.
Neither knows an algorithm. Agents that do not act in a row keep their memory; an episode's first row starts from zero memory.

The last action, where a policy sees it, is part of what acting remembers: the memory [E, N, H + A] of a slot is the GRU's, then the one-hot of
the agent's latest action. So whoever keeps the memory of a slot keeps its last actions too, and an episode begins without one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from hpcmarl.config import NetworkConfig
from hpcmarl.nets.dueling import dueling_values, numpy_dueling_values
from hpcmarl.nets.heads import Chooser, Head, make_head
from hpcmarl.nets.layers import Dense, NumpyDense, NumpyRecurrence, gru_cell
from hpcmarl.nets.moments import Moments, NumpyMoments
from hpcmarl.nets.recurrence import Packing, recur, spread
from hpcmarl.nets.sparse import MOST_NON_ZEROS, SparseWeight
from hpcmarl.nets.sparse_learning import Pattern, recur_sparse
from hpcmarl.types import Array, BoolArray, Decision, FloatArray, PolicyFrame, PolicySpec

# Gain of the last layer: the first policy is nearly uniform.
FIRST_POLICY_GAIN = 0.01


class Policy(nn.Module):
    """Raw outputs [n, K] from inputs [n, D]: observations, with last_action followed by the agent's last action, with agent_id as `numbered` gives
    them. What they mean is `chooser`'s business (default: the head of the action space).

    With `normalise` inputs are seen in units of their own spread so far (`moments`). With `dueling` the last layer is two (dueling.py), so that
    outputs depend on the mask, too.

    Attributes:
        actions: A, how many inputs are the last action's one-hot; 0 where it is not seen. Discrete actions only.
        width: H, of the GRU's memory; 0 without one.
        memory_size: Numbers that an agent remembers from a step to the next when it acts, H + A.
    """

    def __init__(
        self,
        spec: PolicySpec,
        config: NetworkConfig,
        generator: torch.Generator,
        chooser: Chooser | None = None,
        last_gain: float = FIRST_POLICY_GAIN,
        *,
        normalise: bool = False,
        agent_id: bool = False,
        last_action: bool = False,
        dueling: bool = False,
    ) -> None:
        super().__init__()
        self.agents, self.agent_id = len(spec.agents), agent_id
        self.actions = spec.action.sizes[0] if last_action else 0
        self.inputs = spec.observation_size + self.actions + (self.agents if agent_id else 0)
        self.moments = Moments(self.inputs) if normalise else None
        self.chooser = chooser or make_head(spec.action)
        self.patterns: tuple[Pattern, Pattern] | None = None  # of the cell's two weights, where it is to multiply by their non-zeros
        self.width = config.memory if config.recurrent else 0
        self.memory_size = self.width + self.actions
        last = config.hidden[-1] if config.hidden else self.inputs
        outputs = self.chooser.raw_size
        self.body: Dense | None = None
        if config.recurrent or dueling:
            self.body = Dense((self.inputs, *config.hidden), config.activation, generator, activate_last=True)
        self.cell: nn.GRUCell | None = gru_cell(last, config.memory, generator) if config.recurrent else None
        if self.cell is not None:
            last = config.memory
        sizes = (self.inputs, *config.hidden, outputs) if self.body is None else (last, outputs)
        self.outputs = Dense(sizes, config.activation, generator, last_gain=last_gain)
        self.value = Dense((last, 1), config.activation, generator, last_gain=last_gain) if dueling else None

    def unroll_where(self, masks: tuple[BoolArray, BoolArray] | None) -> None:
        """Recurrent policies: which of the cell's weights [3 H, I] and [3 H, H] are there, so that `unroll` uses, and differentiates by, only
        these, unless they are most of all. None: all."""
        former = self.patterns or (None, None)
        sparse = masks is not None and max(mask.mean() for mask in masks) <= MOST_NON_ZEROS
        self.patterns = (Pattern.of(masks[0], former[0]), Pattern.of(masks[1], former[1])) if masks is not None and sparse else None

    @property
    def head(self) -> Head:
        """The distribution over actions, where the policy has one."""
        assert isinstance(self.chooser, Head)
        return self.chooser

    def stages(self, prefix: str = "") -> list[dict[str, str | None]]:
        """What leads from an observation to raw outputs, in order: {kind: normalise, dense, gru or dueling, parameters by name, activation or
        None}."""
        found: list[dict[str, str | None]] = [] if self.moments is None else [{"kind": "normalise", "moments": f"{prefix}moments.moments"}]
        if self.body is not None:
            found += _dense_stages(self.body, f"{prefix}body.")
        if self.cell is not None:
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            found.append({"kind": "gru", **{name: f"{prefix}cell.{name}" for name in names}, "activation": None})
        found += _dense_stages(self.outputs, f"{prefix}outputs.")
        if self.value is not None:
            value = _dense_stages(self.value, f"{prefix}value.")[0]
            found[-1] |= {"kind": "dueling", "value_weight": value["weight"], "value_bias": value["bias"]}
        return found

    def forward(self, obs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Feed-forward policies only: obs [n, D] -> raw [n, K]. mask [n, A]: allowed actions, for dueling heads; None: all."""
        seen = self._seen(obs)
        return self._heads(seen if self.body is None else self.body(seen), mask)

    def _heads(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        raw: torch.Tensor = self.outputs(hidden)
        return raw if self.value is None else dueling_values(raw, self.value(hidden), mask)

    def observe(self, obs: torch.Tensor, weight: float) -> None:
        """Gather observations [n, D] for the moments, where there are any; each weighs `weight`."""
        if self.moments is not None:
            self.moments.add(obs, weight)

    def _seen(self, obs: torch.Tensor) -> torch.Tensor:
        if self.moments is None:
            return obs
        seen: torch.Tensor = self.moments(obs)
        return seen

    def unroll(
        self, obs: torch.Tensor, alive: torch.Tensor, starts: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Recurrent policies only. obs [T, B, N, D], alive [T, B, N], starts [T, B], memory [B, N, H] -> raw [T, B, N, K], zero where
        not alive. mask [T, B, N, A]: as in `forward`."""
        assert self.body is not None
        assert self.cell is not None
        shape = alive.shape
        columns = shape[1] * shape[2]
        packing = Packing(alive.view(-1, columns).numpy(), starts.unsqueeze(-1).expand(shape).reshape(-1, columns).numpy())
        inputs = self.body(self._seen(obs.reshape(-1, obs.shape[-1])[packing.rows]))
        first = memory.view(columns, -1)
        hidden = recur(self.cell, inputs, first, packing) if self.patterns is None else recur_sparse(self.cell, self.patterns, inputs, first, packing)
        raw = self._heads(hidden, None if mask is None else mask.reshape(-1, mask.shape[-1])[packing.rows])
        return spread(raw, packing.rows, shape)


class Actor:
    """Chooses actions with a policy's present parameters, in numpy. Make it after FlatParameters has bound the policy."""

    def __init__(self, policy: Policy) -> None:
        self._chooser = policy.chooser
        self.inputs = policy.inputs
        self._width, self._actions = policy.width, policy.actions
        self._agents, self._agent_id = policy.agents, policy.agent_id
        self._normalised = None if policy.moments is None else NumpyMoments(policy.moments)
        self._body = None if policy.body is None else NumpyDense(policy.body)
        self._recurrence = None if policy.cell is None else NumpyRecurrence(policy.cell)
        self._outputs = NumpyDense(policy.outputs)
        self._value = None if policy.value is None else NumpyDense(policy.value)
        self.sparse: list[SparseWeight] = []  # the matrices, where they are sparse

    def become_sparse(self, *, measured: bool) -> None:
        """Multiply by the weights that are there only; measured: where that is the quicker way. Once; `refresh` after every change of parameters."""
        parts = (self._body, self._recurrence, self._outputs, self._value)
        self.sparse = [weight for part in parts if part is not None for weight in part.become_sparse(measured=measured)]

    def refresh(self) -> None:
        """The parameters have changed."""
        for weight in self.sparse:
            weight.refresh()

    def act(self, frame: PolicyFrame, starts: BoolArray, memory: FloatArray | None, generator: np.random.Generator, greedy: bool) -> Decision:
        """One batched step for E slots of N agents; arrays as in types.PolicyFrame and types.Decision. Changes nothing passed in.

        Agents that are not alive get action 0 and logp 0.
        """
        slots, agents = frame.alive.shape
        rows = slots * agents
        seen = frame.obs.reshape(slots, agents, -1)
        before, last = self._remembered(memory, starts)
        if last is not None:
            seen = np.concatenate([seen, last], -1)
        if self._agent_id:
            seen = numbered(seen)
        mask = None if frame.action_mask is None else frame.action_mask.reshape(rows, -1)
        raw, hidden = self.raw(seen.reshape(rows, -1), None if before is None else before.reshape(rows, -1), frame.alive.reshape(rows, 1), mask)
        action, logp = self._chooser.mode(raw, mask) if greedy else self._chooser.sample(raw, mask, generator)
        if not frame.alive.all():
            dead = ~frame.alive.reshape(rows)
            action[dead] = 0
            logp[dead] = 0
        chosen = action.reshape(slots, agents, *action.shape[1:])
        after = None if hidden is None else hidden.reshape(slots, agents, -1)
        if last is not None:
            now = np.where(frame.alive[..., None], np.eye(self._actions, dtype=np.float32)[chosen], last)
            after = now if after is None else np.concatenate([after, now], -1)
        return Decision(chosen, logp.reshape(slots, agents), after)

    def _remembered(self, memory: FloatArray | None, starts: BoolArray) -> tuple[FloatArray | None, FloatArray | None]:
        """The GRU's memory [E, N, H] and the last actions [E, N, A] before a step, zero where an episode starts [E]; None for what there is not."""
        if not self._width + self._actions:
            return None, None
        assert memory is not None
        kept = memory * ~starts[:, None, None]
        return (kept[..., : self._width] if self._width else None), (kept[..., self._width :] if self._actions else None)

    def raw(
        self, obs: FloatArray, before: FloatArray | None = None, alive: BoolArray | None = None, mask: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        """What the network gives for inputs [n, D], [n, K], and the GRU's memory [n, H] after them; before: the memory (None: zeros), which those
        keep who are not alive [n, 1] (None: all are). mask [n, A]: allowed actions, for dueling heads (None: all)."""
        seen = self._seen(obs)
        hidden = seen if self._body is None else self._body(seen)
        if self._recurrence is None:
            return self._heads(hidden, mask), None
        if before is None:
            before = np.zeros((len(obs), self._width), np.float32)
        hidden = self._recurrence(hidden, before)
        if alive is not None:
            hidden = np.where(alive, hidden, before)
        return self._heads(hidden, mask), hidden

    def _heads(self, hidden: FloatArray, mask: BoolArray | None) -> FloatArray:
        raw = self._outputs(hidden)
        return raw if self._value is None else numpy_dueling_values(raw, self._value(hidden), mask)

    def chances(self, obs: FloatArray, mask: BoolArray | None, agent: int) -> FloatArray:
        """How likely each action is drawn, [n, A], for observations [n, *shape] of one agent and masks [n, A]. Raises TypeError where policies
        are recurrent or see their last action, whose chances depend on more than an observation, or actions are not discrete."""
        if self._recurrence is not None:
            raise TypeError("a recurrent policy acts by its memory, not by one observation")
        if self._actions:
            raise TypeError("a policy that sees its last action does not act by one observation")
        inputs = obs.reshape(len(obs), -1)
        if self._agent_id:
            inputs = numbered(np.repeat(inputs[:, None], self._agents, 1))[:, agent]
        return self._chooser.chances(self.raw(inputs, mask=mask)[0], mask)

    def _seen(self, obs: FloatArray) -> FloatArray:
        return obs if self._normalised is None else self._normalised(obs)


def numbered(obs: Array) -> FloatArray:
    """Observations [..., N, D] of a policy's agents with their one-hot numbers behind them: [..., N, D + N]."""
    agents = obs.shape[-2]
    number = np.broadcast_to(np.eye(agents, dtype=np.float32), (*obs.shape[:-1], agents))
    return np.concatenate([obs, number], -1)


def last_actions(action: Array, acts: BoolArray, actions: int) -> FloatArray:
    """What each agent did last before each row of an episode.

    Args:
        action: Actions, shape [T, ..., N] int64.
        acts: Where an agent takes one, shape [T, ..., N].
        actions: How many there are, A.

    Returns:
        One-hot actions, shape [T + 1, ..., N, A]; zero where the agent has not acted yet. An agent that does not act keeps its last one.
    """
    steps = len(action)
    rows = np.arange(steps).reshape(-1, *[1] * (action.ndim - 1))
    latest = np.maximum.accumulate(np.where(acts, rows, -1), 0)  # row of the latest action up to this one
    chosen = np.take_along_axis(action, np.maximum(latest, 0), 0)
    seen = np.zeros((steps + 1, *action.shape[1:], actions), np.float32)
    seen[1:] = np.eye(actions, dtype=np.float32)[chosen] * (latest >= 0)[..., None]
    return seen


def _dense_stages(dense: Dense, prefix: str) -> list[dict[str, str | None]]:
    stages: list[dict[str, str | None]] = []
    for index in range(len(dense.layers)):
        plain = index == len(dense.layers) - 1 and not dense.activate_last
        name = f"{prefix}layers.{index}."
        stages.append({"kind": "dense", "weight": f"{name}weight", "bias": f"{name}bias", "activation": None if plain else dense.activation})
    return stages
