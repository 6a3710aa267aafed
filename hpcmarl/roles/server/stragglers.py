"""Warn about groups that hold up a round."""

from __future__ import annotations

import logging
import time

from hpcmarl.comm.topology import Topology
from hpcmarl.optim.rounds import RoundRule

logger = logging.getLogger(__name__)
FIRST_WARNING_SECONDS = 30.0  # the interval doubles after each warning
SHOWN = 8  # groups named in one warning


class StragglerMonitor:
    """Log a warning when a round waits long for groups that its rule requires.

    Args:
        rule: Round rule of the run; its `awaited()` lists the groups that have not delivered yet.
        topology: Ranks and hosts, to name the learner of a group.
    """

    def __init__(self, rule: RoundRule, topology: Topology) -> None:
        self.rule = rule
        self.topology = topology
        self.round_ended()

    def round_ended(self) -> None:
        """Start timing a new round."""
        self._since = time.monotonic()
        self._patience = FIRST_WARNING_SECONDS

    def poll(self) -> None:
        """Warn if the round is overdue. Cheap enough to call in every step of the server."""
        waited = time.monotonic() - self._since
        if waited < self._patience:
            return
        self._patience *= 2
        awaited = self.rule.awaited()
        if not awaited or len(awaited) == len(self.rule.present):
            return  # the rule accepts work from any group, or no group has delivered yet
        names = [f"group {group} (learner: rank {self._learner(group)})" for group in awaited[:SHOWN]]
        more = f" and {len(awaited) - SHOWN} more" if len(awaited) > SHOWN else ""
        logger.warning(
            "round %d has waited %.0f s for %s%s; the other groups have delivered",
            self.rule.round,
            waited,
            ", ".join(names),
            more,
        )

    def _learner(self, group: int) -> str:
        rank = self.topology.groups[group].learner
        return f"{rank} on {self.topology.hosts[rank]}"
