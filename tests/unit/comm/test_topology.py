"""Assignment of roles: every rank has work, and errors about sizes name the allowed ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import TopologyConfig
from hpcmarl.errors import ConfigError


@given(
    size=st.integers(1, 40),
    groups=st.integers(1, 6),
    nodes=st.integers(1, 4),
    evaluators=st.integers(0, 8),
    server=st.sampled_from(["auto", "dedicated", "shared"]),
    placement=st.sampled_from(["colocated", "separate"]),
)
def test_every_rank_has_one_place(size, groups, nodes, evaluators, server, placement):
    hosts = [f"node{rank % nodes}" for rank in range(size)]
    config = TopologyConfig(groups=groups, evaluators=evaluators, server=server, placement=placement)
    least = groups + evaluators + (server == "dedicated")
    if size < least:
        with pytest.raises(ConfigError, match=r"topology\.(groups|evaluators)"):
            assign_roles(size, hosts, config)
        return
    topology = assign_roles(size, hosts, config)
    assert len(topology.groups) == groups
    trains = [rank for group in topology.groups for rank in {group.learner, *group.actors}]
    assert len(trains) == len(set(trains))
    others = [rank for rank in range(size) if rank not in trains]
    assert [topology.roles_of(rank) for rank in others if rank != 0] == [("evaluator",)] * evaluators
    assert all(group.actors for group in topology.groups)
    assert topology.roles_of(0)[0] == "server"


def test_evaluators_are_the_last_ranks():
    topology = assign_roles(8, ["a"] * 4 + ["b"] * 4, TopologyConfig(groups=2, evaluators=3))
    assert [row["roles"] for row in topology.table()] == [
        "server+evaluator+learner",
        "actor",
        "actor",
        "learner",
        "actor",
    ] + ["evaluator"] * 3


@pytest.mark.parametrize(
    ("size", "changes", "message"),
    [
        (
            2,
            {"evaluators": 2},
            r"topology.evaluators: 2 of 2 ranks leave no rank for a learner; allowed here: 0 to 1",
        ),
        (
            4,
            {"evaluators": 2, "groups": 3},
            r"4 ranks \(2 of them evaluators\) with .* has room for 2; start at least 5 ranks",
        ),
        (
            7,
            {"evaluators": 1, "groups": 2, "actors_per_learner": 1},
            r"need 5 ranks .* or 6 .*, not 7 \(1 of them evaluators\); change",
        ),
    ],
)
def test_impossible_topologies_name_the_allowed_sizes(size, changes, message):
    with pytest.raises(ConfigError, match=message):
        assign_roles(size, ["h"] * size, TopologyConfig(**changes))


@given(
    size=st.integers(1, 40),
    groups=st.integers(1, 3),
    nodes=st.integers(1, 3),
    workers=st.integers(1, 6),
    actors=st.sampled_from(["auto", 1, 2]),
    placement=st.sampled_from(["colocated", "separate"]),
)
def test_an_actor_and_its_workers_are_on_one_host(size, groups, nodes, workers, actors, placement):
    hosts = sorted(f"node{rank % nodes}" for rank in range(size))
    config = TopologyConfig(
        groups=groups, workers_per_actor=workers, actors_per_learner=actors, placement=placement
    )
    try:
        topology = assign_roles(size, hosts, config)
    except ConfigError:
        return
    members = [rank for group in topology.groups for rank in group.ranks]
    assert len(members) == len(set(members))
    for actor in topology.actors:
        team = topology.workers_of(actor)
        assert team
        assert {hosts[rank] for rank in team} == {hosts[actor]}
        assert all(topology.actor_of(worker) == actor for worker in team)
        assert all(topology.roles_of(worker) == ("worker",) for worker in team)


@pytest.mark.parametrize(
    ("size", "workers", "expected"),
    [
        (4, 3, ["server+evaluator+learner+actor", *["worker"] * 3]),
        (5, 3, ["server+evaluator+learner", "actor", *["worker"] * 3]),
        (6, 3, ["server+evaluator", "learner", "actor", *["worker"] * 3]),
        (12, 4, ["server+evaluator", "learner", *["actor", *["worker"] * 4] * 2]),
        (11, 4, ["server+evaluator", "learner", "actor", *["worker"] * 8]),
    ],
)
def test_roles_with_workers(size, workers, expected):
    topology = assign_roles(size, ["a"] * size, TopologyConfig(workers_per_actor=workers))
    assert [row["roles"] for row in topology.table()] == expected


@pytest.mark.parametrize(
    ("hosts", "workers", "message"),
    [
        (["a"] * 3, 3, "3 workers and their actor need 4 ranks, and there are 3"),
        (["a"] * 4 + ["b"], 2, "an actor and its workers must be on one host, and b has 1"),
    ],
)
def test_workers_that_do_not_fit_are_refused(hosts, workers, message):
    with pytest.raises(ConfigError, match=message):
        assign_roles(len(hosts), hosts, TopologyConfig(workers_per_actor=workers))


def test_group_is_lost_with_all_workers_of_its_only_actor():
    topology = assign_roles(6, ["a"] * 6, TopologyConfig(workers_per_actor=3))
    assert topology.groups_lost({3, 4}) == []
    assert topology.groups_lost({3, 4, 5}) == [0]
