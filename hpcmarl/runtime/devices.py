"""The devices of a run: learners and actors open their own, and rank 0 collects them before the start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcmarl.comm.topology import Topology
from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.errors import UsageError
from hpcmarl.nets.inference import opens_device
from hpcmarl.placement import AUTO_REASON, place_of, shared_devices, wants_cuda

PROBLEM_BYTES = 1000
FIELD = "\t"  # between the fields of a learner's report
DRIVER = Path("/dev/nvidiactl")
MOST_NAMED = 8  # ranks whose device the remark names


@dataclass(frozen=True)
class DeviceReport:
    """Devices of all ranks, on rank 0; empty on other ranks.

    Attributes:
        problem: Reason why a rank has no device, in one line; empty: none.
        remark: Devices of the ranks in one line; empty: all use the CPU.
    """

    problem: str = ""
    remark: str = ""


def device_users(config: Config, topology: Topology) -> list[int]:
    """Return the ranks that need a device, in the order in which they take them: learners, then actors."""
    learners = [group.learner for group in topology.groups]
    actors = [
        actor
        for actor in topology.actors
        if actor not in learners and opens_device(config, has_workers=bool(topology.workers_of(actor)))
    ]
    return learners + actors


def device_place(config: Config, topology: Topology, rank: int) -> int:
    """Return the number of a rank among those of its host that need a device; 0 if it needs none."""
    return place_of(rank, topology.hosts, device_users(config, topology))


def check_devices(transport: Transport, config: Config, topology: Topology) -> DeviceReport:
    """Let each rank that needs a device open it. Collective if `device` names one. Others import no torch.

    Returns:
        On rank 0 the devices or the problem.
    """
    if not wants_cuda(config.device):
        return DeviceReport(remark=_unused_devices() if config.device == "auto" else "")
    own, rank = "", transport.rank
    if rank in device_users(config, topology):
        own = FIELD.join(open_own(config, topology, rank))
    return judge_devices(config, topology, gather_texts(transport, own))


def judge_devices(config: Config, topology: Topology, texts: Sequence[str]) -> DeviceReport:
    """Return the devices of all ranks, or the first problem.

    Args:
        config: Configuration of the run.
        topology: Roles and hosts of all ranks.
        texts: The result of `open_own` of each rank, joined by FIELD; empty for ranks without a device.
    """
    reports = []
    for number, text in enumerate(texts):
        device, found, name = text.partition(FIELD)
        if found and not device:
            return DeviceReport(name)
        if found:
            reports.append((number, device, name))
    learners = [group.learner for group in topology.groups]
    used = [(number, topology.hosts[number], name) for number, _, name in reports if number in learners]
    problem = shared_devices(used) if config.rounds.reduce == "nccl" else ""
    named = [f"rank {number} {device} on {topology.hosts[number]}" for number, device, _ in reports]
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    remark = f"devices: {', '.join(named[:MOST_NAMED])}{more}" if named else ""
    return DeviceReport(problem, remark)


def _unused_devices() -> str:
    """Return a remark if this host has NVIDIA devices that `device: auto` does not use."""
    if not DRIVER.exists() or os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return ""
    return f"device: auto is the CPU although this host has a GPU ({AUTO_REASON}); device: cuda uses it"


def open_own(config: Config, topology: Topology, rank: int) -> tuple[str, str]:
    """Open the device of a rank.

    Returns:
        Torch's name of the device and its unique name. Without a device, an empty text and the reason.
    """
    from hpcmarl.nets.device import open_device, unique_name

    role = "learner" if rank in [group.learner for group in topology.groups] else "actor"
    try:
        device = open_device(config.device, device_place(config, topology, rank))
    except UsageError as error:
        return "", f"rank {rank} ({role}) on {topology.hosts[rank]}: {error}"
    return str(device), unique_name(device)


def first_problem(transport: Transport, own: str) -> str:
    """Return the problem of the lowest rank that has one, on rank 0; elsewhere an empty text. Collective."""
    return next((text for text in gather_texts(transport, own) if text), "")


def gather_texts(transport: Transport, own: str) -> list[str]:
    """Return the text of each rank, on rank 0; elsewhere no texts or empty ones. Collective."""
    texts = transport.gather_at_first(own.encode()[:PROBLEM_BYTES].ljust(PROBLEM_BYTES, b"\0"))
    return [text.rstrip(b"\0").decode(errors="replace") for text in texts]
