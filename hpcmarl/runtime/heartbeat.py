"""Which ranks are still there. Called by Rank; knows no role's work.

Every rank tells the server's rank now and then that it is alive; any other message says so too. The server's
rank notices who has been silent for too long; the others notice when the server's rank does not take their
word any more. Ranks that MPI itself finds dead are the transport's business. Who has not begun yet is not
silent: roles may take minutes to build where many ranks compile their games on few cores.

Time is counted only while this rank looks: a job that Slurm suspends as a whole finds nobody silent when it
goes on.
"""

from __future__ import annotations

import logging
import time

from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import LatestLink, PeerFailure
from hpcmarl.roles.base import Context, Interval

logger = logging.getLogger(__name__)
LONGEST_LOOK = 1.0  # seconds that one look can add to the clock
BEATS = 5  # within the limit
START = 10  # times the limit: what a server may take to begin


class RunLost(PeerFailure):
    """A rank is lost without which the run cannot continue.

    The run ends at once and can be resumed from its last checkpoint.
    """


class ServerLost(RunLost):
    """The server's rank is gone."""


class ServerSilent(ServerLost):
    """The server has taken no message of this rank for too long.

    The rank that notices it may be the only one that knows why the run ends.
    """


class Liveness:
    """`silent()` on the server's rank, `beat()` elsewhere; both are cheap and called at every step."""

    def __init__(self, context: Context) -> None:
        self.server = context.topology.server
        self.limit = context.config.topology.heartbeat_timeout_seconds
        self._link = LatestLink(context.transport, self.server)
        self._word = control(Kind.ALIVE, source=context.rank)
        self._due = Interval(
            max(1.0, 0.01 * context.topology.size) if self.limit is None else self.limit / BEATS
        )
        self._last: dict[int, float] = {}
        self._clock, self._looked = 0.0, time.monotonic()
        self._taken = 0.0
        self._said = self._begun = False  # a word to the server; it has taken one, or sent one

    def heard(self, rank: int) -> None:
        """A message of this rank has come."""
        self._last[rank] = self._clock
        if rank == self.server and not self._begun:
            # from now on the limit counts; words sent while it built its roles may still wait
            self._begun, self._taken = (
                True,
                self._clock,
            )

    def forget(self, rank: int) -> None:
        """This rank is known to be lost."""
        self._last.pop(rank, None)

    def _tick(self) -> None:
        now = time.monotonic()
        self._clock += min(now - self._looked, LONGEST_LOOK)
        self._looked = now

    def silent(self) -> list[int]:
        """On the server's rank: ranks that were heard once, but not within the limit."""
        self._tick()
        if self.limit is None or not self._due.due():
            return []
        limit = self.limit
        return [
            rank for rank, last in self._last.items() if rank != self.server and self._clock - last > limit
        ]

    def beat(self) -> None:
        """Send the heartbeat of a rank other than the server's.

        Raises:
            ServerSilent: If the server has taken no message within the limit.
        """
        self._tick()
        if self._link.idle():
            self._taken, self._begun = self._clock, self._begun or self._said
        elif self.limit is not None and self._clock - self._taken > (
            limit := self.limit * (1 if self._begun else START)
        ):
            why = (
                "topology.heartbeat_timeout_seconds"
                if self._begun
                else "it has not begun; ten times topology.heartbeat_timeout_seconds"
            )
            raise ServerSilent(f"rank {self.server} (server) has taken no message for {limit:g} s ({why})")
        if self._due.due() and self._link.idle():
            self._link.offer(self._word)
            self._said = True
