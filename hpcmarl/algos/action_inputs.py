"""Inputs of critics of actions in replayed episodes: what they see, followed by actions.

T    steps            B    episodes
U    units with a value: 1 (a team) or the N agents of a policy
"""

from __future__ import annotations

import numpy as np
import torch

from hpcmarl.algos.episodes import Episodes, Places
from hpcmarl.algos.network_design import ACTIONS, AGENT, STATE
from hpcmarl.nets.acting import agent_numbers
from hpcmarl.nets.device import tensor
from hpcmarl.nets.input_form import Field, InputForm
from hpcmarl.nets.inputs import Inputs, RowInputs, row_inputs
from hpcmarl.types import Array, BoolArray, EnvironmentSpec


class Seen:
    """The inputs of a policy's critics in all rows of episodes, without actions.

    Args:
        form: Inputs of the critics; the last field is the actions.
        spec: The environment.
        index: Index of the policy.
        episodes: The episodes.
        device: Device of the tensors.

    Raises:
        ValueError: If the critics see the state and a rollout carries none.
    """

    def __init__(
        self, form: InputForm, spec: EnvironmentSpec, index: int, episodes: Episodes, device: torch.device
    ) -> None:
        self._device, fields = device, form.fields[:-1]
        self._names = [policy.name for policy in spec.policies]
        self._spec, self._index, self._episodes = spec, index, episodes
        self._inputs: RowInputs
        if fields[0].name == STATE:
            if episodes.state is None:
                raise ValueError("algo.critic is state, but a rollout carries no state")
            state = episodes.state.unsqueeze(-2)
            self._inputs = state if form.flat else Inputs({STATE: state.flatten(0, 2)})
            return
        central = fields[0].count is not None
        units = 1 if central else len(spec.policies[index].agents)
        leading = (episodes.steps + 1, episodes.count, units)
        joined = InputForm(fields, form.flat).join(leading, [self._array(field) for field in fields])
        self._inputs = tensor(joined, device) if form.flat else row_inputs(joined, 3, device)

    def _array(self, field: Field) -> Array:
        """Return one input in all rows; numbers of agents lack the leading dimensions."""
        if field.name == AGENT:
            return agent_numbers(len(self._spec.policies[self._index].agents))
        assert field.policy is not None
        observed = self._episodes.parts[self._names.index(field.policy.name)].observed
        rows = observed.reshape(*observed.shape[:3], *field.policy.observation_shape)
        return rows if field.count is None else rows[:, :, None]

    def rows(self, where: BoolArray, actions: torch.Tensor, copies: int = 1) -> RowInputs:
        """Return inputs of critics.

        Args:
            where: Rows to take, shape [R, B, U]; they are among the first R rows.
            actions: Codes of actions in the n rows that are taken, shape [n * copies, C].
            copies: Number of inputs of each row; they follow each other.
        """
        if isinstance(self._inputs, torch.Tensor):
            seen = Places(where, self._device).pick(self._inputs[: len(where)])
            return torch.cat([seen if copies == 1 else seen.repeat_interleave(copies, 0), actions], -1)
        numbers = np.flatnonzero(where)
        taken = self._inputs.take(
            tensor(numbers if copies == 1 else np.repeat(numbers, copies), self._device)
        )
        return Inputs({**taken.fields, ACTIONS: actions})
