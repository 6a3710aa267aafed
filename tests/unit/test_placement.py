"""Devices of learners by their number on their host, and the messages about devices that do not exist."""

import pytest

from hpcmarl.errors import ConfigError
from hpcmarl.placement import chosen_device, place_of, shared_devices

SEEN = "torch 2.13.0 sees 2 CUDA devices"


def test_learners_of_a_host_take_its_devices_in_turn():
    hosts, learners = ["a", "a", "a", "b", "b", "b"], [0, 2, 3, 4, 5]
    places = [place_of(rank, hosts, learners) for rank in learners]
    assert places == [0, 1, 0, 1, 2]
    assert [chosen_device("cuda", place, 2, SEEN) for place in places] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]


def test_one_visible_device_for_each_task_is_its_own():
    assert {chosen_device("cuda", place, 1, SEEN) for place in range(4)} == {"cuda:0"}


def test_a_numbered_device_is_the_same_for_all():
    assert {chosen_device("cuda:1", place, 2, SEEN) for place in range(4)} == {"cuda:1"}


@pytest.mark.parametrize("setting", ["auto", "cpu"])
def test_other_settings_are_the_cpu(setting):
    assert chosen_device(setting, 0, 0, SEEN) == "cpu"


@pytest.mark.parametrize(
    ("setting", "count", "parts"),
    [
        ("cuda:7", 2, ("device: cuda:7, but torch 2.13.0 sees 2", "allowed: cuda:0 to cuda:1, cuda (")),
        ("cuda:1", 1, ("allowed: cuda:0, cuda (",)),
        ("cuda", 0, ("device: cuda, but ", "or set device: cpu")),
        ("cuda:0", 0, ("device: cuda:0, but ", "or set device: cpu")),
    ],
)
def test_a_device_that_does_not_exist_is_one_line(setting, count, parts):
    with pytest.raises(ConfigError) as error:
        chosen_device(setting, 0, count, SEEN)
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


def test_shared_devices_are_named_for_nccl():
    own = [(0, "a", "GPU-1"), (1, "a", "GPU-2"), (2, "b", "GPU-1")]
    assert shared_devices(own) == ""
    text = shared_devices([*own, (3, "b", "GPU-1")])
    assert "learners on ranks 2, 3 share the device GPU-1 of b" in text
    assert "--gpus-per-task=1" in text
