"""Export of one policy as an ONNX graph. network.py defines its inputs and outputs.

The graph is built from the weights, without torch. It uses operators of opset 17 only, which runtimes since
2022 execute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import UsageError
from hpcmarl.export.network import ActingNetwork, Layer, Port
from hpcmarl.io.atomic import write_atomically
from hpcmarl.nets.choosers import LARGEST_SQUASH, LEAST_DEVIATION, UNAVAILABLE, UNIT_SOFTPLUS
from hpcmarl.nets.numpy_layers import LARGEST
from hpcmarl.types import Array

OPSET, IR_VERSION = 17, 8
BATCH = "batch"
# A file of the protocol has at most 2 GiB.
LARGEST_BYTES = 2_000_000_000
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu"}


def write_onnx(network: ActingNetwork, path: Path) -> dict[str, Any]:
    """Write a policy as an ONNX file.

    Args:
        network: The acting network.
        path: File to create.

    Returns:
        path, inputs and outputs (their names), parameters (number of values), bytes (size of the file).

    Raises:
        UsageError: If the weights do not fit into one file, or if the network has more than dense layers and
            a GRU.
        StorageError: If the file cannot be written.
    """
    import onnx

    if not network.shape.in_numpy:
        raise UsageError(
            f"--onnx {path}: the network of policy {network.policy.name} has a module, an encoder, an LSTM "
            "or layer norm, and the ONNX export has dense layers and GRUs only; use --torch"
        )
    size = sum(array.nbytes for array in network.arrays.values())
    if size > LARGEST_BYTES:
        raise UsageError(
            f"--onnx {path}: the network has {size} bytes, and an ONNX file holds at most {LARGEST_BYTES}; "
            "use --torch or --npz"
        )
    model = build_onnx(network)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString()
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return {
        "path": str(path),
        "inputs": [port.name for port in network.inputs],
        "outputs": [port.name for port in network.outputs],
        "parameters": network.size,
        "bytes": len(content),
    }


def build_onnx(network: ActingNetwork) -> Any:
    """Return a policy as an onnx.ModelProto."""
    from onnx import helper

    graph = _Graph()
    _add_policy(graph, network)
    whole = helper.make_graph(
        graph.nodes,
        network.policy.name or "policy",
        [_value(port) for port in network.inputs],
        [_value(port) for port in network.outputs],
        graph.constants,
    )
    model = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="hpcmarl",
        producer_version=network.facts["hpcmarl_version"],
    )
    helper.set_model_props(model, network.metadata)
    return model


def _value(port: Port) -> Any:
    from onnx import TensorProto, helper

    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    return helper.make_tensor_value_info(port.name, types[port.dtype], [BATCH, *port.shape])


class _Graph:
    """Nodes and constants of a graph under construction.

    Attributes:
        nodes: Nodes in the order of the computation.
        constants: Initialisers.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Array, name: str = "") -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def numbers(self, *values: float) -> str:
        """Add float32 numbers, a scalar if there is only one, and return their name."""
        return self.constant(np.array(values if len(values) > 1 else values[0], np.float32))

    def node(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Add a node with one output, named `to`, and return the name of the output."""
        from onnx import helper

        to = to or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [to], **attributes))
        return to

    def axes(self, *numbers: int) -> str:
        """Add int64 numbers as a list and return their name."""
        return self.constant(np.array(numbers, np.int64))

    def as_float(self, value: str) -> str:
        """Convert a value to float32."""
        from onnx import TensorProto, helper

        name = f"cast_{len(self.nodes)}"
        self.nodes.append(helper.make_node("Cast", [value], [name], to=TensorProto.FLOAT))
        return name

    def columns(self, value: str, first: int, stop: int) -> str:
        """Return the columns `first` to `stop` of a matrix."""
        return self.node("Slice", value, self.axes(first), self.axes(stop), self.axes(1))

    def dense(self, value: str, layers: Sequence[Layer], prefix: str) -> str:
        """Add linear layers with their activations."""
        for index, layer in enumerate(layers):
            weight = self.constant(layer.weight, f"{prefix}.layers.{index}.weight")
            bias = self.constant(layer.bias, f"{prefix}.layers.{index}.bias")
            value = self.node("Gemm", value, weight, bias, transB=1)
            if layer.activation is not None:
                value = self.node(ACTIVATIONS[layer.activation], value)
        return value


def _add_policy(graph: _Graph, network: ActingNetwork) -> None:
    """Add the whole computation from the inputs to the outputs."""
    value = _add_inputs(graph, network)
    if (moments := network.moments) is not None:
        centred = graph.node("Sub", value, graph.constant(moments[0], "moments.mean"))
        scaled = graph.node("Div", centred, graph.constant(moments[1], "moments.deviation"))
        value = graph.node("Clip", scaled, graph.numbers(-LARGEST), graph.numbers(LARGEST))
    if (body := network.layers("body")) is not None:
        value = graph.dense(value, body, "body")
    if network.shape.width:
        value = _add_recurrence(graph, network, value)
    outputs = network.layers("outputs")
    assert outputs is not None
    raw = graph.dense(value, outputs, "outputs")
    if (heads := network.layers("value")) is not None:
        raw = _add_dueling(graph, raw, graph.dense(value, heads, "value"), network.policy.has_mask)
    if network.kind == "gaussian":
        _add_gaussian(graph, network, raw)
    elif network.kind == "deterministic":
        _add_scaled(graph, network, raw)
    else:
        _add_choice(graph, network, raw)


def _add_inputs(graph: _Graph, network: ActingNetwork) -> str:
    """Add the flattened observation, the one-hot last action and the agent's one-hot number."""
    shape = network.shape
    parts = [graph.node("Reshape", "observation", graph.axes(-1, shape.spec.observation_size))]
    if shape.last_action:
        # row 0 stands for "no action yet"
        table = np.eye(shape.actions + 1, shape.actions, k=-1, dtype=np.float32)
        rows = graph.node("Add", "last_action", graph.constant(np.array(1, np.int64)))
        parts.append(graph.node("Gather", graph.constant(table, "last_action.one_hot"), rows, axis=0))
    if shape.agent_id:
        table = np.eye(shape.agents, dtype=np.float32)
        parts.append(graph.node("Gather", graph.constant(table, "agent.one_hot"), "agent", axis=0))
    return parts[0] if len(parts) == 1 else graph.node("Concat", *parts, axis=1)


def _add_recurrence(graph: _Graph, network: ActingNetwork, value: str) -> str:
    """Add one step of the GRU; the output next_state is the new memory."""
    width, arrays = network.shape.width, network.arrays

    def product(rows: str, side: str) -> str:
        weight = graph.constant(arrays[f"cell.weight_{side}"], f"cell.weight_{side}")
        bias = graph.constant(arrays[f"cell.bias_{side}"], f"cell.bias_{side}")
        return graph.node("Gemm", rows, weight, bias, transB=1)

    from_input, from_memory = product(value, "ih"), product("state", "hh")
    both = [graph.columns(part, 0, 2 * width) for part in (from_input, from_memory)]
    gates = graph.node("Sigmoid", graph.node("Add", *both))
    reset, update = graph.columns(gates, 0, width), graph.columns(gates, width, 2 * width)
    own, echo = (graph.columns(part, 2 * width, 3 * width) for part in (from_input, from_memory))
    candidate = graph.node("Tanh", graph.node("Add", own, graph.node("Mul", reset, echo)))
    change = graph.node("Mul", update, graph.node("Sub", "state", candidate))
    return graph.node("Add", candidate, change, to="next_state")


def _add_dueling(graph: _Graph, advantages: str, value: str, masked: bool) -> str:
    """Add the combination of a value and advantages, whose mean is over allowed actions."""
    if masked:
        allowed = graph.as_float("mask")
        count = graph.node("ReduceSum", allowed, graph.axes(1), keepdims=1)
        total = graph.node("ReduceSum", graph.node("Mul", advantages, allowed), graph.axes(1), keepdims=1)
        mean = graph.node("Div", total, graph.node("Max", count, graph.numbers(1.0)))
    else:
        mean = graph.node("ReduceMean", advantages, axes=[1], keepdims=1)
    return graph.node("Sub", graph.node("Add", value, advantages), mean)


def _add_choice(graph: _Graph, network: ActingNetwork, raw: str) -> None:
    """Add the outputs of discrete actions: logits or values, and greedy actions."""
    action, masked = network.policy.action, network.policy.has_mask
    name = network.outputs[0].name
    allowed = raw
    if masked:
        # values of masked actions stay visible; their logits do not
        to = name if network.kind == "logits" else ""
        allowed = graph.node("Where", "mask", raw, graph.numbers(UNAVAILABLE), to=to)
    if not masked or network.kind == "values":
        graph.node("Identity", raw, to=name)
    if action.kind == "discrete":
        graph.node("ArgMax", allowed, axis=1, keepdims=0, to="action")
        return
    ends = np.cumsum(action.sizes).tolist()
    parts = [
        graph.node("ArgMax", graph.columns(allowed, end - size, end), axis=1, keepdims=1)
        for end, size in zip(ends, action.sizes, strict=True)
    ]
    graph.node("Concat", *parts, axis=1, to="action")


def _add_gaussian(graph: _Graph, network: ActingNetwork, raw: str) -> None:
    """Add the outputs of continuous actions: mean, log_std and the squashed mean."""
    size = network.policy.action.sizes[0]
    graph.node("Identity", graph.columns(raw, 0, size), to="mean")
    shifted = graph.node("Add", graph.columns(raw, size, 2 * size), graph.numbers(UNIT_SOFTPLUS))
    deviation = graph.node("Add", graph.node("Softplus", shifted), graph.numbers(LEAST_DEVIATION))
    graph.node("Log", deviation, to="log_std")
    bounded = graph.node("Clip", "mean", graph.numbers(-LARGEST_SQUASH), graph.numbers(LARGEST_SQUASH))
    _add_scaled(graph, network, bounded)


def _add_scaled(graph: _Graph, network: ActingNetwork, bounded: str) -> None:
    """Add the squashing and scaling of continuous actions to their bounds."""
    centre, scale = network.bounds
    scaled = graph.node("Mul", graph.node("Tanh", bounded), graph.constant(scale, "action.scale"))
    graph.node("Add", scaled, graph.constant(centre, "action.centre"), to="action")
