"""Tensors on the device of a rank, and every crossing between it and the host's arrays.

On the CPU, tensors and arrays share memory, and nothing is copied. On any other device:

- `tensor` copies an array into pinned memory and starts an asynchronous copy to the device. The pinned
  memory belongs to torch's pool of pinned blocks. The pool reuses a block only after the event that follows
  its copy. The copy is ordered before all later work of the stream. The host therefore packs the next array,
  and starts the first layers, while the copy is under way.
- `arrays` starts the copies of several tensors into pinned memory, and waits once for all of them.
- `numbers` returns several scalars with one copy.

Only `arrays`, `array` and `numbers` wait for the device.

All functions are the same on CUDA and on the device that stands in for it in the tests
(tests/support/fake_device.py), except that only CUDA has pinned memory and streams.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl.errors import ConfigError
from hpcmarl.placement import chosen_device, wants_cuda
from hpcmarl.types import Array

HOST = torch.device("cpu")


def tensor(array: Array, device: torch.device = HOST) -> torch.Tensor:
    """Return a tensor with the values of an array.

    On the host it shares the array's memory. Only a read-only or non-contiguous array is copied, since torch
    warns about tensors of read-only memory.

    Args:
        array: The array. On other devices than the host, it may be changed after the call.
        device: Device of the tensor.
    """
    if device.type == "cpu":
        return torch.from_numpy(
            array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
        )
    staged = _staging(array.shape, torch.from_numpy(np.empty(0, array.dtype)).dtype, device)
    np.copyto(staged.numpy(), array)
    return staged.to(device, non_blocking=True)


def overwrite(target: torch.Tensor, array: Array) -> None:
    """Copy an array [P] into a tensor [P] of any device; `tensor` says when the array may change."""
    source = torch.from_numpy(array)
    if target.device.type != "cpu":
        source = _staging(source.shape, source.dtype, target.device).copy_(source)
    target.copy_(source, non_blocking=True)


def array(value: torch.Tensor) -> Array:
    """Return the values of a tensor; on the host, an array that shares its memory."""
    return arrays(value)[0]


def arrays(*values: torch.Tensor) -> list[Array]:
    """Return the values of tensors as `array` does, with one wait for all of them."""
    copies = []
    for value in values:
        detached = value.detach()
        if detached.device.type != "cpu":
            staged = _staging(detached.shape, detached.dtype, detached.device)
            detached = staged.copy_(detached, non_blocking=True)
        copies.append(detached)
    wait(values[0].device)
    return [copy.numpy() for copy in copies]


def numbers(*values: torch.Tensor) -> list[float]:
    """Return the values of scalars, with one copy for all of them."""
    if values[0].device.type == "cpu":
        return [float(value.detach()) for value in values]
    together = torch.stack([value.detach().double() for value in values])
    return [float(value) for value in array(together)]


def wait(device: torch.device) -> None:
    """Wait until the device has done all work of its stream."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's parameters."""
    return next(module.parameters()).device


def _staging(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return uninitialised memory of the host, pinned if the device is CUDA."""
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


def visible_devices() -> tuple[int, str]:
    """Return the number of CUDA devices of this process, and torch's view of them with a remedy."""
    version: Any = torch.version
    if version.cuda is None:
        return 0, f"torch {torch.__version__} was built without CUDA; install a CUDA build (docs/devices.md)"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = f"{count or 'no'} CUDA device{'' if count == 1 else 's'}"
    seen = f"torch {torch.__version__} sees {devices}"
    if count == 0:
        seen += (
            "; request GPUs (Slurm: --gpus-per-task=1 or --gpus-per-node=N), and check nvidia-smi and "
            "CUDA_VISIBLE_DEVICES there"
        )
    return count, seen


def open_device(setting: str, place: int) -> torch.device:
    """Return the device of a rank, and make it the current one of this process.

    Args:
        setting: Value of the key `device`.
        place: Number of the rank among those of its host that need a device (placement.py).

    Raises:
        ConfigError: If the device does not exist, or if it does not work.
    """
    if not wants_cuda(setting):
        return HOST
    device = torch.device(chosen_device(setting, place, *visible_devices()))
    try:
        # Pinned memory belongs to the context of the current device. Without this call, every rank would also
        # create a context on device 0.
        torch.cuda.set_device(device)
        torch.zeros(1, device=device).item()
    except RuntimeError as error:
        raise ConfigError(
            f"device: {setting}: {device} does not work ({' '.join(str(error).split())[:200]}); check "
            "nvidia-smi there, or set device: cpu"
        ) from None
    return device


def unique_name(device: torch.device) -> str:
    """Return a name of the physical device; the same one in all processes of a host."""
    if device.type != "cuda":
        return str(device)
    properties: Any = torch.cuda.get_device_properties(device)
    # Older versions of torch have no identifier.
    return str(getattr(properties, "uuid", f"{os.environ.get('CUDA_VISIBLE_DEVICES', '')} {device}"))
