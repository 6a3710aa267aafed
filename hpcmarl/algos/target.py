"""A target network: a twin of everything trained that follows it slowly. Used by the algorithms that learn
from their own estimates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hpcmarl.nets.parameters import ParameterLayout, aligned_zeros
from hpcmarl.types import FloatArray


class Target:
    """The parameters of the twins. They become a copy every `every` versions, or, where `rate` is given, move
    by this share of the way at each. The first version is copied, and the first that knows moments
    (nets/moments.py): a twin that knew none would see its inputs in other units than the network has that
    learns from it.

    Attributes:
        parameters: [P], the array itself, of which twins in torch are views.
    """

    def __init__(self, layout: ParameterLayout, every: int, rate: float | None = None) -> None:
        self.parameters = aligned_zeros(layout.size)
        self._averages = layout.averages
        self._every, self._rate = every, rate
        self._version, self._copied = -1, -1  # the newest version, and that of the last copy

    def on_version(self, version: int, parameters: FloatArray) -> None:
        """The trained parameters [P] are those of `version`; an older one, or the same again, changes
        nothing."""
        if version <= self._version:
            return
        anew, self._version = self._version < 0 or self._learns_of_moments(parameters), version
        if anew or (self._rate is None and version - self._copied >= self._every):
            np.copyto(self.parameters, parameters)
            self._copied = version
        elif self._rate is not None:
            self.parameters[:] += np.float32(self._rate) * (parameters - self.parameters)

    def _learns_of_moments(self, parameters: FloatArray) -> bool:
        return bool(parameters[self._averages].any()) and not self.parameters[self._averages].any()

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.parameters.copy(), "version": self._version, "copied": self._copied}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where the vector is of another size or holds numbers that are not finite;
        KeyError where there is none."""
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
