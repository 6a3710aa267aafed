"""The doctor's estimates for a job, compared with the files of a run."""

import h5py
import pytest

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config.file import load_config
from hpcmarl.doctor.estimate import judge_shared_memory, workload
from hpcmarl.envs import describe
from hpcmarl.errors import UsageError
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.league.runtime.sides import specs_of_sides
from hpcmarl.roles.worker_plan import check_shared_memory, plan_of, shared_bytes
from hpcmarl.training import check_environments
from tests.support.leagues import PENNIES
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


@pytest.mark.parametrize(("free", "status"), [(10**9, "OK"), (1000, "BAD"), (None, "BAD")])
def test_shared_memory_that_is_too_small_is_found_at_once(free, status):
    config = load_config(SPREAD, ["topology.workers_per_actor=2", "topology.environments_per_actor=64"])
    topology = assign_roles(8, ["a"] * 4 + ["b"] * 4, config.topology)
    spec = describe(config.env, config.policies)
    sizes = shared_bytes(config, topology, spec)
    assert sizes.keys() == {"a", "b"}
    assert all(size > 64 * 18 * 3 * 4 * 6 for size in sizes.values())  # the observations of one unroll
    found = judge_shared_memory(config, topology, spec, {"a": 10**9, "b": free})
    assert [finding.status for finding in found] == ["OK", status]
    if status == "OK":
        check_shared_memory(config, topology, spec, {"a": 10**9, "b": free})
        return
    with pytest.raises(UsageError, match=r"^b: workers need .* MB of /dev/shm \(.*lower topology.env"):
        check_shared_memory(config, topology, spec, {"a": 10**9, "b": free})


@pytest.mark.parametrize("changes", [(), ("algo={name: vdn}",)], ids=["ma_trace", "vdn"])
def test_shared_memory_of_a_league_is_that_of_a_side(changes):
    """VDN cannot learn both sides of a constant-sum game together, but each alone."""
    config = load_config(PENNIES, [*changes, "topology.workers_per_actor=2"])
    topology, spec = assign_roles(5, ["a"] * 5, config.topology), check_environments(config)
    sides = specs_of_sides(config, spec)
    assert [side.policies[0].name for side in sides] == ["row", "column"]
    (size,) = shared_bytes(config, topology, spec, sides).values()
    assert size == max(plan_of(config, side, spec, 2).size() for side in sides)
    (found,) = judge_shared_memory(config, topology, spec, {"a": size})
    assert found.status == "OK"
    check_shared_memory(config, topology, spec, {"a": size}, sides)
