"""Rank to role: a pure function, for every world size."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import GroupConfig, TopologyConfig
from hpcmarl.errors import ConfigError


def roles(size, **settings_):
    topology = assign_roles(size, ["host"] * size, TopologyConfig(**settings_))
    return [row["roles"] for row in topology.table()]


def test_small_worlds_by_default():
    assert roles(1) == ["server+evaluator+learner+actor"]
    assert roles(2) == ["server+evaluator+learner+actor", "actor"]
    assert roles(3) == ["server+evaluator+learner", "actor", "actor"]
    assert roles(4) == ["server+evaluator", "learner", "actor", "actor"]
    assert roles(8, groups=2) == ["server+evaluator", "learner", "actor", "actor", "actor", "learner", "actor", "actor"]


def test_a_learner_without_actors_steps_its_own():
    assert roles(3, groups=3, actors_per_learner=0) == ["server+evaluator+learner+actor", "learner+actor", "learner+actor"]
    assert roles(4, groups=3, actors_per_learner=0)[0] == "server+evaluator"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.sampled_from(["auto", "dedicated", "shared"]), st.integers(1, 4))
def test_every_rank_has_a_role_and_every_group_an_actor(size, groups, server, hosts):
    names = [f"host{rank * hosts // size}" for rank in range(size)]
    config = TopologyConfig(groups=groups, server=server)
    if size < groups + (server == "dedicated"):
        with pytest.raises(ConfigError, match="learners"):
            assign_roles(size, names, config)
        return
    topology = assign_roles(size, names, config)
    assert all(topology.roles_of(rank) for rank in range(size))
    assert "server" in topology.roles_of(0)
    assert len(topology.groups) == groups
    assert all(group.actors for group in topology.groups)
    assert len({group.learner for group in topology.groups}) == groups
    assert sorted(topology.actor_index(rank) for rank in topology.actors) == list(range(len(topology.actors)))
    counts = [len(group.actors) for group in topology.groups]
    assert max(counts) - min(counts) <= 1


def test_a_learner_sits_on_its_actors_host_even_when_ranks_are_dealt_in_turn():
    hosts = ["a", "b"] * 4
    topology = assign_roles(8, hosts, TopologyConfig(groups=2, server="shared", actors_per_learner=3))
    for group in topology.groups:
        assert {hosts[rank] for rank in group.actors} == {hosts[group.learner]}


@pytest.mark.parametrize(
    ("size", "settings_", "words"),
    [
        (2, {"groups": 3}, "3 learners"),
        (4, {"groups": 4, "server": "dedicated"}, "start at least 5"),
        (7, {"groups": 2, "actors_per_learner": 1}, "actors_per_learner"),
        (3, {"groups": 2, "actors_per_learner": 3}, "need 8 ranks"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(size, settings_, words):
    with pytest.raises(ConfigError, match=words):
        roles(size, **settings_)


def test_groups_may_differ_in_actors():
    config = TopologyConfig(groups=(GroupConfig(actors=3), GroupConfig(actors=0)))
    topology = assign_roles(6, ["h"] * 6, config)
    assert [len(group.actors) for group in topology.groups] == [3, 1]
    assert topology.groups[1].actors == (topology.groups[1].learner,)
