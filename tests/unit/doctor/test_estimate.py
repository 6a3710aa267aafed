"""Estimates of the doctor and of submit for a job."""

import pytest

from hpcmarl.comm.topology import assign_roles, in_words
from hpcmarl.config.file import load_config
from hpcmarl.doctor import estimate as estimates
from hpcmarl.doctor.estimate import Workload, estimate
from hpcmarl.envs import describe

SPREAD = "env: {id: mpe2.simple_spread_v3}\nstop: {updates: 1}\n"


def findings_of(ranks, *changes, known=False, hosts=None, **more):
    """Return the findings for a run of simple_spread, by name.

    The estimate sees the specification of the environment only if it is `known`.
    """
    config = load_config(SPREAD, changes)
    topology = assign_roles(ranks, hosts or ["h"] * ranks, config.topology)
    spec = describe(config.env, config.policies) if known else None
    return {finding.name: finding for finding in estimate(config, topology, spec, **more)}


@pytest.mark.parametrize(
    ("ranks", "text"),
    [([], "ranks "), ([3], "rank 3"), ([0, 1, 2], "ranks 0-2"), ([9, 0, 1, 4, 5, 6], "ranks 0-1, 4-6, 9")],
)
def test_ranks_are_written_as_ranges(ranks, text):
    assert in_words(ranks) == text


def test_files_a_day_are_bounded_by_default():
    few, many = findings_of(4)["trajectory files"], findings_of(2000)["trajectory files"]
    assert few.value.startswith("about 288 a day from 2 actors; each begins a new file after 600 s or 256 MB")
    assert many.status == "OK"
    assert findings_of(2000, "trajectories.shard_seconds=60")["trajectory files"].status == "WARN"
    assert "none" in findings_of(4, "trajectories.enabled=false")["trajectory files"].value
    assert "trajectory bytes" not in findings_of(4)


def test_bytes_in_all_and_the_limit_are_told():
    value = findings_of(
        4, "stop.env_steps=2000000", "trajectories.every=2", "trajectories.max_gigabytes=3", known=True
    )["trajectory bytes"].value
    assert value.endswith(" at 1,000 steps/s of all actors, 0.3 GB in total; at most 6 GB")


def test_memory_is_told_by_host_and_compared():
    hosts = ["a", "a", "b", "b", "b"]
    config = load_config(SPREAD)
    topology = assign_roles(5, hosts, config.topology)
    first, second = estimates.judge_memory(config, topology, None, {"a": 1e12, "b": 5e8})
    assert (first.status, first.value) == ("OK", "a: ranks 0-1 need up to 0.5 GB of 1000.0 GB")
    assert (second.status, second.value) == ("WARN", "b: ranks 2-4 need up to 0.6 GB of 0.5 GB")
    assert "--mem" in second.remedy


def test_parameters_weigh_more_on_learners_and_the_server():
    config = load_config(SPREAD)
    topology = assign_roles(4, ["server", "learner", "actor", "actor"], config.topology)
    small, large = (
        {
            host: needed
            for host, _, needed in estimates.memory_of_hosts(config, topology, Workload(300, parameters))
        }
        for parameters in (0, 1_000_000)
    )
    more = {host: large[host] - small[host] for host in large}
    assert more == {"server": 44e6, "learner": 44e6, "actor": 2 * 12e6}


def test_memory_of_a_replay_is_its_limit():
    before, after = (
        findings_of(4, "algo.name=vdn", f"algo.replay.megabytes={size}")["memory"].value for size in (1, 5001)
    )
    assert [float(value.split(" GB")[0].split()[-1]) for value in (before, after)] == [0.9, 5.9]


def test_many_ranks_on_shared_storage_are_told_to_stage(monkeypatch):
    monkeypatch.setattr(estimates, "file_system_type", lambda path: "lustre")
    assert findings_of(4)["start"].status == "OK"
    many = findings_of(200)["start"]
    assert (many.status, many.remedy) == ("WARN", "slurm.stage: true unpacks the environment on each node")
    assert many.value == "ranks 0-199: about 1,221,000 stat and open calls on lustre until all ranks train"
    assert findings_of(200, staged=True)["start"].status == "OK"
    monkeypatch.setattr(estimates, "file_system_type", lambda path: "ext4")
    assert findings_of(200)["start"].status == "OK"


def test_type_of_a_file_system_is_that_of_the_nearest_mount():
    assert estimates.file_system_type("/proc/self") == "proc"
    assert estimates.file_system_type("/") != "proc"
