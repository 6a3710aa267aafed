"""Features of observations that policies and critics share (algo.shared_encoder).

Each policy's encoder runs once for the rows of a batch. Policies and critics get numbers of rows in the table
of features instead of observations. The losses of all networks add their derivatives to the table. `backward`
then passes the sums through the encoder once.

    T    steps                    B    slots
    N    agents of a policy       K    truncated episodes, which have a last observation
    m    encoded rows             F    features
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from hpcmarl.algos.batch import Batch, Features, Rows
from hpcmarl.algos.critic_inputs import Places
from hpcmarl.nets.device import device_of
from hpcmarl.nets.input_form import InputForm
from hpcmarl.nets.inputs import Encoded, Inputs, RowInputs, Values, observed
from hpcmarl.nets.policy import LayeredPolicy, Policy
from hpcmarl.types import Array, BoolArray


@dataclass
class Table:
    """Features of one policy's observations.

    Attributes:
        computed: Features with their graph, shape [m, F].
        features: The same values, on which networks build their graphs.
        later: Computes the features of the rows after the unroll and of the ends of truncated episodes,
            without a gradient: shape [B N + K N, F].
    """

    computed: torch.Tensor
    features: torch.Tensor
    later: Callable[[], torch.Tensor]

    @cached_property
    def after(self) -> torch.Tensor:
        """The features of `later`, computed at the first use."""
        return self.later()


class SharedFeatures:
    """Tables of the features of a batch.

    Args:
        policies: The policies whose encoders are shared; empty: nothing is shared.
        batch: The batch.
        active: For each policy, the rows [T, B, N] that any network reads.

    Attributes:
        places: Places of all observations in the tables. Row T and the ends of episodes are places in
            `Table.after`.
    """

    def __init__(self, policies: Mapping[str, Policy], batch: Batch, active: Mapping[str, BoolArray]) -> None:
        self._batch, self._active = batch, active
        self._targets: SharedFeatures | None = None
        self.places: Places = {name: _places(active[name], len(batch.final_step)) for name in policies}
        self._tables = {name: self._table(name, policy) for name, policy in policies.items()}

    def of(self, policies: Mapping[str, Policy]) -> SharedFeatures:
        """Return the features of the same rows under a target network; computed at the first call."""
        if self._targets is None:
            own = {name: policies[name] for name in self._tables}
            self._targets = SharedFeatures(own, self._batch, self._active)
        return self._targets

    def _table(self, name: str, policy: Policy) -> Table:
        assert isinstance(policy, LayeredPolicy)
        part, steps, device = self._batch.policies[name], self._batch.steps, device_of(policy)
        rows = Rows(self._active[name])
        # Networks without an active row get place 0, so that the table needs one.
        seen = rows.pick(part.obs[:steps]) if rows.count else part.obs[0, 0, :1]
        computed = policy.encode(observed(seen, device))

        def later() -> torch.Tensor:
            ends = [each.reshape(-1, *each.shape[2:]) for each in (part.obs[steps], part.final_obs)]
            with torch.no_grad():
                return policy.encode(observed(np.concatenate(ends), device))

        features = computed.detach()
        return Table(computed, features.requires_grad_(computed.requires_grad), later)

    def inputs(self, form: InputForm | None, rows: RowInputs, *, later: bool = False) -> RowInputs:
        """Replace the numbers of rows in a network's inputs by features.

        Args:
            form: Form of the inputs; None: flat rows.
            rows: Inputs of n rows.
            later: Whether they are rows after the unroll or ends of episodes.
        """
        if not self._tables or form is None or not isinstance(rows, Inputs):
            return rows
        fields: dict[str, Values] = dict(rows.fields)
        for field in form.fields:
            number = fields[field.name]
            if field.encoded and field.policy is not None and isinstance(number, torch.Tensor):
                table = self._tables[field.policy.name]
                features = (table.after if later else table.features)[number.flatten()]
                width = (field.count or 1) * features.shape[1]
                fields[field.name] = Encoded(features.view(len(number), width))
        return Inputs(fields)

    def seen_by(self, policy: str) -> Features | None:
        """Return what a policy gets instead of its observations; None if its encoder is not shared."""
        return Features(self.places[policy][0][:-1], self.inputs) if policy in self.places else None

    def backward(self) -> None:
        """Pass the derivatives of all losses with respect to the features through the encoders."""
        for table in self._tables.values():
            if table.features.grad is not None:
                torch.autograd.backward(table.computed, table.features.grad)


def _places(active: BoolArray, finals: int) -> tuple[Array, Array]:
    """Return the places of one policy's observations; 0 in rows that are not encoded."""
    steps, slots, agents = active.shape
    rows = np.zeros((steps + 1, slots, agents), np.int64)
    rows[:steps][active] = np.arange(np.count_nonzero(active))
    rows[steps] = np.arange(slots * agents).reshape(slots, agents)
    ends = slots * agents + np.arange(finals * agents).reshape(finals, agents)
    return rows, ends
