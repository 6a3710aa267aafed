"""Devices of ranks: which one a rank takes, by its number on its host. No torch.

The n-th rank of a host that needs a device takes visible device n modulo their number. Learners come first,
then the actors that infer on a device. Slurm decides which devices are visible (CUDA_VISIBLE_DEVICES). With
one visible device for each task, every rank has its own. With all devices of a node visible to every task,
ranks take them in turn, and share them if there are more ranks than devices.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcmarl.errors import ConfigError

AUTO_REASON = "no timing on a GPU supports another choice yet, tools/gpu_check makes one"


def place_of(rank: int, hosts: Sequence[str], users: Sequence[int]) -> int:
    """Return the number of a rank among those of its host that need a device; 0 if it needs none.

    Args:
        rank: The rank.
        hosts: Host name of each rank.
        users: Ranks that need a device, in the order in which they take them.
    """
    beside = [user for user in users if hosts[user] == hosts[rank]]
    return beside.index(rank) if rank in beside else 0


def device_number(place: int, count: int) -> int:
    """Return the number of the visible device for a rank.

    Args:
        place: Number of the rank among those of its host that need a device.
        count: Number of visible devices, at least 1.
    """
    return place % count


def wants_cuda(setting: str) -> bool:
    """Return whether the key `device` names a CUDA device."""
    return setting.startswith("cuda")


def chosen_device(setting: str, place: int, count: int, seen: str) -> str:
    """Return the name of the device that a rank uses.

    Args:
        setting: Value of the key `device`: auto, cpu, cuda or cuda:N.
        place: Number of the rank among those of its host that need a device.
        count: Number of visible CUDA devices; not used by auto and cpu.
        seen: Torch's version and its view of the devices, for the message.

    Returns:
        "cpu" or "cuda:N".

    Raises:
        ConfigError: If the device does not exist.
    """
    if not wants_cuda(setting):
        return "cpu"
    if count == 0:
        raise ConfigError(f"device: {setting}, but {seen}, or set device: cpu")
    if setting == "cuda":
        return f"cuda:{device_number(place, count)}"
    if int(setting.partition(":")[2]) >= count:
        allowed = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise ConfigError(
            f"device: {setting}, but {seen}; allowed: {allowed}, cuda (ranks take the devices in turn), "
            "cpu and auto"
        )
    return setting


def shared_devices(devices: Sequence[tuple[int, str, str]]) -> str:
    """Return a line about learners that use the same device, which NCCL refuses; empty if none do.

    Args:
        devices: Rank, host and unique name of the device of each learner.
    """
    users: dict[tuple[str, str], list[int]] = {}
    for rank, host, name in devices:
        users.setdefault((host, name), []).append(rank)
    for (host, name), ranks in users.items():
        if len(ranks) > 1:
            return (
                f"rounds.reduce: nccl: the learners on ranks {', '.join(map(str, ranks))} share the device "
                f"{name} of {host}, which NCCL refuses; request one GPU per learner (Slurm: "
                "--gpus-per-task=1), lower topology.groups, or use rounds.reduce: mpi or gloo"
            )
    return ""
