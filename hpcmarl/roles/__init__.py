"""Roles of ranks (`ROLES`): evaluator, server, learner, actor and worker.

`train.train` joins the world; `runtime.rank` builds the roles of a rank and steps them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcmarl.roles.base import Role

# In the order in which a rank with several roles builds and steps them. A rank imports only its own roles,
# because learners load torch.
ROLES = {
    "evaluator": "hpcmarl.roles.evaluator:Evaluator",
    "server": "hpcmarl.roles.server.server:Server",
    "learner": "hpcmarl.roles.learner.learner:Learner",
    "actor": "hpcmarl.roles.actor.actor:Actor",
    "worker": "hpcmarl.roles.worker:Worker",
}


def load_role(place: str) -> type[Role]:
    """Import the class of a role.

    Args:
        place: The class as `module:Class`.
    """
    module, _, name = place.partition(":")
    role: type[Role] = getattr(import_module(module), name)
    return role
