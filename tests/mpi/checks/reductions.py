"""Sums among real learners by each backend.

They equal the sums of a server, and a run can resume with another backend.
"""

import os
import sys
import time
from unittest import mock

import numpy as np
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.errors import HpcmarlError
from hpcmarl.training import prepare
from tests.mpi.checks import Ranks, on_ranks
from tests.support.replays import new_replica, play, record, server_result
from tests.support.worlds import SPREAD, summary

TRACES = [("rennala", 3, 2), ("sync", 3, 6), ("malenia", 3, 8), ("malenia", 2, 6)]
BACKENDS = ("horovod", "hpcmarl.comm.reductions.horovod_allreduce", "hpcmarl.comm.reductions.torch_allreduce")


def loaded_backends() -> list[str]:
    return [name for name in sys.modules if name.startswith(BACKENDS)]


@on_ranks(4, libraries=("openmpi",), backend=("horovod",))
@on_ranks(4, backend=("mpi", "gloo"))
def ranks_sum_what_a_server_sums(ranks: Ranks, backend: str) -> None:
    """The ranks play recorded gradients, and the results are compared with a server's.

    The last rank stands by and must load no backend.
    """
    from hpcmarl.comm.mpi.group import MpiGroup  # starts MPI

    standing_by = ranks.rank == ranks.size - 1
    if standing_by:
        assert not loaded_backends(), "an earlier check has loaded a backend: this one must come first"
    transport = ranks.transport()
    hosts = transport.gather_hosts()
    for number, (rule, groups, batch) in enumerate(TRACES):
        # The trace is the same on every rank.
        trace = record(ranks.directory / f"{number}-{ranks.rank}", rule, groups, batch, updates=4)
        group = MpiGroup(transport.comm, list(range(groups)), hosts, backend)
        for dtype in (np.float64, np.float32) if ranks.rank < groups else ():
            replica = new_replica(trace, ranks.rank, group.start_sum, dtype, group.device)
            for _ in play(trace, replica):
                time.sleep(1e-4)
            exact = dtype is np.float64 and (rule != "malenia" or groups < 3)
            # Sums of float32 gradients are exact in float64, in any order. Sums of three gradients that
            # malenia has scaled are not.
            rounding = (
                {"rtol": 0.0}
                if exact
                else {"rtol": 1e-12}
                if dtype is np.float64
                else {"rtol": 1e-4, "atol": 1e-6}
            )
            np.testing.assert_allclose(
                replica.optimizer.parameters, server_result(trace, dtype), err_msg=rule, **rounding
            )
            digests = group._comm.allgather(replica.optimizer.parameters.tobytes())
            assert len(set(digests)) == 1, "the replicas differ"
        group.close()
    if standing_by:
        assert not loaded_backends()
    transport.close()


@on_ranks(4, libraries=("openmpi",), backends=("gloo mpi", "horovod gloo"))
def a_run_resumes_with_another_backend(ranks: Ranks, backends: str) -> None:
    first, second = backends.split()
    always = ("topology.groups=2", "topology.actors_per_learner=1", "rounds.rule=rennala", "rounds.batch=4")
    ranks.train(SPREAD, *always, f"rounds.reduce={first}")
    ranks.train(SPREAD, *always, f"rounds.reduce={second}", "stop.updates=9", resume="auto")
    if ranks.rank == 0:
        told = summary(ranks.directory / "run")
        assert (told["status"], told["updates"], told["ranks"]) == ("finished", 9, 4)


REMEDIES = (
    ("nccl", "choose rounds.reduce: mpi or gloo"),
    ("horovod_missing", "tools/install_horovod"),
    ("gloo", "GLOO_SOCKET_IFNAME chooses the interface"),
)


@on_ranks(3, libraries=("openmpi",), case=REMEDIES)
def a_missing_backend_is_rejected_on_every_rank(ranks: Ranks, case: tuple[str, str]) -> None:
    backend, remedy = case[0].removesuffix("_missing"), case[1]
    changes = ("topology.groups=2", f"rounds.reduce={backend}")
    without = {"horovod": None, "horovod.torch": None} if backend == "horovod" else {}
    transport = ranks.transport()
    with (
        mock.patch.dict(os.environ, {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "nosuch0"}),
        mock.patch.dict(sys.modules, without),
        pytest.raises(HpcmarlError, match=rf"rounds\.reduce: {backend}: .*{remedy}") as caught,
    ):
        prepare(transport, load_config(SPREAD, changes), str(ranks.directory / "run"), None)
    assert caught.value.exit_code == 2
    assert caught.value.everywhere  # each rank ends without the others
    transport.close()
    assert not (ranks.directory / "run").exists()
