"""The doctor's estimates for a job, compared with the files of a run."""

import h5py
import pytest

from hpcmarl.config.file import load_config
from hpcmarl.doctor.estimate import workload
from hpcmarl.envs import describe
from hpcmarl.io.trajectories.shard_reader import list_shards
from tests.support.worlds import SPREAD, run_world


@pytest.mark.parametrize("critic", ["joint_observation", "state"])
def test_bytes_of_a_step_are_those_in_a_shard(tmp_path, critic):
    changes = (f"algo.critic={critic}", "trajectories.enabled=true", "env.kwargs.max_cycles=6")
    run_world(2, tmp_path, *changes)
    config = load_config(SPREAD, changes)
    sizes = []
    shard = list_shards(tmp_path)[0]
    with h5py.File(shard) as file:
        names = ("step", "segment", "feature", "agent", "state_feature", "committed")  # axes and a counter
        file.visititems(
            lambda name, item: (
                sizes.append(item.nbytes)
                if hasattr(item, "nbytes") and name.split("/")[-1] not in names
                else None
            )
        )
        steps = file["steps/env/episode_start"].shape[0]
    assert workload(config, describe(config.env, config.policies)).step_bytes == pytest.approx(
        sum(sizes) / steps, rel=0.01
    )
