"""A policy's network in torch, for acting on the CPU or on another device."""

from __future__ import annotations

import numpy as np
import torch

from hpcmarl.nets.acting import ActingPolicy
from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.device import HOST, arrays, tensor
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.inputs import row_inputs
from hpcmarl.nets.numpy_layers import Arrays
from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.nets.policy import Policy, make_policy
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, BoolArray, FloatArray


class TorchPolicy(ActingPolicy):
    """Policy network in torch.

    On the CPU its parameters are views of the shared vector. On another device they are a copy, which
    `refresh` renews.
    """

    def __init__(
        self, shape: PolicyShape, chooser: Chooser, parameters: Arrays, device: torch.device | None = None
    ) -> None:
        """Create the network.

        Args:
            shape: Description of the policy's network.
            chooser: Chooser of the policy's agents.
            parameters: Views of the parameter vector, by the parameters' names in the network.
            device: Device of the network; None: the CPU.
        """
        super().__init__(shape, chooser)
        self._network = make_policy(shape).eval()
        self._device = device or HOST
        self._copy = (
            None if self._device == HOST else DeviceCopy(shape, self._network, parameters, self._device)
        )
        if self._copy is None:
            for name, parameter in (*self._network.named_parameters(), *self._network.named_buffers()):
                if name in parameters:  # other buffers are constants of a module of the user
                    parameter.data = torch.from_numpy(parameters[name])

    def become_sparse(self, *, measured: bool) -> None:
        raise TypeError("networks in torch have dense weights only")

    def refresh(self) -> None:
        if self._copy is not None:
            self._copy.refresh()

    @torch.no_grad()
    def raw(
        self, inputs: Array, before: FloatArray | None = None, mask: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        seen = row_inputs(inputs, 1, self._device)
        allowed = None if mask is None else tensor(mask, self._device)
        if not self._width:
            return arrays(self._network(seen, allowed))[0], None
        memory = (
            torch.zeros(len(inputs), self._width, device=self._device)
            if before is None
            else tensor(before, self._device)
        )
        raw, after = arrays(*self._network.step(seen, memory, allowed))
        return raw, after


class DeviceCopy:
    """Parameters of one policy on a device, in one piece.

    Args:
        shape: Description of the policy's network.
        network: The network; it moves to the device.
        parameters: Views of the shared vector, by the parameters' names in the network.
        device: The device.
    """

    def __init__(self, shape: PolicyShape, network: Policy, parameters: Arrays, device: torch.device) -> None:
        layout = ParameterLayout({"policy": shape})
        self._vector = np.empty(layout.size, np.float32)
        self._places = [
            (view, parameters[name.removeprefix("policy.")])
            for name, view in layout.named(self._vector).items()
        ]
        self._collect()
        self._flat = FlatParameters(layout, {"policy": network}, self._vector)
        self._flat.move(device)

    def refresh(self) -> None:
        """Copy the parameters to the device, in one transfer."""
        self._collect()
        self._flat.refresh()

    def _collect(self) -> None:
        for view, values in self._places:
            np.copyto(view, values)
