"""Devices of a run's ranks, as rank 0 judges them before the start."""

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config.file import load_config
from hpcmarl.runtime import devices
from hpcmarl.runtime.devices import FIELD, check_devices, device_place, device_users, judge_devices

RUN = "env: {id: a.b}\nstop: {updates: 3}\n"
CUDA = ("device=cuda", "topology.groups=2", "topology.placement=separate")


def world(*changes):
    """Return a configuration and the roles of eight ranks on two hosts."""
    config = load_config(RUN, changes)
    return config, assign_roles(8, ["a"] * 4 + ["b"] * 4, config.topology)


def test_learners_are_numbered_on_their_host():
    config, topology = world("topology.groups=4")
    learners = [group.learner for group in topology.groups]
    places = [device_place(config, topology, rank) for rank in learners]
    on_first = sum(topology.hosts[rank] == "a" for rank in learners)
    assert places == [*range(on_first), *range(len(learners) - on_first)]


def test_devices_of_all_learners_are_one_remark():
    config, topology = world(*CUDA)
    texts = [""] * 8
    for place, group in enumerate(topology.groups):
        texts[group.learner] = f"cuda:{place}{FIELD}GPU-{place}"
    report = judge_devices(config, topology, texts)
    first, second = (group.learner for group in topology.groups)
    assert report.problem == ""
    assert f"rank {first} cuda:0 on {topology.hosts[first]}, rank {second} cuda:1 on " in report.remark


def test_the_first_missing_device_is_the_problem():
    config, topology = world(*CUDA)
    texts = [f"cuda:0{FIELD}GPU-0", f"{FIELD}no device here", *[""] * 6]
    assert judge_devices(config, topology, texts).problem == "no device here"


def test_learners_that_share_a_device_cannot_use_nccl():
    texts = ["", f"cuda:0{FIELD}GPU-0", f"cuda:0{FIELD}GPU-0", *[""] * 5]
    assert judge_devices(*world(*CUDA), texts).problem == ""
    problem = judge_devices(*world(*CUDA, "rounds.reduce=nccl"), texts).problem
    assert "learners on ranks 1, 2 share the device GPU-0 of a, which NCCL refuses" in problem


@pytest.mark.parametrize(("visible", "said"), [("0", True), ("", False), ("-1", False)])
def test_an_unused_gpu_is_said_once(visible, said, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "DRIVER", tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config, topology = world()
    report = check_devices(LocalWorld(1).transports[0], config, topology)
    assert report.remark.startswith("device: auto is the CPU although") == said
    config, topology = world("device=cpu")
    assert check_devices(LocalWorld(1).transports[0], config, topology).remark == ""


def test_actors_take_devices_after_the_learners():
    changes = ("device=cuda", "topology.workers_per_actor=1")
    config, topology = world(*changes)
    learners = [group.learner for group in topology.groups]
    users = device_users(config, topology)
    assert users[: len(learners)] == learners
    assert set(users[len(learners) :]) == set(topology.actors) - set(learners)
    for host in ("a", "b"):
        places = [device_place(config, topology, rank) for rank in users if topology.hosts[rank] == host]
        assert places == [*range(len(places))]
    config, topology = world("device=cuda", "topology.groups=2")
    assert device_users(config, topology) == [group.learner for group in topology.groups]
    config, topology = world("device=cuda", "topology.inference=device")
    assert set(topology.actors) <= set(device_users(config, topology))
