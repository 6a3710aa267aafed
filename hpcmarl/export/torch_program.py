"""Export of one policy as a program of torch.export. network.py defines its inputs and outputs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl.export.network import ActingNetwork, Layer, Port
from hpcmarl.io.atomic import write_atomically
from hpcmarl.nets.choosers import LARGEST_SQUASH, LEAST_DEVIATION, UNAVAILABLE, UNIT_SOFTPLUS
from hpcmarl.nets.inputs import Inputs, RowInputs, Values
from hpcmarl.nets.numpy_layers import LARGEST
from hpcmarl.nets.policy import Policy, make_policy

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
METADATA = "hpcmarl.json"  # extra file in the archive


class ActingModule(nn.Module):
    """The acting network of one policy in torch, with the exported signature.

    Args:
        network: The acting network.
    """

    moments_first: torch.Tensor  # buffers, of networks that normalise their inputs
    moments_second: torch.Tensor

    def __init__(self, network: ActingNetwork) -> None:
        super().__init__()
        self.network = network
        self.policy = None if network.shape.in_numpy else _policy_of(network)
        for name, array in zip(("bounds_first", "bounds_second"), self._bounds() or (), strict=False):
            self.register_buffer(name, torch.from_numpy(array))
        if self.policy is not None:
            return
        self.body = _layers(network.layers("body"))
        self.outputs = _layers(network.layers("outputs"))
        self.value = _layers(network.layers("value"))
        self.cell: nn.GRUCell | None = None
        if network.shape.width:
            arrays = {name: torch.from_numpy(network.arrays[f"cell.{name}"]) for name in CELL}
            self.cell = nn.GRUCell(arrays["weight_ih"].shape[1], network.shape.width)
            self.cell.load_state_dict(arrays)
        for name, array in zip(("moments_first", "moments_second"), network.moments or (), strict=False):
            self.register_buffer(name, torch.from_numpy(array))

    def _bounds(self) -> Any:
        return self.network.bounds if self.network.policy.action.kind == "continuous" else None

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the outputs of `ActingNetwork.outputs` from the inputs of `ActingNetwork.inputs`."""
        given = dict(zip((port.name for port in self.network.inputs), inputs, strict=True))
        mask = given.get("mask")
        raw, after = self._layered(given, mask) if self.policy is None else self._called(given, mask)
        if self.network.kind == "deterministic":
            return (self._scaled(torch.tanh(raw)), *after)
        chosen = self._gaussian(raw) if self.network.kind == "gaussian" else self._choice(raw, mask)
        return (*chosen, *after)

    def _layered(
        self, given: dict[str, torch.Tensor], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Compute raw outputs, and the memory after the rows of recurrent networks, layer by layer."""
        value = self._joined(given)
        if self.network.moments is not None:
            value = ((value - self.moments_first) / self.moments_second).clamp(-LARGEST, LARGEST)
        value = _apply(self.body, value)
        after: tuple[torch.Tensor, ...] = ()
        if self.cell is not None:
            value = self.cell(value, given["state"])
            after = (value,)
        raw = _apply(self.outputs, value)
        if len(self.value):
            raw = _dueling(raw, _apply(self.value, value), mask)
        return raw, after

    def _called(
        self, given: dict[str, torch.Tensor], mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Compute the same with the network of a learner."""
        assert self.policy is not None
        inputs = self._fields(given)
        if "state" not in given:
            return self.policy(inputs, mask), ()
        raw, after = self.policy.step(inputs, given["state"], mask)
        return raw, (after,)

    def _fields(self, given: dict[str, torch.Tensor]) -> RowInputs:
        """Return the inputs of the policy's network."""
        shape = self.network.shape
        if shape.form.flat:
            return self._joined(given)
        parts = self.network.policy.observation_parts
        observation: Values = (
            {part.key: given[f"observation.{part.key}"] for part in parts} if parts else given["observation"]
        )
        numbers = self._numbers(given)
        return Inputs({"observation": observation, **numbers})

    def _numbers(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the one-hot last action and the agent's one-hot number, if they are inputs."""
        shape, numbers = self.network.shape, {}
        if shape.last_action:
            rows = torch.eye(shape.actions + 1, dtype=torch.float32)[:, 1:]  # row 0: no action yet
            numbers["last_action"] = rows[given["last_action"] + 1]
        if shape.agent_id:
            numbers["agent"] = torch.eye(shape.agents, dtype=torch.float32)[given["agent"]]
        return numbers

    def _joined(self, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the flattened observation, the one-hot last action and the agent's one-hot number."""
        return torch.cat([given["observation"].flatten(1), *self._numbers(given).values()], 1)

    def _choice(self, raw: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        allowed = raw if mask is None else torch.where(mask, raw, UNAVAILABLE)
        action = self.network.policy.action
        best = (
            allowed.argmax(1)
            if action.kind == "discrete"
            else torch.stack([part.argmax(1) for part in torch.split(allowed, list(action.sizes), 1)], 1)
        )
        # values of masked actions stay visible; their logits do not
        return (raw if self.network.kind == "values" else allowed), best

    def _gaussian(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mean, spread = raw.chunk(2, 1)
        log_std = torch.log(nn.functional.softplus(spread + UNIT_SOFTPLUS) + LEAST_DEVIATION)
        return mean, log_std, self._scaled(torch.tanh(mean.clamp(-LARGEST_SQUASH, LARGEST_SQUASH)))

    def _scaled(self, squashed: torch.Tensor) -> torch.Tensor:
        """Return actions within their bounds from actions within -1..1."""
        return squashed * self.bounds_second + self.bounds_first  # type: ignore[operator]


def _policy_of(network: ActingNetwork) -> Policy:
    """Return the network of a learner with the exported parameters."""
    policy = make_policy(network.shape).requires_grad_(False)
    for name, parameter in policy.named_parameters():
        parameter.data = torch.from_numpy(network.arrays[name])
    return policy


CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _Dense(nn.Linear):
    """A linear layer with its activation."""

    def __init__(self, layer: Layer) -> None:
        outputs, inputs = layer.weight.shape
        super().__init__(inputs, outputs)
        self.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
        self.activation = layer.activation

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        value = super().forward(value)
        return value if self.activation is None else ACTIVATIONS[self.activation](value)


def _layers(layers: list[Layer] | None) -> nn.ModuleList:
    return nn.ModuleList(_Dense(layer) for layer in layers or ())


def _apply(layers: nn.ModuleList, value: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        value = layer(value)
    return value


def _dueling(advantages: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Combine a value with advantages, whose mean is over allowed actions."""
    if mask is None:
        return value + advantages - advantages.mean(1, keepdim=True)
    allowed = mask.to(torch.float32)
    mean = (advantages * allowed).sum(1, keepdim=True) / allowed.sum(1, keepdim=True).clamp(min=1.0)
    return value + advantages - mean


def write_torch(network: ActingNetwork, path: Path) -> dict[str, Any]:
    """Write a policy as a program that torch.export.load reads, with a free batch dimension.

    Args:
        network: The acting network.
        path: File to create.

    Returns:
        path, inputs and outputs (their names), parameters (number of values), bytes (size of the file).

    Raises:
        StorageError: If the file cannot be written.
    """
    module = ActingModule(network).eval()
    examples = tuple(_example(port) for port in network.inputs)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(
            module, examples, dynamic_shapes={"inputs": tuple({0: batch} for _ in examples)}
        )
    facts = {
        **network.metadata,
        "input_names": [port.name for port in network.inputs],
        "output_names": [port.name for port in network.outputs],
    }

    # torch ends the process if its archive cannot be written, as on a full disk
    archive = io.BytesIO()
    torch.export.save(program, archive, extra_files={METADATA: json.dumps(facts)})
    write_atomically(path, lambda partial: partial.write_bytes(archive.getbuffer()))
    return {
        "path": str(path),
        "inputs": facts["input_names"],
        "outputs": facts["output_names"],
        "parameters": network.size,
        "bytes": archive.getbuffer().nbytes,
    }


def _example(port: Port) -> torch.Tensor:
    shape = (2, *port.shape)
    return torch.from_numpy((np.ones if port.dtype == "bool" else np.zeros)(shape, port.dtype))
