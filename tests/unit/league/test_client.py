"""Start of a league's client."""

from dataclasses import replace

import pytest

from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.league.runtime import client as client_module
from hpcmarl.league.runtime.client import Client
from tests.support.contexts import make_context
from tests.support.leagues import RPS

CHANGES = ["topology.server=dedicated", "topology.actors_per_learner=1"]


@pytest.mark.parametrize(("rank", "roles"), [(1, ["Learner", "Server"]), (2, ["Actor"])])
def test_roles_of_teams_are_loaded_before_the_first_heartbeat(rank, roles, monkeypatch, tmp_path):
    """A team's learner imports torch, which takes longer than a rank may be silent once it has begun."""
    loaded, load_role = [], client_module.load_role

    def load(place):
        loaded.append(role := load_role(place))
        return role

    monkeypatch.setattr(client_module, "load_role", load)
    config = load_config(RPS, CHANGES)
    context = make_context(config, directory=tmp_path, ranks=3, spec=describe(config.env, config.policies))
    context = replace(context, transport=LocalWorld(3).transports[rank])
    client = Client(context, {})
    assert sorted(role.__name__ for role in loaded) == roles
    client.close()
