"""Round rules (`RULES`), which decide when a round ends, and the engine that applies them.

A rule sees only which group delivered how many trajectories for which round. It sees no transport, clock or
vector. The MPI server, the in-process driver and a simulator therefore run the same object.
"""

from hpcmarl import plugins
from hpcmarl.config.rounds import RuleConfig
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
    name: str | RuleConfig,
    groups: int,
    batch: int,
    initial_batch: int | None = None,
    *,
    all_begun: bool = False,
) -> RoundRule:
    """Make a round rule.

    Args:
        name: Name of the rule, a key of `RULES`, or the configuration of a rule outside hpcmarl.
        groups: Number of groups, n.
        batch: Trajectories of a round, M.
        initial_batch: Trajectories of the first round, M_init; None: M.
        all_begun: Rennala only: whether trajectories under way when M have arrived still count.
    """
    if isinstance(name, RuleConfig):
        outside: type[RoundRule] = plugins.need("rules", name.name)
        return outside(groups, batch, initial_batch, config=name)
    if name == "rennala":
        return Rennala(groups, batch, initial_batch, all_begun=all_begun)
    return RULES[name](groups, batch, initial_batch)
