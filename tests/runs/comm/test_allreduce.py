"""Collective runs with a backend that is not needed or cannot be repaired."""

import pytest

from hpcmarl.comm import BACKENDS
from hpcmarl.runtime.heartbeat import RunLost
from tests.support.worlds import run_world, summary


@pytest.mark.parametrize("reduce", sorted(BACKENDS))
def test_ranks_of_one_process_need_no_backend(reduce, tmp_path):
    run_world(3, tmp_path, "topology.groups=2", f"rounds.reduce={reduce}", "stop.updates=3")
    assert summary(tmp_path)["updates"] == 3


def test_unrepairable_backend_ends_run_on_learner_death(tmp_path):
    changes = ("topology.groups=2", "stop.updates=20", "checkpoint.every_updates=4")
    with pytest.raises(RunLost, match=r"rank 4 \(learner\) on .* has died, and with rounds.reduce: nccl"):
        run_world(7, tmp_path, *changes, "rounds.reduce=nccl", deaths={4: 5})
    assert list(tmp_path.glob("checkpoints/checkpoint-*.h5"))
    # The run continues without this actor.
    run_world(7, tmp_path / "actor", *changes, "rounds.reduce=nccl", deaths={3: 5})
    assert summary(tmp_path / "actor")["updates"] == 20
