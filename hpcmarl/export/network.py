"""The acting network of one policy, as the exports as ONNX and by torch need it.

Both exports have the same signature. Rows of a batch are independent agents:

    input           type      shape             given if
    observation     float32   [batch, *shape]   always; as the environment returns it. Networks with an
                                                encoder or a module get its own type, and one input
                                                `observation.KEY` for each key of a Dict or Tuple space
    agent           int64     [batch]           the network sees the agent's number in its policy
    last_action     int64     [batch]           the network sees the last action; -1: none yet
    mask            bool      [batch, A]        the environment has action masks
    state           float32   [batch, H]        the network is recurrent; zeros at the start of an episode

    output          type      shape             given if
    logits          float32   [batch, A]        actions are sampled from a softmax; -1e9 if masked
    q               float32   [batch, A]        actions have values; masked actions keep theirs
    mean, log_std   float32   [batch, D]        actions are of a squashed Gaussian: before the tanh
    action          int64     [batch]           discrete actions: the greedy allowed action
                    int64     [batch, C]        multi-discrete actions
                    float32   [batch, D]        continuous actions: the squashed mean, without noise
    next_state      float32   [batch, H]        the network is recurrent

Observations of Dict and Tuple spaces have the shape [batch, D]: their entries, flattened, one after another.

Actions begin at 0, also if the action space of the environment has another start.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from hpcmarl import __version__
from hpcmarl.evaluation import Trained
from hpcmarl.nets.layer_shapes import DenseShape
from hpcmarl.nets.numpy_layers import mean_and_deviation
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import FloatArray, PolicySpec


class Port(NamedTuple):
    """An input or output.

    Attributes:
        name: Its name.
        dtype: Name of its numpy type, such as "float32" or "int64".
        shape: Shape after the batch dimension.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


class Layer(NamedTuple):
    """A linear layer.

    Attributes:
        weight: Shape [outputs, inputs].
        bias: Shape [outputs].
        activation: "tanh", "relu" or None.
    """

    weight: FloatArray
    bias: FloatArray
    activation: str | None


@dataclass(frozen=True)
class ActingNetwork:
    """The acting network of one policy.

    Attributes:
        policy: The policy.
        shape: Description of its network.
        arrays: Parameters by their names in the network.
        kind: Meaning of the raw outputs: "logits", "values", "gaussian" or "deterministic".
        facts: Texts that describe the origin, for the metadata of a file.
    """

    policy: PolicySpec
    shape: PolicyShape
    arrays: dict[str, FloatArray]
    kind: Literal["logits", "values", "gaussian", "deterministic"]
    facts: dict[str, str]

    @property
    def inputs(self) -> list[Port]:
        """The inputs, in order."""
        shape, policy = self.shape, self.policy
        if shape.form.flat:
            flattened = (policy.observation_size,)
            seen = flattened if policy.observation_parts else policy.observation_shape
            ports = [Port("observation", "float32", seen)]
        elif policy.observation_parts:
            ports = [
                Port(f"observation.{part.key}", part.dtype, part.shape) for part in policy.observation_parts
            ]
        else:
            ports = [Port("observation", policy.observation_type, policy.observation_shape)]
        if shape.agent_id:
            ports.append(Port("agent", "int64", ()))
        if shape.last_action:
            ports.append(Port("last_action", "int64", ()))
        if policy.has_mask:
            ports.append(Port("mask", "bool", (policy.action.mask_size,)))
        if shape.width:
            ports.append(Port("state", "float32", (shape.width,)))
        return ports

    @property
    def outputs(self) -> list[Port]:
        """The outputs, in order."""
        action = self.policy.action
        ports = [Port("action", "float32" if action.kind == "continuous" else "int64", action.shape)]
        if self.kind == "gaussian":
            ports = [Port("mean", "float32", action.shape), Port("log_std", "float32", action.shape), *ports]
        elif self.kind != "deterministic":
            name = "q" if self.kind == "values" else "logits"
            ports.insert(0, Port(name, "float32", (sum(action.sizes),)))
        if self.shape.width:
            ports.append(Port("next_state", "float32", (self.shape.width,)))
        return ports

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.arrays.values())

    @property
    def moments(self) -> tuple[FloatArray, FloatArray] | None:
        """Mean and standard deviation that normalise the inputs, [D] each; None without normalisation."""
        if self.shape.moments is None:
            return None
        mean, deviation = mean_and_deviation(self.arrays["moments.moments"])
        return np.asarray(mean, np.float32), np.asarray(deviation, np.float32)

    def layers(self, part: Literal["body", "outputs", "value"]) -> list[Layer] | None:
        """Return the layers of a part of the network; None if the network lacks the part."""
        shape: DenseShape | None = getattr(self.shape, part)
        if shape is None:
            return None
        return [
            Layer(self.arrays[str(stage["weight"])], self.arrays[str(stage["bias"])], stage["activation"])
            for stage in shape.stages(f"{part}.")
        ]

    @property
    def bounds(self) -> tuple[FloatArray, FloatArray]:
        """Centre and half of the width of continuous actions, [D] each."""
        low, high = np.asarray(self.policy.action.low), np.asarray(self.policy.action.high)
        return np.asarray((low + high) / 2, np.float32), np.asarray((high - low) / 2, np.float32)

    @property
    def metadata(self) -> dict[str, str]:
        """Texts for the metadata of a file: origin, agents and action space."""
        action = self.policy.action
        space: dict[str, Any] = {"kind": action.kind, "sizes": list(action.sizes)}
        if action.kind == "continuous":
            space |= {"low": list(action.low), "high": list(action.high)}
        return {
            **self.facts,
            "policy": self.policy.name,
            "agents": json.dumps(list(self.policy.agents)),
            "action_space": json.dumps(space),
            "outputs": self.kind,
        }


def acting_network(trained: Trained, policy: PolicySpec) -> ActingNetwork:
    """Return the acting network of a policy.

    Args:
        trained: Networks with their parameters.
        policy: One of its policies.
    """
    model = trained.algorithm
    shape = model.design.policies[policy.name]
    prefix = model.layout.prefix_of(shape)
    named = model.named_parameters()
    arrays = {
        name.removeprefix(prefix): np.array(named[name], np.float32, order="C")
        for name in model.acting_parameters(policy.name)
    }
    facts = {
        "hpcmarl_version": __version__,
        "run": trained.config.name,
        "environment": trained.config.env.id,
        "algorithm": trained.config.algo.name,
        "updates": str(trained.version),
    }
    return ActingNetwork(policy, shape, arrays, model.choosers[policy.name].kind, facts)
