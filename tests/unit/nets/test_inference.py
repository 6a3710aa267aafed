"""Choice of the library and the device that compute the networks of actors."""

import numpy as np
import pytest

from hpcmarl.algos import make_model
from hpcmarl.config.file import load_config
from hpcmarl.envs import new_frame
from hpcmarl.errors import ConfigError
from hpcmarl.nets.inference import DEVICE_PRODUCTS, TORCH_ROWS, Inference, check_inference, products
from hpcmarl.types import PolicySpec
from tests.support.fake_device import CROSSINGS, fake_device
from tests.support.rollouts import DISCRETE, make_spec

DEVICE = fake_device()
RUN = "env: {id: a.b}\nstop: {updates: 1}\n"
SPEC = make_spec(PolicySpec("player", ("a", "b"), (6,), DISCRETE, False), state_size=None)
IMAGES = make_spec(PolicySpec("player", ("a", "b"), (36, 36, 1), DISCRETE, False, "uint8"), state_size=None)
NETWORKS = {
    "mlp": (SPEC, ()),
    "gru": (SPEC, ("algo.network.body=gru",)),
    "lstm": (SPEC, ("algo.network.body=lstm",)),
    "moments": (SPEC, ("algo.normalise_observations=true",)),
    "cnn": (IMAGES, ()),
}


def model_of(name, setting=None, seed=0):
    """Return the model of a network, computed as `setting` says."""
    spec, changes = NETWORKS[name]
    model = make_model(spec, load_config(RUN, ["algo.name=ppo", *changes]).algo, seed)
    if setting is not None:
        model.infer_by(Inference(setting), lambda: DEVICE)
    return model


def shape_of(name, *changes):
    """Return the shape of the policy of a network with changed settings."""
    spec, own = NETWORKS[name]
    model = make_model(spec, load_config(RUN, ["algo.name=ppo", *own, *changes]).algo, 0)
    return model.design.policies["player"]


def actions_of(model, spec, steps=3):
    """Return the log-probabilities and memories of some steps with fixed observations."""
    memory, found = model.initial_memory(4), []
    draws, generator = np.random.default_rng(3), np.random.default_rng(4)
    frame = new_frame(spec, 4, with_state=False)
    seen = frame.policies["player"]
    for step in range(steps):
        frame.episode_start[:] = step == 0
        seen.obs[...] = draws.integers(0, 255, seen.obs.shape)
        seen.alive[:] = draws.random(seen.alive.shape) < 0.7
        decision = model.act(frame, memory, generator)["player"]
        memory = memory if decision.memory is None else {"player": decision.memory}
        found.append((decision.action, decision.logp, decision.memory))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_device_chooses_the_actions_of_the_cpu(name):
    spec = NETWORKS[name][0]
    for own, other in zip(
        actions_of(model_of(name, "device"), spec), actions_of(model_of(name), spec), strict=True
    ):
        np.testing.assert_array_equal(own[0], other[0])
        np.testing.assert_allclose(own[1], other[1], rtol=1e-4, atol=1e-5)
        if other[2] is not None:
            np.testing.assert_allclose(own[2], other[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "moments", "cnn"])
def test_new_parameters_reach_the_device_in_one_copy(name):
    spec = NETWORKS[name][0]
    model, other = model_of(name, "device"), model_of(name, seed=1)
    actions_of(model, spec, 1)
    CROSSINGS.clear()
    model.load_parameters(other.parameters)
    assert CROSSINGS == {"to device": 1}
    for own, wanted in zip(actions_of(model, spec), actions_of(other, spec), strict=True):
        np.testing.assert_allclose(own[1], wanted[1], rtol=1e-4, atol=1e-5)


def test_a_decision_waits_for_the_device_once():
    model = model_of("gru", "device")
    actions_of(model, SPEC, 1)
    CROSSINGS.clear()
    actions_of(model, SPEC, 1)
    assert CROSSINGS == {"to device": 2, "to host": 2}  # observations and memory; outputs and memory


def test_auto_follows_rows_and_products():
    small, large = shape_of("mlp"), shape_of("mlp", "algo.network.hidden=[2048, 2048]")
    assert products(small) == 6 * 64 + 64 * 64 + 64 * DISCRETE.sizes[0]
    enough = TORCH_ROWS // small.agents
    assert Inference("auto", enough - 1).library(small) == "numpy"
    assert Inference("auto", enough).library(small) == "torch"
    slots = -(-DEVICE_PRODUCTS // (products(large) * large.agents))
    for has_workers, device, wanted in (
        (True, "cuda", "device"),
        (False, "cuda", "numpy"),
        (True, "auto", "numpy"),
    ):
        assert Inference("auto", slots, has_workers, device).library(large) == wanted
    assert Inference("auto", slots, True, "cuda").library(small) == "numpy"


def test_auto_uses_the_device_for_what_numpy_cannot_compute():
    image = shape_of("cnn")
    assert Inference("auto", 1, True, "cuda").library(image) == "device"
    assert Inference("auto", 1, True, "cpu").library(image) == "torch"
    assert Inference("auto", 1, False, "cuda").library(image) == "torch"


def test_sparse_policies_stay_in_numpy():
    changes = ["algo.name=qmix", "algo.sparse={sparsity: 0.5}", "topology.environments_per_actor=4096"]
    config = load_config(RUN, changes)
    assert Inference.of_actor(config, has_workers=True).library(shape_of("mlp")) == "numpy"


def test_numpy_refuses_what_it_cannot_compute():
    check_inference("numpy", {"player": shape_of("gru")}, "a.b")
    with pytest.raises(ConfigError) as error:
        check_inference("numpy", {"player": shape_of("lstm")}, "a.b")
    assert "policy player of a.b has a module, an encoder, an LSTM or layer norm; use auto" in str(
        error.value
    )
