"""A second device that computes on the CPU, for tests of the device path on machines without a GPU.

Its tensors live on the device `fake:0`, torch's PrivateUse1 backend written in Python. Every operation runs
on the CPU tensor inside, so results are equal to the CPU's bit for bit. As on CUDA, an operation on tensors
of both the device and the host fails, and so does `.numpy()`; elementwise operations take scalars of the
host. Unlike CUDA, it also refuses host tensors as indices, because CUDA copies them without saying so.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fake"
# Operations that copy between host and device, and that wait for the device on CUDA.
CROSSINGS: Counter[str] = Counter()
_LIBRARIES: list[torch.library.Library] = []  # registrations end with their library


class FakeTensor(torch.Tensor):
    """A tensor of the device; `inner` is the CPU tensor with its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> FakeTensor:
        made: FakeTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )
        made.inner = inner
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"fake({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _inside(value: Any) -> Any:
    return value.inner if isinstance(value, FakeTensor) else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the CPU tensors inside, and wrap its results."""
    name = func.name()
    if name == "aten::copy_":
        target, source = args[:2]
        if isinstance(target, FakeTensor) != isinstance(source, FakeTensor):
            CROSSINGS["to device" if isinstance(target, FakeTensor) else "to host"] += 1
        _inside(target).copy_(_inside(source))
        return target
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    device = kwargs.get("device")
    to_host = device is not None and torch.device(device).type == "cpu"
    if name == "aten::_to_copy":
        if device is not None and to_host == isinstance(args[0], FakeTensor):
            CROSSINGS["to host" if to_host else "to device"] += 1
    else:
        scalars = torch.Tag.pointwise in func.tags
        for each in tensors:
            if not isinstance(each, FakeTensor) and not (scalars and each.dim() == 0):
                raise RuntimeError(
                    f"{name}: expected all tensors to be on the same device, found cpu and {NAME}"
                )
    if name in ("aten::_local_scalar_dense", "aten::nonzero"):
        CROSSINGS["wait"] += 1
    changed = {**kwargs, "device": torch.device("cpu")} if device is not None else kwargs
    work = OWN.get(name, func)
    results = work(*tree_map(_inside, args), **tree_map(_inside, changed))
    if to_host:
        return results
    known = {id(_inside(each)): each for each in tensors}

    def wrapped(result: Any) -> Any:
        if not isinstance(result, torch.Tensor):
            return result
        return known.get(id(result)) if id(result) in known else FakeTensor(result)

    return tree_map(wrapped, results)


def _gru_cell(
    of_inputs: torch.Tensor,
    of_memory: torch.Tensor,
    memory: torch.Tensor,
    input_bias: torch.Tensor,
    memory_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the operation that GRU cells use on devices only; equal to the CPU's within rounding."""
    reset, update, new = (of_inputs + input_bias).chunk(3, -1)
    reset_echo, update_echo, echo = (of_memory + memory_bias).chunk(3, -1)
    reset, update = (reset + reset_echo).sigmoid(), (update + update_echo).sigmoid()
    candidate = (new + reset * echo).tanh()
    kept = torch.cat([reset, update, candidate, echo, memory], -1)
    return candidate + update * (memory - candidate), kept


def _gru_cell_backward(slope: torch.Tensor, kept: torch.Tensor, has_bias: bool) -> tuple[torch.Tensor, ...]:
    """Compute the derivatives of `_gru_cell` with respect to its arguments."""
    reset, update, candidate, echo, memory = kept.chunk(5, -1)
    of_update = slope * (memory - candidate) * update * (1 - update)
    of_new = slope * (1 - update) * (1 - candidate.square())
    of_reset = of_new * echo * reset * (1 - reset)
    of_inputs = torch.cat([of_reset, of_update, of_new], -1)
    of_memory = torch.cat([of_reset, of_update, of_new * reset], -1)
    return of_inputs, of_memory, slope * update, of_inputs.sum(0), of_memory.sum(0)


def _lstm_cell(
    of_inputs: torch.Tensor,
    of_memory: torch.Tensor,
    cell: torch.Tensor,
    input_bias: torch.Tensor,
    memory_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the operation that LSTM cells use on devices only; its derivatives are not needed here."""
    gates = of_inputs + input_bias + of_memory + memory_bias
    keep_in, keep_old, new, out = gates.chunk(4, -1)
    after = keep_old.sigmoid() * cell + keep_in.sigmoid() * new.tanh()
    return out.sigmoid() * after.tanh(), after, gates


# Operations that torch has on devices only.
OWN = {
    "aten::_thnn_fused_lstm_cell": _lstm_cell,
    "aten::_thnn_fused_gru_cell": _gru_cell,
    "aten::_thnn_fused_gru_cell_backward": _gru_cell_backward,
}


@cache
def fake_device() -> torch.device:
    """Return the device; the first call registers it with torch.

    Test files call it when they are imported. Autograd counts the devices at the first backward pass of a
    process, which may be that of another test.
    """
    _setup_privateuseone_for_python_backend(NAME)
    aten, others = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> FakeTensor:
        return FakeTensor(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> FakeTensor:
        return FakeTensor(torch.empty_strided(size, stride, dtype=dtype))

    aten.impl("empty.memory_format", empty, "PrivateUse1")
    aten.impl("empty_strided", empty_strided, "PrivateUse1")
    others.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    _LIBRARIES.extend((aten, others))
    return torch.device(NAME, 0)
