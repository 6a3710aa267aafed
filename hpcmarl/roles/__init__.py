"""What ranks do: one readable loop a role (`ROLES`).

`train.train` joins the world; `runtime.rank` builds the roles of a rank and steps them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcmarl.roles.base import Role

# in the order in which a rank that hosts several builds and steps them; a rank imports its own roles alone
# (learners need torch)
ROLES = {
    "evaluator": "hpcmarl.roles.evaluator:Evaluator",
    "server": "hpcmarl.roles.server.server:Server",
    "learner": "hpcmarl.roles.learner.learner:Learner",
    "actor": "hpcmarl.roles.actor.actor:Actor",
}


def load_role(place: str) -> type[Role]:
    """Import a role's class, `module:Class`."""
    module, _, name = place.partition(":")
    role: type[Role] = getattr(import_module(module), name)
    return role
