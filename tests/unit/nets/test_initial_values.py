"""Initial weights have the bounds, variances and orthogonality of torch.nn.init and of torch's layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hpcmarl.algos.network_design import critic_shape, policy_shape
from hpcmarl.config import COMAConfig, MATraceConfig, NetworkConfig
from hpcmarl.nets.encoder_shapes import CNNShape
from hpcmarl.nets.input_form import Field
from hpcmarl.nets.layer_shapes import Shape
from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import FloatArray, PolicySpec
from tests.support.rollouts import DISCRETE, make_spec

SPEC = PolicySpec("p", ("a", "b"), (40,), DISCRETE)
IMAGE = PolicySpec("p", ("a", "b"), (36, 36, 4), DISCRETE, observation_type="uint8")
ROUNDING = 1e-6


def drawn(shape: Shape, seed: int = 0) -> dict[str, FloatArray]:
    layout = ParameterLayout({"m": shape})
    vector = np.zeros(layout.size, np.float32)
    layout.draw(vector, seed)
    return {name.removeprefix("m."): array for name, array in layout.named(vector).items()}


def policy(initialisation: str, **network: Any) -> PolicyShape:
    section = {"hidden": (96, 80), "activation": "relu", "initialisation": initialisation, **network}
    return PolicyShape(SPEC, NetworkConfig.model_validate(section), 5)


def filled(kind: str, shape: tuple[int, ...], gain: float) -> FloatArray:
    """Return weights drawn by torch.nn.init."""
    weights = torch.empty(shape)
    generator = torch.Generator().manual_seed(0)
    if kind == "xavier":
        nn.init.xavier_uniform_(weights, gain, generator)
    elif kind == "torch":
        nn.init.kaiming_uniform_(weights, math.sqrt(5), generator=generator)
        weights *= gain
    else:
        nn.init.orthogonal_(weights, gain, generator)
    return weights.numpy()


def check_uniform(array: FloatArray, bound: float) -> None:
    """Check the range, mean and variance of uniform numbers."""
    deviation = bound / math.sqrt(3)
    assert np.abs(array).max() <= bound * (1 + ROUNDING)
    assert np.abs(array).max() > bound * (1 - 20 / array.size)
    assert abs(array.mean()) < 5 * deviation / math.sqrt(array.size)
    assert array.std() == pytest.approx(deviation, rel=4 / math.sqrt(array.size))


@pytest.mark.parametrize("kind", ["orthogonal", "xavier", "torch"])
def test_dense_weights_have_the_scale_of_torch_init(kind: str) -> None:
    arrays = drawn(policy(kind))
    hidden = 1.0 if kind == "torch" else nn.init.calculate_gain("relu")
    for index, gain in enumerate((hidden, hidden, 0.01)):
        weights = arrays[f"outputs.layers.{index}.weight"]
        twin = filled(kind, weights.shape, gain)
        assert np.abs(weights).max() == pytest.approx(np.abs(twin).max(), rel=0.5 if kind[0] == "o" else 0.02)
        assert weights.std() == pytest.approx(twin.std(), rel=5 / math.sqrt(weights.size))


def test_orthogonal_rows_have_the_length_of_the_gain() -> None:
    arrays = drawn(policy("orthogonal"))
    for index, gain in enumerate((math.sqrt(2), math.sqrt(2), 0.01)):
        weights = arrays[f"outputs.layers.{index}.weight"].astype(np.float64)
        small = weights @ weights.T if len(weights) <= weights.shape[1] else weights.T @ weights
        np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=2e-6)
        assert not arrays[f"outputs.layers.{index}.bias"].any()


def test_xavier_bounds_follow_both_sizes() -> None:
    arrays = drawn(policy("xavier", activation="tanh"))
    for index, (sizes, gain) in enumerate((((96, 40), 5 / 3), ((80, 96), 5 / 3), ((5, 80), 0.01))):
        check_uniform(arrays[f"outputs.layers.{index}.weight"], gain * math.sqrt(6 / sum(sizes)))
        assert not arrays[f"outputs.layers.{index}.bias"].any()


def test_torch_bounds_follow_the_inputs() -> None:
    arrays = drawn(policy("torch"))
    for index, (inputs, factor) in enumerate(((40, 1.0), (96, 1.0), (80, 0.01))):
        check_uniform(arrays[f"outputs.layers.{index}.weight"], factor / math.sqrt(inputs))
        bias = arrays[f"outputs.layers.{index}.bias"]
        assert bias.all()
        assert np.abs(bias).max() <= factor / math.sqrt(inputs) * (1 + ROUNDING)


@pytest.mark.parametrize("body", ["gru", "lstm"])
@pytest.mark.parametrize("kind", ["orthogonal", "xavier", "torch"])
def test_gates_of_a_cell_are_drawn_separately(kind: str, body: str) -> None:
    arrays, gates = drawn(policy(kind, body=body, memory=48)), 3 if body == "gru" else 4
    for name, inputs in (("weight_ih", 80), ("weight_hh", 48)):
        for gate in np.split(arrays[f"cell.{name}"].astype(np.float64), gates):
            if kind == "orthogonal":
                np.testing.assert_allclose(gate @ gate.T, np.eye(48), atol=2e-6)
            else:
                check_uniform(gate, 1 / math.sqrt(48) if kind == "torch" else math.sqrt(6 / (inputs + 48)))
    assert arrays["cell.bias_ih"].any() == (kind == "torch")
    assert np.abs(arrays["cell.bias_hh"]).max() <= 1 / math.sqrt(48)


@pytest.mark.parametrize("kind", ["orthogonal", "xavier", "torch"])
def test_convolutions_count_their_kernel(kind: str) -> None:
    encoder = CNNShape(36, 36, 4, True, True, "nature", 64)
    section = {"initialisation": kind, "hidden": (8,)}
    arrays = drawn(PolicyShape(IMAGE, NetworkConfig.model_validate(section), 5, encoder=encoder))
    weights = arrays["encoder.convolutions.1.weight"]
    assert weights.shape == (64, 32, 4, 4)
    if kind == "orthogonal":
        rows = weights.reshape(64, -1).astype(np.float64)
        np.testing.assert_allclose(rows @ rows.T, 2 * np.eye(64), atol=2e-6)
    else:
        bound = 1 / math.sqrt(512) if kind == "torch" else math.sqrt(2) * math.sqrt(6 / (512 + 1024))
        check_uniform(weights, bound)
    assert arrays["encoder.convolutions.1.bias"].any() == (kind == "torch")


def test_output_gain_scales_the_last_layer_alone() -> None:
    for kind in ("orthogonal", "xavier"):
        small, large = drawn(policy(kind)), drawn(policy(kind, output_gain=0.5))
        for name, array in small.items():
            factor = 50.0 if name == "outputs.layers.2.weight" else 1.0
            np.testing.assert_allclose(large[name], factor * array, rtol=1e-5)


def test_critics_have_their_own_output_gain() -> None:
    spec = make_spec(SPEC)
    fields = [Field.observation("(own)", SPEC)]
    network = NetworkConfig(hidden=(32,), output_gain=0.25)
    copied = drawn(critic_shape(spec, SPEC, MATraceConfig(network=network), fields))
    assert np.linalg.norm(copied["layers.layers.1.weight"]) == pytest.approx(1.0, rel=1e-5)
    own = MATraceConfig(network=network, critic_network=NetworkConfig(hidden=(32,), output_gain=0.25))
    chosen = drawn(critic_shape(spec, SPEC, own, fields))
    assert np.linalg.norm(chosen["layers.layers.1.weight"]) == pytest.approx(0.25, rel=1e-5)


def test_networks_of_one_run_may_start_differently() -> None:
    spec = make_spec(SPEC)
    section = NetworkConfig(hidden=(32,), initialisation="torch")
    config = COMAConfig(network=NetworkConfig(hidden=(32,)), critic_network=section)
    actor = drawn(policy_shape(spec, SPEC, config.network, 5))
    critic = drawn(critic_shape(spec, SPEC, config, [Field.observation("(own)", SPEC)], 6))
    assert not actor["outputs.layers.0.bias"].any()
    assert critic["layers.layers.0.bias"].all()


@pytest.mark.parametrize("kind", ["orthogonal", "xavier", "torch"])
def test_drawn_values_follow_the_seed_alone(kind: str) -> None:
    torch.manual_seed(1)
    first = drawn(policy(kind, body="lstm"), 4)
    torch.manual_seed(2)
    np.random.seed(3)
    again, other = drawn(policy(kind, body="lstm"), 4), drawn(policy(kind, body="lstm"), 5)
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["cell.weight_hh"], other["cell.weight_hh"])
