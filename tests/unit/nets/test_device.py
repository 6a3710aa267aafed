"""Copies between arrays and tensors, and flat parameters on a second device."""

import numpy as np
import pytest
import torch

from hpcmarl.nets import device as devices
from hpcmarl.nets.device import array, arrays, numbers, open_device, overwrite, tensor, visible_devices
from hpcmarl.nets.layer_shapes import DenseShape
from tests.support.algorithms import bind
from tests.support.fake_device import CROSSINGS, fake_device

DEVICE = fake_device()


def test_tensors_of_the_host_share_memory():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.shares_memory(array(tensor(values)), values)
    values.flags.writeable = False
    assert not np.shares_memory(array(tensor(values)), values)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3).T,
        np.array([True, False]),
        np.zeros((0, 3), np.int64),
        np.broadcast_to(np.uint8(7), (3, 2)),
        np.float64(3.0).reshape(()),
    ],
    ids=["transposed", "bool", "empty", "broadcast", "scalar"],
)
def test_arrays_return_from_a_device_unchanged(values):
    moved = tensor(values, DEVICE)
    assert moved.device == DEVICE
    back = array(moved)
    assert (back.dtype, back.shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(back, values)


def test_an_array_may_change_after_its_copy():
    values = np.ones(4, np.float32)
    moved = tensor(values, DEVICE)
    values[:] = 2.0
    np.testing.assert_array_equal(array(moved), np.ones(4))


def test_several_numbers_are_one_copy():
    first = tensor(np.arange(3, dtype=np.float32), DEVICE).requires_grad_()
    CROSSINGS.clear()
    assert numbers(first.sum(), first.max(), torch.ones((), device=DEVICE)) == [3.0, 2.0, 1.0]
    assert CROSSINGS == {"to host": 1}


def test_flat_parameters_move_with_their_modules():
    built, flat = bind({"network": DenseShape(sizes=(3, 2), activation="tanh")})
    kept = built["network"].layers[0].weight
    flat.move(DEVICE)
    assert built["network"].layers[0].weight is kept
    assert kept.device == DEVICE
    assert flat.place_of(built["network"].layers[0].bias) == slice(6, 8)
    flat.load(np.arange(8, dtype=np.float32))
    np.testing.assert_array_equal(array(kept).reshape(-1), np.arange(6))
    CROSSINGS.clear()
    flat.load(np.zeros(8, np.float32))
    assert CROSSINGS == {"to device": 1}
    flat.zero_gradient()
    built["network"](tensor(np.ones((4, 3), np.float32), DEVICE)).sum().backward()
    np.testing.assert_array_equal(flat.gradient, np.full(8, 4.0))


def test_overwriting_keeps_the_tensor():
    for where in (torch.device("cpu"), DEVICE):
        target = torch.zeros(3, device=where)
        overwrite(target, np.arange(3, dtype=np.float32))
        (found,) = arrays(target)
        np.testing.assert_array_equal(found, np.arange(3))


def test_a_torch_without_cuda_is_said_with_a_remedy(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    count, seen = visible_devices()
    assert count == 0
    assert "was built without CUDA; install a CUDA build" in seen


def test_visible_devices_are_counted(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_devices()[1].endswith("sees 2 CUDA devices")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    count, seen = visible_devices()
    assert count == 0
    assert "sees no CUDA devices; request GPUs (Slurm: --gpus-per-task=1 or --gpus-per-node=N)" in seen


def test_a_broken_device_is_one_line(monkeypatch):
    monkeypatch.setattr(devices, "visible_devices", lambda: (1, "torch sees 1 CUDA device"))

    def fail(_):
        raise RuntimeError("CUDA error:\nout of order")

    monkeypatch.setattr(torch.cuda, "set_device", fail)
    with pytest.raises(devices.ConfigError) as error:
        open_device("cuda", 3)
    assert str(error.value).startswith(
        "device: cuda: cuda:0 does not work (CUDA error: out of order); check "
    )
