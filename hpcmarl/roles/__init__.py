"""What ranks do: one readable loop a role (`ROLES`). `run.train` joins the world, `rank.Rank` builds a rank's roles and steps them."""

from hpcmarl.roles.actor import Actor
from hpcmarl.roles.base import Role
from hpcmarl.roles.evaluator import Evaluator
from hpcmarl.roles.learner import Learner
from hpcmarl.roles.server import Server

# in the order in which a rank that hosts several builds and steps them
ROLES: dict[str, type[Role]] = {"evaluator": Evaluator, "server": Server, "learner": Learner, "actor": Actor}
