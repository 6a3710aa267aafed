"""Collective runs whose backend is not needed, or cannot be repaired."""

import itertools
import platform
import socket
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from hpcmarl.comm import BACKENDS, REPAIRABLE, sums
from hpcmarl.comm.horovod_sums import HorovodSums
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.sums import LibrarySum, SumBackend, find_backend
from hpcmarl.comm.torch_sums import GlooSums, NcclSums
from hpcmarl.config import RoundsConfig
from hpcmarl.config.file import load_config
from hpcmarl.doctor.checks import check_reductions
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.roles.liveness import RunLost
from hpcmarl.roles.run import form_reduction_group, prepare
from tests.support.replays import idle_learners, load_trace, new_replica, play, record, server_result
from tests.support.worlds import SPREAD, run_world, summary


@pytest.mark.parametrize("reduce", sorted(BACKENDS))
def test_ranks_of_one_process_need_no_backend(reduce, tmp_path):
    run_world(3, tmp_path, "topology.groups=2", f"rounds.reduce={reduce}", "stop.updates=3")
    assert summary(tmp_path)["updates"] == 3


def test_unrepairable_backend_ends_run_on_learner_death(tmp_path):
    changes = ("topology.groups=2", "stop.updates=20", "checkpoint.every_updates=4")
    with pytest.raises(RunLost, match=r"rank 4 \(learner\) on .* has died, and with rounds.reduce: nccl"):
        run_world(7, tmp_path, *changes, "rounds.reduce=nccl", deaths={4: 5})
    assert list(tmp_path.glob("checkpoints/checkpoint-*.h5"))
    run_world(7, tmp_path / "actor", *changes, "rounds.reduce=nccl", deaths={3: 5})  # an actor can be spared
    assert summary(tmp_path / "actor")["updates"] == 20
