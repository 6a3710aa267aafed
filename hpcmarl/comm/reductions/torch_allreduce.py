"""Sums among learners by torch.distributed: gloo (TCP, main memory) and nccl (GPUs).

The members exchange their addresses over MPI (comm/reductions/torch_store.py). The process groups are created
directly, which leaves torch's global state unchanged and allows a group to be abandoned.

Gloo opens a listening socket in every learner. It uses the interfaces in GLOO_SOCKET_IFNAME if that is set.
Otherwise it uses the loopback interface if all learners are on one host, else the interface of the host's
name.
"""

from __future__ import annotations

import datetime
import os
import platform
import socket
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as distributed

from hpcmarl.comm.reductions.base import LibrarySum, SumBackend
from hpcmarl.placement import device_number, place_of
from hpcmarl.types import Array

CONNECT_SECONDS = 20.0
# A learner may join a sum late, so the limit is long. MPI detects dead members, and
# topology.heartbeat_timeout_seconds detects frozen ones.
SUM_SECONDS = 86_400.0
LOOPBACK = "127.0.0.1"


class TorchAllReduce(SumBackend):
    """Common part of the gloo and nccl backends."""

    name: ClassVar[str]

    def __init__(self, communicator: Any, hosts: Sequence[str]) -> None:
        from hpcmarl.comm.reductions.torch_store import MpiStore

        self.device = self._choose_device(communicator.Get_rank(), hosts)
        # The attribute keeps the store alive: torch holds no reference to a store written in Python.
        self._store = MpiStore(communicator)
        self._group: Any = self._make_group(self._store, communicator.Get_rank(), hosts)

    @abstractmethod
    def _choose_device(self, rank: int, hosts: Sequence[str]) -> torch.device:
        """Return the device on which this member sums vectors."""

    @abstractmethod
    def _make_group(self, store: Any, rank: int, hosts: Sequence[str]) -> Any:
        """Create a connected torch process group. Collective.

        Raises:
            RuntimeError: If a member does not connect.
        """

    def start(self, vector: Array | torch.Tensor) -> LibrarySum:
        return LibrarySum(self.name, lambda: self._begin(vector))

    def _begin(self, vector: Array | torch.Tensor) -> Callable[[], Array | None]:
        # a copy, because the sum is in place
        tensor = (
            vector.clone() if isinstance(vector, torch.Tensor) else torch.tensor(vector, device=self.device)
        )
        work = self._group.allreduce([tensor], _sum_options())

        def poll() -> Array | None:
            if not work.is_completed():
                return None
            work.wait()  # raises RuntimeError if the sum has failed
            if tensor.is_cpu:
                return np.asarray(tensor.numpy())
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            return np.asarray(host.copy_(tensor).numpy())

        return poll

    def abandon(self) -> None:
        # The group's threads may wait for members that will not answer, and its destructor would wait for the
        # threads. The group is therefore kept until the process ends, which is by os._exit in a run that has
        # lost a rank.
        if self._group is not None:
            _ABANDONED.append(self._group)
            self._group = None

    def close(self) -> None:
        self._group = None


_ABANDONED: list[Any] = []


def _sum_options() -> Any:
    options: Any = distributed.AllreduceOptions()
    options.reduceOp = distributed.ReduceOp.SUM
    options.timeout = datetime.timedelta(seconds=SUM_SECONDS)
    if hasattr(options, "asyncOp"):  # from torch 2.8 on
        options.asyncOp = True
    return options


class GlooAllReduce(TorchAllReduce):
    """Sums on the CPU, over TCP."""

    name = "gloo"

    @classmethod
    def problem(cls, hosts: Sequence[str]) -> str:
        if not (distributed.is_available() and distributed.is_gloo_available()):
            return f"torch {torch.__version__} was built without gloo; choose rounds.reduce: mpi"
        if len(set(hosts)) > 1 and not os.environ.get("GLOO_SOCKET_IFNAME"):
            try:
                address = socket.gethostbyname(platform.node())
            except OSError as error:
                return (
                    f"the host name {platform.node()} has no address ({error}); export "
                    "GLOO_SOCKET_IFNAME=<interface, see ip address>"
                )
            if address.startswith("127."):
                return (
                    f"the host name {platform.node()} means {address}, which the learners on other hosts "
                    "cannot reach; export GLOO_SOCKET_IFNAME=<interface, see ip address>"
                )
        return ""

    def _choose_device(self, rank: int, hosts: Sequence[str]) -> torch.device:
        return torch.device("cpu")

    def _make_group(self, store: Any, rank: int, hosts: Sequence[str]) -> Any:
        gloo: Any = distributed.ProcessGroupGloo
        options = gloo._Options()
        options._timeout = datetime.timedelta(seconds=CONNECT_SECONDS)
        options._threads = 1
        try:
            if interfaces := os.environ.get("GLOO_SOCKET_IFNAME"):
                options._devices = [
                    gloo.create_device(interface=interface) for interface in interfaces.split(",")
                ]
            elif len(set(hosts)) == 1:
                options._devices = [gloo.create_device(hostname=LOOPBACK)]
            else:
                options._devices = [gloo.create_default_device()]  # the interface of the host's name
            return gloo(store, rank, len(hosts), options)
        except RuntimeError as error:
            raise RuntimeError(
                f"{error}; GLOO_SOCKET_IFNAME chooses the interface, see ip address"
            ) from error


class NcclAllReduce(TorchAllReduce):
    """Sums on the learners' GPUs.

    Gradients that were computed on the GPU stay there until their sum is copied to the host. With
    `device: cpu`, each vector is copied to the GPU and back.
    """

    name = "nccl"

    @classmethod
    def problem(cls, hosts: Sequence[str]) -> str:
        if not (distributed.is_available() and distributed.is_nccl_available()):
            return (
                f"torch {torch.__version__} was built without NCCL; install a CUDA build of torch, or "
                "choose rounds.reduce: mpi or gloo"
            )
        if not torch.cuda.is_available():
            return (
                "this learner sees no CUDA device; request one GPU per learner (Slurm: --gpus-per-task=1), "
                "or choose rounds.reduce: mpi or gloo"
            )
        return ""

    def _choose_device(self, rank: int, hosts: Sequence[str]) -> torch.device:
        """Return the learner's own GPU (`device`); for learners on the CPU, the one of their place."""
        cuda: Any = torch.cuda
        if cuda.is_initialized():  # the learner has opened its device
            return torch.device("cuda", torch.cuda.current_device())
        place = place_of(rank, hosts, range(len(hosts)))
        return torch.device("cuda", device_number(place, torch.cuda.device_count()))

    def _make_group(self, store: Any, rank: int, hosts: Sequence[str]) -> Any:
        torch.cuda.set_device(self.device)
        nccl: Any = distributed.ProcessGroupNCCL
        group = nccl(store, rank, len(hosts), datetime.timedelta(seconds=SUM_SECONDS))
        # NCCL connects and blocks during the first sum. Do it here, where all members wait anyway.
        group.allreduce([torch.zeros(1, device=self.device)], _sum_options()).wait()
        torch.cuda.synchronize(self.device)
        return group
