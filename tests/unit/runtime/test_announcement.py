"""What a run says before it trains."""

from pathlib import Path

import pytest

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import EnvConfig, TopologyConfig
from hpcmarl.envs import describe
from hpcmarl.runtime.announcement import crowded_cores, describe_policies, describe_ranks


def world(size, hosts=1, **topology):
    names = [f"node{rank * hosts // size}" for rank in range(size)]
    return assign_roles(size, names, TopologyConfig(**topology))


def test_ranks_are_listed_by_their_roles():
    assert (
        describe_ranks(world(4))
        == "4 ranks on 1 host: server+evaluator on rank 0, learner on rank 1, actor on ranks 2-3"
    )
    many = describe_ranks(world(1000, hosts=10, groups=100))
    assert many.startswith("1000 ranks on 10 hosts: ")
    assert "learner on 100 ranks" in many
    assert len(many) < 200


def test_policies_and_parameters_share_one_line():
    spec = describe(EnvConfig(id="mpe2.simple_tag_v3"), {})
    line = describe_policies(spec, 13446, Path("runs/x"))
    assert line.endswith("adversary (3 agents), agent_0 (1 agent); 13,446 parameters, run directory runs/x")


@pytest.mark.parametrize(
    ("size", "hosts", "cores", "threads", "warned"),
    [
        (4, 1, 2, 1, ["-n 3"]),
        (3, 1, 2, 1, []),
        (3, 1, 2, 2, ["-n 2"]),
        (1, 1, 1, 1, []),
        (40, 10, 2, 1, 0),
    ],
)
def test_ranks_that_exceed_the_cores_of_a_host_warn(size, hosts, cores, threads, warned):
    lines = crowded_cores(world(size, hosts), dict.fromkeys(range(size), cores), threads)
    if warned == 0:
        assert len(lines) == 4
        assert lines[-1].startswith("7 more hosts")
        return
    assert len(lines) == len(warned)
    assert all(words in line for words, line in zip(warned, lines, strict=True))
    assert not crowded_cores(world(size, hosts), {}, threads)
