"""Runs whose learners and actors compute on a second device, in bfloat16 or with compiled layers."""

import numpy as np
import pytest

from hpcmarl.errors import ConfigError, UsageError
from hpcmarl.nets import device
from tests.support.fake_device import fake_device
from tests.support.worlds import ECHO, final_parameters, run_world

DEVICE = fake_device()
ALWAYS = ("deterministic=true", "checkpoint.every_updates=3")


@pytest.fixture
def second_device(monkeypatch):
    """Let learners open the second device."""
    monkeypatch.setattr(device, "open_device", lambda setting, place: DEVICE)


def devices_of(ranks):
    return {rank.roles["learner"].algorithm.device.type for rank in ranks if "learner" in rank.roles}


@pytest.mark.parametrize("algo", ["algo.unroll=5", "algo.network.body=gru"])
def test_a_run_on_a_second_device_equals_the_cpu(algo, tmp_path, monkeypatch):
    run_world(3, tmp_path / "cpu", algo, *ALWAYS)
    monkeypatch.setattr(device, "open_device", lambda setting, place: DEVICE)
    ranks = run_world(3, tmp_path / "second", algo, *ALWAYS)
    assert devices_of(ranks) == {"fake"}
    np.testing.assert_array_equal(final_parameters(tmp_path / "second"), final_parameters(tmp_path / "cpu"))


def test_a_run_resumes_on_another_device(tmp_path, monkeypatch):
    run_world(3, tmp_path / "cpu", *ALWAYS)
    run_world(3, tmp_path / "both", *ALWAYS, "stop.updates=3")
    monkeypatch.setattr(device, "open_device", lambda setting, place: DEVICE)
    ranks = run_world(3, tmp_path / "both", *ALWAYS, resume="auto")
    assert devices_of(ranks) == {"fake"}
    np.testing.assert_array_equal(final_parameters(tmp_path / "both"), final_parameters(tmp_path / "cpu"))


def test_learners_sum_on_a_second_device(tmp_path, second_device):
    changes = ("topology.groups=2", "rounds.rule=rennala", "rounds.reduce=gloo")
    ranks = run_world(5, tmp_path / "run", *changes)
    first, second = (
        rank.roles["learner"].replica.optimizer.parameters for rank in ranks if "learner" in rank.roles
    )
    np.testing.assert_array_equal(first, second)


def test_a_value_based_run_on_a_second_device(tmp_path, second_device, monkeypatch):
    ranks = run_world(3, tmp_path / "run", "deterministic=true", text=ECHO)
    assert devices_of(ranks) == {"fake"}
    monkeypatch.undo()
    run_world(3, tmp_path / "cpu", "deterministic=true", text=ECHO)
    np.testing.assert_array_equal(final_parameters(tmp_path / "run"), final_parameters(tmp_path / "cpu"))


def test_a_run_in_bfloat16_differs_within_rounding(tmp_path):
    run_world(1, tmp_path / "float32", "deterministic=true")
    run_world(1, tmp_path / "bf16", "deterministic=true", "precision=bf16")
    full, half = (final_parameters(tmp_path / name) for name in ("float32", "bf16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.1


def test_a_failing_compiler_is_one_warning(tmp_path, monkeypatch):
    from hpcmarl.nets import arithmetic

    def fail(function, **_):
        def call(rows):
            raise RuntimeError("No working C++ compiler found\nmore lines")

        return call

    monkeypatch.setattr(arithmetic.torch, "compile", fail)
    ranks = run_world(1, tmp_path / "run", "compile=true")
    (warning,) = ranks[0].roles["learner"].warnings
    assert "No working C++ compiler found); install g++, or set compile: false" in warning
    assert "\n" not in warning


def test_a_missing_device_is_one_line_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(UsageError) as error:
        run_world(1, tmp_path / "run", "device=cuda")
    text = str(error.value)
    assert text.startswith("rank 0 (learner) on ")
    assert "device: cuda, but torch " in text
    assert "or set device: cpu" in text
    assert "\n" not in text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("network", ["algo.network.body=mlp", "algo.network.body=lstm"])
def test_actors_with_workers_infer_on_a_second_device(network, tmp_path, second_device):
    changes = ("topology.workers_per_actor=2", "topology.inference=device", network)
    ranks = run_world(4, tmp_path / "run", *changes)
    (actor,) = (rank.roles["actor"] for rank in ranks if "actor" in rank.roles)
    assert {own._device.type for own in actor.algorithm._actors.values()} == {"fake"}


@pytest.mark.parametrize("setting", ["torch", "device"])
def test_libraries_of_inference_agree_within_rounding(setting, tmp_path, second_device):
    run_world(3, tmp_path / "numpy", *ALWAYS)
    run_world(3, tmp_path / setting, *ALWAYS, f"topology.inference={setting}")
    found, other = (final_parameters(tmp_path / name) for name in ("numpy", setting))
    np.testing.assert_allclose(found, other, rtol=1e-3, atol=1e-4)


def test_numpy_refuses_an_lstm_before_training(tmp_path):
    with pytest.raises(ConfigError, match=r"topology.inference: numpy computes flat inputs"):
        run_world(1, tmp_path / "run", "topology.inference=numpy", "algo.network.body=lstm")
    assert not (tmp_path / "run").exists()
