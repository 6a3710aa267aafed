"""Sums of gradients as arrays and as tensors of a device."""

import numpy as np
import pytest
import torch

from hpcmarl.nets.device import array, tensor
from hpcmarl.roles.learner.gradient_sum import HostSum, make_sum
from tests.support.fake_device import fake_device

DEVICES = {"cpu": torch.device("cpu"), "fake": fake_device()}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_sums_like_the_host(device, dtype):
    host = make_sum(5, np.dtype(dtype), None)
    other = make_sum(5, np.dtype(dtype), DEVICES[device])
    assert isinstance(host, HostSum)
    generator = np.random.default_rng(0)
    for count in (3, 0):
        for _ in range(count):
            vector = generator.standard_normal(5).astype(np.float32)
            host.add(vector)
            other.add(tensor(vector, DEVICES[device]))
        expected, found = host.take(1 / 3, count, None), array(other.take(1 / 3, count, None))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected)
        assert found[-1] == count
