"""Encoders: sizes, equality with plain torch layers, permutations of entities, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hpcmarl.config import CNNConfig, EntitiesConfig, NetworkConfig
from hpcmarl.errors import ConfigError
from hpcmarl.nets.encoder_shapes import EncoderShape, describe_encoder
from hpcmarl.nets.encoders import Entities, make_encoder
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.layer_shapes import GroupShape
from hpcmarl.nets.parameters import ParameterLayout
from hpcmarl.types import ObservationPart, PolicySpec
from tests.support.rollouts import DISCRETE

SPREAD = {
    "landmarks": {"count": 3, "starts": [4], "sizes": [2]},
    "others": {"count": 2, "starts": [10, 14], "sizes": [2, 2]},
}


def policy(
    shape: tuple[int, ...], dtype: str = "float32", parts: tuple[ObservationPart, ...] = ()
) -> PolicySpec:
    return PolicySpec("p", ("a", "b"), shape, DISCRETE, observation_type=dtype, observation_parts=parts)


def described(spec: PolicySpec, **network: Any) -> EncoderShape | None:
    return describe_encoder(spec, NetworkConfig.model_validate(network), "algo.network", "game")


def encoder_of(shape: EncoderShape | None, seed: int = 0) -> nn.Module:
    assert shape is not None
    module, layout = make_encoder(shape), ParameterLayout({"m": GroupShape({"e": shape})})
    vector = np.zeros(layout.size, np.float32)
    layout.draw(vector, seed)
    FlatParameters(layout, {"m": nn.ModuleDict({"e": module})}, vector)
    return module


def rows(shape: tuple[int, ...], dtype: str = "float32", count: int = 5) -> torch.Tensor:
    generator = np.random.default_rng(3)
    if dtype == "uint8":
        return torch.from_numpy(generator.integers(256, size=(count, *shape)).astype(np.uint8))
    return torch.from_numpy(generator.standard_normal((count, *shape)).astype(np.float32))


@pytest.mark.parametrize("architecture", ["nature", "impala"])
@pytest.mark.parametrize("channels", ["last", "first"])
def test_cnn_gives_its_features_for_any_size(architecture: str, channels: str) -> None:
    for height, width in ((36, 40), (84, 84)) if architecture == "nature" else ((36, 40), (5, 9)):
        shape = (height, width, 3) if channels == "last" else (3, height, width)
        encoder = encoder_of(
            described(
                policy(shape, "uint8"),
                encoder="cnn",
                cnn={"architecture": architecture, "channels": channels},
            )
        )
        assert encoder(rows(shape, "uint8")).shape == (5, 512 if architecture == "nature" else 256)


def test_channels_first_and_last_give_the_same_features() -> None:
    last, first = (
        encoder_of(described(policy(shape, "uint8"), encoder="cnn", cnn={"channels": place}))
        for shape, place in (((40, 36, 2), "last"), ((2, 40, 36), "first"))
    )
    image = rows((40, 36, 2), "uint8")
    torch.testing.assert_close(last(image), first(image.permute(0, 3, 1, 2)))


def test_nature_equals_plain_torch_layers() -> None:
    encoder = encoder_of(described(policy((84, 84, 4), "uint8"), encoder="cnn", cnn={"features": 16}))
    weights = dict(encoder.named_parameters())
    image = rows((84, 84, 4), "uint8")
    hidden = image.permute(0, 3, 1, 2).contiguous().float() / 255
    for index, stride in enumerate((4, 2, 1)):
        names = (f"convolutions.{index}.weight", f"convolutions.{index}.bias")
        hidden = functional.relu(functional.conv2d(hidden, *(weights[name] for name in names), stride=stride))
    wanted = functional.relu(
        functional.linear(hidden.flatten(1), weights["dense.layers.0.weight"], weights["dense.layers.0.bias"])
    )
    torch.testing.assert_close(encoder(image), wanted, rtol=1e-4, atol=1e-5)


def test_float_images_are_not_scaled() -> None:
    bytes_, floats = (
        encoder_of(described(policy((36, 36, 1), dtype), encoder="cnn")) for dtype in ("uint8", "float32")
    )
    image = rows((36, 36, 1), "uint8")
    torch.testing.assert_close(bytes_(image), floats(image.float() / 255), rtol=1e-4, atol=1e-5)


def entities(**more: Any) -> Entities:
    encoder = encoder_of(
        described(policy((18,)), encoder="entities", entities={"width": 16, "groups": SPREAD, **more})
    )
    assert isinstance(encoder, Entities)
    return encoder


@pytest.mark.parametrize("layers", [1, 2])
def test_permuted_entities_permute_tokens_and_keep_features(layers: int) -> None:
    encoder, seen = entities(layers=layers), rows((18,))
    order = torch.tensor([2, 0, 1])
    places = torch.arange(18)
    places[4:10] = places[4:10].view(3, 2)[order].flatten()
    tokens, _ = encoder.tokens(seen)
    moved, _ = encoder.tokens(seen[:, places])
    torch.testing.assert_close(moved[:, 1:4], tokens[:, 1:4][:, order])
    torch.testing.assert_close(moved[:, 4:], tokens[:, 4:])
    torch.testing.assert_close(encoder(seen[:, places]), encoder(seen))


def test_features_of_one_entity_lie_at_all_of_its_places() -> None:
    encoder, seen = entities(), rows((18,))
    places = torch.arange(18)
    places[10:14], places[14:18] = torch.tensor([12, 13, 10, 11]), torch.tensor([16, 17, 14, 15])
    torch.testing.assert_close(encoder(seen[:, places]), encoder(seen))
    places[14:18] = torch.arange(14, 18)  # now the features of two entities are mixed up
    assert not torch.allclose(encoder(seen[:, places]), encoder(seen))


def test_absent_entities_change_nothing() -> None:
    encoder, seen = entities(), rows((18,))
    seen[:, 4:6] = 0.0
    tokens, present = encoder.tokens(seen)
    assert present.tolist() == [[True, False, True, True, True, True]] * 5
    torch.testing.assert_close(encoder(seen)[:, 16:], tokens[:, 2:].mean(1))
    assert torch.isfinite(encoder(torch.zeros(3, 18))).all()


def test_rows_of_a_matrix_are_entities() -> None:
    encoder = encoder_of(described(policy((4, 3)), encoder="entities", entities={"width": 8, "heads": 2}))
    seen = rows((4, 3))
    torch.testing.assert_close(encoder(seen[:, [3, 1, 0, 2]]), encoder(seen))


def test_dict_joins_the_encoders_of_its_entries() -> None:
    parts = (ObservationPart("camera.left", (40, 40, 3), "uint8"), ObservationPart("speed", (2,), "float32"))
    shape = described(policy((), parts=parts))
    assert shape is not None
    assert shape.features == 514
    encoder = encoder_of(shape)
    image, speed = rows((40, 40, 3), "uint8"), rows((2,))
    features = encoder({"camera.left": image, "speed": speed})
    torch.testing.assert_close(features[:, 512:], speed)
    assert features.shape == (5, 514)


@pytest.mark.parametrize(
    ("spec", "encoder"),
    [
        (policy((40, 40, 3), "uint8"), True),
        (policy((40, 40, 3)), False),
        (policy((7, 6, 2), "uint8"), False),
        (policy((30,)), False),
        (policy((), parts=(ObservationPart("x", (3,), "int8"), ObservationPart("y", (), "float32"))), False),
    ],
)
def test_only_large_images_get_an_encoder_by_default(spec: PolicySpec, encoder: bool) -> None:
    assert (described(spec) is not None) is encoder


RECORD = policy(
    (), parts=(ObservationPart("image", (40, 40, 3), "uint8"), ObservationPart("x", (2,), "float32"))
)
REFUSALS: dict[str, tuple[PolicySpec, dict[str, Any], str]] = {
    "vector": (policy((18,)), {"encoder": "cnn"}, "algo.network.encoder: cnn needs an image"),
    "small": (policy((20, 40, 3), "uint8"), {"encoder": "cnn"}, "nature needs 36 x 36 .* observes 20 x 40"),
    "no groups": (policy((18,)), {"encoder": "entities"}, "needs algo.network.entities.groups"),
    "heads": (policy((4, 3)), {"encoder": "entities", "entities": {"heads": 3}}, "heads: 3 does not divide"),
    "beyond": (
        policy((9,)),
        {"encoder": "entities", "entities": {"groups": SPREAD}},
        "groups.landmarks: 3 entities of 2 numbers reach number 9.*0 to 8",
    ),
    "twice": (
        policy((18,)),
        {"encoder": "entities", "entities": {"groups": {"a": {"starts": [1]}, "b": {"starts": [1]}}}},
        "number 1 .* two entities",
    ),
    "places": (
        policy((18,)),
        {"encoder": "entities", "entities": {"groups": {"a": {"starts": [1, 2]}}}},
        "starts has 2 entries and sizes has 1",
    ),
    "name": (policy((4,)), {"encoder": "entities", "entities": {"groups": {"a b": {}}}}, "'a b' is no name"),
    "no dict": (policy((18,)), {"encoder": "dict"}, "dict needs Dict or Tuple"),
    "keys": (policy((18,)), {"keys": {"x": {}}}, "algo.network.keys: x needs Dict"),
    "record": (RECORD, {"encoder": "cnn"}, "cnn needs one array, but .* observes image, x"),
    "key": (RECORD, {"keys": {"y": {}}}, "observes no y; allowed: image, x"),
    "flat keys": (RECORD, {"encoder": "flat", "keys": {"x": {}}}, "keys does not go with"),
    "deep": (RECORD, {"keys": {"x": {"encoder": "dict"}}}, "keys.x.encoder: dict is for whole"),
    "key cnn": (
        RECORD,
        {"keys": {"x": {"encoder": "cnn"}}},
        "algo.network.keys.x.encoder: cnn needs an image",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_encoder_that_does_not_fit_is_refused_in_one_line(name: str) -> None:
    spec, network, words = REFUSALS[name]
    with pytest.raises(ConfigError, match=words) as caught:
        described(spec, **network)
    assert "\n" not in str(caught.value)


def test_layers_of_configuration_reach_the_encoder() -> None:
    network = NetworkConfig(encoder="cnn", cnn=CNNConfig(features=7), entities=EntitiesConfig(width=4))
    found = describe_encoder(policy((36, 36, 1)), network, "algo.network", "game")
    assert found is not None
    assert found.features == 7
