"""Says whom a round waits for when it takes long. Called by the server; the rule knows which groups it cannot
do without.
"""

from __future__ import annotations

import logging
import time

from hpcmarl.comm.topology import Topology
from hpcmarl.optim.rounds import RoundRule

logger = logging.getLogger(__name__)
FIRST_WARNING_SECONDS = 30.0  # seconds; said again after twice, four times ... as long
SHOWN = 8  # groups named in one line


class StragglerMonitor:
    """One line when a round of `rule` has waited for long while some groups have done their part."""

    def __init__(self, rule: RoundRule, topology: Topology) -> None:
        self.rule = rule
        self.topology = topology
        self.round_ended()

    def round_ended(self) -> None:
        """The clock starts anew."""
        self._since = time.monotonic()
        self._patience = FIRST_WARNING_SECONDS

    def poll(self) -> None:
        """Look at the clock; cheap, for every step."""
        waited = time.monotonic() - self._since
        if waited < self._patience:
            return
        self._patience *= 2
        awaited = self.rule.awaited()
        if not awaited or len(awaited) == len(self.rule.present):
            return  # anybody's work would do, or nobody has done anything
        names = [f"group {group} (learner: rank {self._learner(group)})" for group in awaited[:SHOWN]]
        more = f" and {len(awaited) - SHOWN} more" if len(awaited) > SHOWN else ""
        logger.warning(
            "round %d has waited %.0f s for %s%s; the others have done their part",
            self.rule.round,
            waited,
            ", ".join(names),
            more,
        )

    def _learner(self, group: int) -> str:
        rank = self.topology.groups[group].learner
        return f"{rank} on {self.topology.hosts[rank]}"
