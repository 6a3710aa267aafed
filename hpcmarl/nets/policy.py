"""The network of one policy group in torch.

Learners use it. Actors use it for networks that numpy_policy.py cannot compute (torch_policy.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl.nets.dueling import dueling_values
from hpcmarl.nets.encoders import make_encoder
from hpcmarl.nets.heads import Head, make_head
from hpcmarl.nets.inputs import Encoded, Inputs, RowInputs, take
from hpcmarl.nets.layers import Dense, make_cell
from hpcmarl.nets.modules import call, unroll
from hpcmarl.nets.moments import Moments
from hpcmarl.nets.recurrence import Packing, recur, recur_lstm, spread
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.nets.sparse import MOST_NON_ZEROS
from hpcmarl.nets.sparse_learning import Pattern, recur_sparse
from hpcmarl.types import BoolArray


class Policy(nn.Module, ABC):
    """Policy network that maps inputs of n rows to raw outputs [n, K].

    The inputs are those of PolicyShape.form: an observation, the agent's last action with `last_action`, and
    its one-hot number with `agent_id`. Flat inputs are one tensor [n, D]. The weights are uninitialised until
    FlatParameters binds them to a parameter vector (flat.py).

    Attributes:
        moments: Running moments of the inputs; None without normalisation.
    """

    def __init__(self, shape: PolicyShape) -> None:
        super().__init__()
        self.shape = shape
        self.agents, self.agent_id = shape.agents, shape.agent_id
        self.width, self.memory_size = shape.width, shape.memory_size
        self.moments: Moments | None = None

    @cached_property
    def head(self) -> Head:
        """The distribution over actions, for policies whose raw outputs define one."""
        return make_head(self.shape.action)

    def unroll_where(self, masks: tuple[BoolArray, BoolArray] | None) -> None:
        """Restrict the products and gradients of a recurrent policy's cell to its active weights.

        The restriction affects `unroll`. It is lifted if the density of either mask exceeds MOST_NON_ZEROS.

        Args:
            masks: Active weights of the cell's two matrices, shapes [3 H, I] and [3 H, H]; None: all weights
                are active.
        """

    def observe(self, obs: torch.Tensor, weight: float) -> None:
        """Add inputs [n, D], each with this weight, to the running moments if the policy has them."""
        if self.moments is not None:
            self.moments.add(obs, weight)

    @abstractmethod
    def forward(self, inputs: RowInputs, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the raw outputs of a feed-forward policy.

        Args:
            inputs: Inputs of n rows.
            mask: Allowed actions for dueling heads, shape [n, A]; None: all actions are allowed.

        Returns:
            Raw outputs, shape [n, K].
        """

    @abstractmethod
    def step(
        self, inputs: RowInputs, memory: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one step of a recurrent policy.

        Args:
            inputs: Inputs of n rows.
            memory: Memory before the rows, shape [n, H].
            mask: Allowed actions for dueling heads, shape [n, A]; None: all actions are allowed.

        Returns:
            Raw outputs [n, K], and the memory after the rows [n, H].
        """

    @abstractmethod
    def unroll(
        self,
        inputs: RowInputs,
        alive: BoolArray | torch.Tensor,
        starts: BoolArray | torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the raw outputs of a recurrent policy over unrolls.

        Args:
            inputs: Inputs, shape [T, B, N, D], or of T * B * N rows.
            alive: Rows to compute, shape [T, B, N]; on the host.
            starts: First rows of episodes, shape [T, B]; on the host.
            memory: Memory before row 0, shape [B, N, H].
            mask: Allowed actions for dueling heads, shape [T, B, N, A]; None: all actions are allowed.

        Returns:
            Raw outputs, shape [T, B, N, K]; zero where `alive` is false.
        """


class LayeredPolicy(Policy):
    """Policy network of an encoder, dense layers, an optional GRU or LSTM and heads.

    Attributes:
        patterns: Non-zero weights of the cell's two matrices, if the recurrence multiplies by these alone.
    """

    def __init__(self, shape: PolicyShape) -> None:
        super().__init__(shape)
        self.encoder = None if shape.encoder is None else make_encoder(shape.encoder)
        self.moments = None if shape.moments is None else Moments(shape.moments)
        self.patterns: tuple[Pattern, Pattern] | None = None
        self.body = None if shape.body is None else Dense(shape.body)
        self.cell = None if shape.cell is None else make_cell(shape.cell)
        self.outputs = Dense(shape.outputs)
        self.value = None if shape.value is None else Dense(shape.value)

    def unroll_where(self, masks: tuple[BoolArray, BoolArray] | None) -> None:
        former = self.patterns or (None, None)
        sparse = masks is not None and max(mask.mean() for mask in masks) <= MOST_NON_ZEROS
        self.patterns = (
            (Pattern.of(masks[0], former[0]), Pattern.of(masks[1], former[1]))
            if masks is not None and sparse
            else None
        )

    def forward(self, inputs: RowInputs, mask: torch.Tensor | None = None) -> torch.Tensor:
        seen = self._encode(inputs)
        return self._heads(seen if self.body is None else self.body(seen), mask)

    def step(
        self, inputs: RowInputs, memory: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.body is not None
        hidden = self.body(self._encode(inputs))
        if isinstance(self.cell, nn.LSTMCell):
            after = torch.cat(self.cell(hidden, tuple(memory.chunk(2, -1))), -1)
        else:
            assert self.cell is not None
            after = self.cell(hidden, memory)
        return self._heads(after[:, : self.shape.config.memory], mask), after

    def _heads(self, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        raw: torch.Tensor = self.outputs(hidden)
        return raw if self.value is None else dueling_values(raw, self.value(hidden), mask)

    def encode(self, observations: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the features of n observations, shape [n, F]."""
        assert self.encoder is not None
        features: torch.Tensor = self.encoder(observations)
        return features

    def _encode(self, inputs: RowInputs) -> torch.Tensor:
        """Return the inputs of the layers after the encoder, shape [n, D]."""
        if isinstance(inputs, Inputs):
            own, *numbers = inputs.fields.values()
            parts: list[Any] = [own.features if isinstance(own, Encoded) else self.encode(own), *numbers]
            return torch.cat(parts, -1)
        if self.moments is None:
            return inputs
        normalised: torch.Tensor = self.moments(inputs)
        return normalised

    def unroll(
        self,
        inputs: RowInputs,
        alive: BoolArray | torch.Tensor,
        starts: BoolArray | torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert self.body is not None
        assert self.cell is not None
        shape = tuple(alive.shape)
        columns = shape[1] * shape[2]
        packing = _packing(alive, starts, memory.device)
        if isinstance(inputs, torch.Tensor):
            inputs = inputs.reshape(-1, inputs.shape[-1])
        seen = self.body(self._encode(take(inputs, packing.rows)))
        first = memory.view(columns, -1)
        if isinstance(self.cell, nn.LSTMCell):
            hidden = recur_lstm(self.cell, seen, first, packing)[:, : self.shape.config.memory]
        elif self.patterns is None:
            hidden = recur(self.cell, seen, first, packing)
        else:
            hidden = recur_sparse(self.cell, self.patterns, seen, first, packing)
        raw = self._heads(hidden, None if mask is None else mask.reshape(-1, mask.shape[-1])[packing.rows])
        return spread(raw, packing.rows, shape)


class ModulePolicy(Policy):
    """Policy network of a torch module of the user (modules.py)."""

    def __init__(self, shape: PolicyShape) -> None:
        super().__init__(shape)
        assert shape.module is not None
        self.module: nn.Module = shape.module.make()

    def forward(self, inputs: RowInputs, mask: torch.Tensor | None = None) -> torch.Tensor:
        assert isinstance(inputs, Inputs)
        raw: torch.Tensor = call(self.module, self.shape.form, inputs)
        return raw

    def step(
        self, inputs: RowInputs, memory: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(inputs, Inputs)
        raw, after = call(self.module, self.shape.form, inputs, memory)
        return raw, after

    def unroll(
        self,
        inputs: RowInputs,
        alive: BoolArray | torch.Tensor,
        starts: BoolArray | torch.Tensor,
        memory: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert isinstance(inputs, Inputs)
        packing = _packing(alive, starts, memory.device)
        columns = alive.shape[1] * alive.shape[2]
        raw, _ = unroll(self.module, self.shape.form, inputs, memory.view(columns, -1), packing)
        return spread(raw, packing.rows, tuple(alive.shape))


def make_policy(shape: PolicyShape) -> Policy:
    """Build the policy network that a shape describes."""
    return LayeredPolicy(shape) if shape.module is None else ModulePolicy(shape)


def _packing(
    alive: BoolArray | torch.Tensor, starts: BoolArray | torch.Tensor, device: torch.device
) -> Packing:
    """Return the order of the living rows [T, B, N]; starts: [T, B]."""
    columns = alive.shape[1] * alive.shape[2]
    rows, begun = np.asarray(alive), np.broadcast_to(np.asarray(starts)[..., None], tuple(alive.shape))
    return Packing(rows.reshape(-1, columns), begun.reshape(-1, columns), device)
