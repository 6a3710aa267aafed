"""Target networks: copies of all trained parameters that follow them slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.types import FloatArray


class Target:
    """Parameters of the target network.

    They become a copy every `every` versions. With `rate` they instead move by this share of the distance at
    each version.

    The first version is copied. The first version with moments (nets/moments.py) is copied, too. A target
    network without moments would see its inputs in other units than the network that learns from it.

    Args:
        layout: Layout of the parameter vector.
        every: Versions between two copies.
        rate: Share of the distance per version; None: copies.

    Attributes:
        parameters: The target network's parameters, shape [P]. The modules of the target network are views of
            this array.
    """

    def __init__(self, layout: ParameterLayout, every: int, rate: float | None = None) -> None:
        self.parameters = aligned_zeros(layout.size)
        self._averages = layout.averages
        self._every, self._rate = every, rate
        # newest version, and version of the last copy
        self._version, self._copied = -1, -1

    def on_version(self, version: int, parameters: FloatArray) -> bool:
        """Follow the trained parameters.

        Args:
            version: Version of the parameters. A version that is not newer than all before changes nothing.
            parameters: The trained parameters, shape [P].

        Returns:
            Whether the target network's parameters have changed.
        """
        if version <= self._version:
            return False
        copy_now, self._version = self._version < 0 or self._has_first_moments(parameters), version
        if copy_now or (self._rate is None and version - self._copied >= self._every):
            np.copyto(self.parameters, parameters)
            self._copied = version
            return True
        if self._rate is not None:
            self.parameters[:] += np.float32(self._rate) * (parameters - self.parameters)
        return self._rate is not None

    def _has_first_moments(self, parameters: FloatArray) -> bool:
        return bool(parameters[self._averages].any()) and not self.parameters[self._averages].any()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as arrays and plain values."""
        return {"target": self.parameters.copy(), "version": self._version, "copied": self._copied}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`.

        Raises:
            ValueError: If the vector has the wrong size or contains non-finite numbers.
            KeyError: If an entry is missing.
        """
        vector = np.asarray(state["target"], np.float32)
        if not np.isfinite(vector).all():
            raise ValueError("the target network's parameters are not finite")
        if vector.shape != self.parameters.shape:
            raise ValueError(
                f"the target network's parameters have shape {vector.shape}; these networks need "
                f"{self.parameters.shape}"
            )
        np.copyto(self.parameters, vector)
        self._version, self._copied = int(state["version"]), int(state["copied"])
