"""A policy's network in torch, for acting with networks that numpy_policy.py cannot compute."""

from __future__ import annotations

import torch

from hpcmarl.nets.acting import ActingPolicy
from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.device import tensor
from hpcmarl.nets.inputs import row_inputs
from hpcmarl.nets.numpy_layers import Arrays
from hpcmarl.nets.policy import make_policy
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, BoolArray, FloatArray


class TorchPolicy(ActingPolicy):
    """Policy network in torch on the parameters of the shared vector."""

    def __init__(self, shape: PolicyShape, chooser: Chooser, arrays: Arrays) -> None:
        """Create the network.

        Args:
            shape: Description of the policy's network.
            chooser: Chooser of the policy's agents.
            arrays: Views of the parameter vector, by the parameters' names in the network.
        """
        super().__init__(shape, chooser)
        self._network = make_policy(shape).eval()
        for name, parameter in (*self._network.named_parameters(), *self._network.named_buffers()):
            if name in arrays:  # other buffers are constants of a module of the user
                parameter.data = torch.from_numpy(arrays[name])

    def become_sparse(self, *, measured: bool) -> None:
        pass  # sparse training refuses such networks

    def refresh(self) -> None:
        pass  # the parameters are views of the vector

    @torch.no_grad()
    def raw(
        self, inputs: Array, before: FloatArray | None = None, mask: BoolArray | None = None
    ) -> tuple[FloatArray, FloatArray | None]:
        seen, allowed = row_inputs(inputs, 1), None if mask is None else tensor(mask)
        if not self._width:
            return self._network(seen, allowed).numpy(), None
        memory = torch.zeros(len(inputs), self._width) if before is None else tensor(before)
        raw, after = self._network.step(seen, memory, allowed)
        return raw.numpy(), after.numpy()
