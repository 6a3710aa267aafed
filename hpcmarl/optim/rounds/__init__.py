"""When a round ends: the rules (`RULES`) and the engine that drives one rule and one optimizer.

A rule sees who delivered how many trajectories for which round, never a transport, a clock or a vector; so
the MPI server, the in-process driver and a simulator run the same object.
"""

from hpcmarl.optim.rounds.afedpg import AFedPG
from hpcmarl.optim.rounds.base import Accept, Close, Command, Drop, Publish, RoundRule, Step, share
from hpcmarl.optim.rounds.engine import Engine
from hpcmarl.optim.rounds.malenia import Malenia
from hpcmarl.optim.rounds.rennala import Rennala
from hpcmarl.optim.rounds.sync import Sync

RULES: dict[str, type[RoundRule]] = {"sync": Sync, "rennala": Rennala, "malenia": Malenia, "afedpg": AFedPG}

__all__ = [
    "RULES",
    "AFedPG",
    "Accept",
    "Close",
    "Command",
    "Drop",
    "Engine",
    "Malenia",
    "Publish",
    "Rennala",
    "RoundRule",
    "Step",
    "Sync",
    "make_rule",
    "share",
]


def make_rule(
    name: str, groups: int, batch: int, initial_batch: int | None = None, *, all_begun: bool = False
) -> RoundRule:
    """Make the rule `name`.

    Args:
        groups: How many deliver.
        batch: Trajectories of a round, M.
        initial_batch: Trajectories of the first round, M_init; default: M.
        all_begun: Rennala only: trajectories under way when M are there still count.
    """
    if name == "rennala":
        return Rennala(groups, batch, initial_batch, all_begun=all_begun)
    return RULES[name](groups, batch, initial_batch)
