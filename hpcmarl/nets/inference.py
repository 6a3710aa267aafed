"""Which library computes the networks of actors, and on which device. No torch.

`auto` follows measured figures (docs/devices.md, "Inference"). numpy is faster for small batches, because a
call of torch costs more. From TORCH_ROWS rows on, torch is faster. A device pays only for large decisions,
because each one costs copies and starts of kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpcmarl.config import Config, InferenceSetting
from hpcmarl.errors import ConfigError
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.placement import wants_cuda

Library = Literal["numpy", "torch", "device"]
TORCH_ROWS = 1024  # rows of a decision from which torch is faster than numpy
# Multiplications of a decision that take numpy about 1 ms. No GPU has confirmed the number.
DEVICE_PRODUCTS = 25_000_000


@dataclass(frozen=True)
class Inference:
    """The way in which a rank computes actions.

    Attributes:
        setting: Value of the key topology.inference.
        slots: Environments of one decision, E; 0: few.
        has_workers: Whether workers step them.
        device: Value of the key `device`.
    """

    setting: InferenceSetting = "auto"
    slots: int = 0
    has_workers: bool = False
    device: str = "cpu"

    @classmethod
    def of_actor(cls, config: Config, *, has_workers: bool) -> Inference:
        """Return the way of an actor with all its environments.

        Args:
            config: Configuration of the run.
            has_workers: Whether workers step its environments.
        """
        topology = config.topology
        # Only numpy multiplies by the non-zero weights.
        setting = topology.inference if config.algo.sparse_training is None else "numpy"
        return cls(setting, topology.environments_per_actor, has_workers, config.device)

    def library(self, shape: PolicyShape) -> Library:
        """Return what computes a policy's network: numpy, torch on the CPU, or torch on `device`."""
        if self.setting != "auto":
            return self.setting
        offloads = self.has_workers and wants_cuda(self.device)
        if not shape.in_numpy:
            return "device" if offloads else "torch"
        rows = self.slots * shape.agents
        if offloads and rows * products(shape) >= DEVICE_PRODUCTS:
            return "device"
        return "torch" if rows >= TORCH_ROWS else "numpy"


def opens_device(config: Config, *, has_workers: bool) -> bool:
    """Return whether an actor may infer on a CUDA device.

    Args:
        config: Configuration of the run.
        has_workers: Whether workers step the actor's environments.
    """
    setting = config.topology.inference
    return wants_cuda(config.device) and (setting == "device" or (setting == "auto" and has_workers))


def products(shape: PolicyShape) -> int:
    """Return the number of multiplications of one row of a network of dense layers and a GRU."""
    sizes = [parameter.shape for _, parameter in shape.parameters("")]
    return sum(int(np.prod(size)) for size in sizes if len(size) == 2)


def check_inference(setting: InferenceSetting, shapes: Mapping[str, PolicyShape], environment: str) -> None:
    """Refuse `topology.inference: numpy` for networks that numpy does not compute.

    Args:
        setting: Value of the key topology.inference.
        shapes: Network of each policy.
        environment: Identifier of the environment, for the message.

    Raises:
        ConfigError: numpy does not compute one of the networks.
    """
    for name, shape in shapes.items():
        if setting == "numpy" and not shape.in_numpy:
            raise ConfigError(
                "topology.inference: numpy computes flat inputs, dense layers and a GRU only, but the "
                f"network of policy {name} of {environment} has a module, an encoder, an LSTM or layer norm; "
                "use auto, torch or device"
            )
