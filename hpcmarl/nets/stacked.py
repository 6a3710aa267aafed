"""Policies of one shape at several points of the parameter space at once, in numpy.

Each slot acts with its own parameters. The simulator needs this, because its workers act at different points.
The policies must consist of dense layers alone (numpy_gradient.has_numpy_gradient).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hpcmarl.nets.choosers import Chooser
from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Decision, FloatArray, Frame, PolicyFrame, flat_observations


class StackedPolicies:
    """E versions of each policy; version e acts in slot e."""

    def __init__(
        self,
        layout: ParameterLayout,
        policies: Mapping[str, tuple[str, PolicyShape, Chooser]],
        points: FloatArray,
    ) -> None:
        """Copy the parameters of all points.

        Args:
            layout: Layout of the parameter vector.
            policies: For each policy, the prefix of its parameters' names, its shape and its chooser.
            points: One parameter vector per slot, shape [E, P].
        """
        self._policies = {
            name: _Stacked(layout, prefix, shape, chooser, points)
            for name, (prefix, shape, chooser) in policies.items()
        }

    def act(self, frame: Frame, generator: np.random.Generator) -> dict[str, Decision]:
        """Sample an action for each living agent; the others get action 0.

        The decisions contain neither log-probabilities nor memories.
        """
        return {name: self._policies[name].act(seen, generator) for name, seen in frame.policies.items()}


class _Stacked:
    def __init__(
        self, layout: ParameterLayout, prefix: str, shape: PolicyShape, chooser: Chooser, points: FloatArray
    ) -> None:
        self._chooser, self._tanh = chooser, shape.outputs.activation == "tanh"
        self._layers = []
        for index in range(len(shape.outputs.sizes) - 1):
            weight, bias = (f"{prefix}outputs.layers.{index}.{name}" for name in ("weight", "bias"))
            stacked = points[:, layout.places[weight]].reshape(len(points), *layout.shapes[weight])
            self._layers.append(
                (np.ascontiguousarray(stacked.transpose(0, 2, 1)), points[:, None, layout.places[bias]])
            )

    def act(self, frame: PolicyFrame, generator: np.random.Generator) -> Decision:
        slots, agents = frame.alive.shape
        hidden = flat_observations(frame.obs, 2)
        for index, (weight, bias) in enumerate(self._layers):
            hidden = hidden @ weight
            hidden += bias
            if index < len(self._layers) - 1:
                hidden = np.tanh(hidden, out=hidden) if self._tanh else np.maximum(hidden, 0.0, out=hidden)
        rows = slots * agents
        mask = None if frame.action_mask is None else frame.action_mask.reshape(rows, -1)
        action, _ = self._chooser.choose(
            hidden.reshape(rows, -1), mask, self._chooser.draw(rows, generator), False
        )
        living = frame.alive.reshape(rows, *[1] * (action.ndim - 1))
        return Decision(
            (action * living).reshape(slots, agents, *action.shape[1:]).astype(action.dtype), None, None
        )
