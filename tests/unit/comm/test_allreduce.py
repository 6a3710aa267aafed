"""Reductions among learners: equality with a server, and backends that are missing or fail."""

import platform
import socket
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from hpcmarl.comm import BACKENDS, REPAIRABLE
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.reductions import base as sums
from hpcmarl.comm.reductions.base import LibrarySum, SumBackend, find_backend
from hpcmarl.comm.reductions.horovod_allreduce import HorovodAllReduce
from hpcmarl.comm.reductions.torch_allreduce import GlooAllReduce, NcclAllReduce
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import RoundsConfig
from hpcmarl.config.file import load_config
from hpcmarl.doctor.checks import check_reductions
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.training import form_reduction_group, prepare
from tests.support.worlds import SPREAD

# ---- backends


def test_every_choice_has_a_backend():
    choices = set(get_args(RoundsConfig.model_fields["reduce"].annotation))
    assert choices == {"server", *BACKENDS}
    assert set(REPAIRABLE) < set(BACKENDS)
    assert [RoundsConfig(reduce=choice).collective for choice in ("server", *BACKENDS)] == [
        False,
        *[True] * len(BACKENDS),
    ]
    assert all(issubclass(find_backend(name), SumBackend) for name in BACKENDS if name != "mpi")


def test_missing_horovod_error_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    problem = HorovodAllReduce.problem(["here"])
    assert "not installed; run tools/install_horovod" in problem
    assert "\n" not in problem


def test_mismatched_horovod_error_names_the_remedy(monkeypatch, tmp_path):
    (tmp_path / "horovod").mkdir()
    (tmp_path / "horovod" / "__init__.py").write_text("")
    (tmp_path / "horovod" / "torch.py").write_text("raise ImportError('undefined symbol:\\n _ZN5torch')")
    for name in [name for name in sys.modules if name.split(".")[0] == "horovod"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    problem = HorovodAllReduce.problem(["here"])
    monkeypatch.delitem(sys.modules, "horovod")
    assert "undefined symbol: _ZN5torch" in problem
    assert "tools/install_horovod" in problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_nccl_without_a_gpu_is_refused(monkeypatch):
    assert "rounds.reduce: mpi or gloo" in NcclAllReduce.problem(["here"])
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert "no CUDA device" in NcclAllReduce.problem(["here"])


def test_learners_of_a_host_take_different_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    backend = NcclAllReduce.__new__(NcclAllReduce)
    hosts = ["a", "b", "a", "a", "b"]
    assert [backend._choose_device(rank, hosts).index for rank in range(5)] == [0, 0, 1, 0, 1]


def test_gloo_requires_an_interface_for_loopback_hosts(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    assert GlooAllReduce.problem(["a", "a"]) == ""
    assert f"{platform.node()} means 127.0.1.1" in GlooAllReduce.problem(["a", "b"])
    assert "export GLOO_SOCKET_IFNAME" in GlooAllReduce.problem(["a", "b"])
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.7")
    assert GlooAllReduce.problem(["a", "b"]) == ""


def test_failed_sum_raises_if_all_ranks_stay_alive(monkeypatch):
    def begin():
        raise RuntimeError("connection reset")

    failed = LibrarySum("gloo", begin)
    assert failed.result() is None
    monkeypatch.setattr(sums, "FAILURE_TIMEOUT", 0.0)
    with pytest.raises(
        HpcmarlError,
        match=r"rounds\.reduce: gloo: a sum failed although all ranks are alive: connection reset",
    ):
        failed.result()


def test_sum_failing_midway_never_returns_a_result(monkeypatch):
    answers = iter([None, RuntimeError("lost"), np.ones(3)])

    def poll():
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return answer

    broken = LibrarySum("horovod", lambda: poll)
    assert [broken.result() for _ in range(4)] == [None] * 4


# ---- runs


class Refusing:
    """Transport of two learners, one of which lacks the backend."""

    rank, size = 0, 2

    def reduction_group(self, ranks, hosts, backend):
        assert (list(ranks), list(hosts)) == ([0], ["here", "there"])
        raise UsageError(f"rounds.reduce: {backend}: nothing is installed")

    def gather_at_first(self, payload):
        return [bytes(len(payload)), payload]


def test_backend_problem_of_one_rank_is_reported_on_all():
    config = load_config(SPREAD, ("rounds.reduce=horovod",))
    topology = assign_roles(2, ["here", "there"], config.topology)
    assert (
        form_reduction_group(Refusing(), config, topology) == "rounds.reduce: horovod: nothing is installed"
    )
    assert form_reduction_group(Refusing(), load_config(SPREAD), topology) == ""


def test_a_bad_backend_leaves_no_run_directory(monkeypatch, tmp_path):
    monkeypatch.setattr("hpcmarl.training.form_reduction_group", lambda *_: "rounds.reduce: nccl: no")
    with pytest.raises(UsageError, match=r"rounds\.reduce: nccl: no"):
        prepare(LocalWorld(1).transports[0], load_config(SPREAD), str(tmp_path / "run"), None)
    assert not (tmp_path / "run").exists()


def test_doctor_reports_every_reduction_backend(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod", None)
    found = {
        finding.name.split()[-1]: finding
        for finding in check_reductions(load_config(SPREAD, ("rounds.reduce=horovod",)))
    }
    assert list(found) == ["gloo", "horovod", "nccl"]
    assert (found["gloo"].status, found["gloo"].value) == ("OK", "works")
    assert found["horovod"].status == "BAD"
    assert "tools/install_horovod" in found["horovod"].remedy
    assert {finding.status for finding in check_reductions(None)} == {"OK"}
