"""Heartbeats, by which ranks detect other ranks that no longer respond.

Every rank regularly sends a heartbeat to the server's rank; any other message counts as one, too. The
server's rank detects ranks that have been silent for too long. The other ranks detect that the server's rank
no longer takes their heartbeats. Ranks that MPI reports as dead are handled by the transport.

A rank that has not sent anything yet does not count as silent. Building its roles may take minutes if many
ranks compile their environments on few cores.

Time is counted only while this rank polls. After Slurm has suspended and resumed the whole job, no rank
therefore counts as silent.
"""

from __future__ import annotations

import logging
import time

from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import LatestLink, PeerFailure
from hpcmarl.roles.base import Context, Interval

logger = logging.getLogger(__name__)
LONGEST_LOOK = 1.0  # largest time that one poll adds to the clock, seconds
BEATS = 5  # heartbeats within the time limit
START = 10  # a server may take this many time limits to begin


class RunLost(PeerFailure):
    """Loss of a rank without which the run cannot continue.

    The run ends at once, and can be resumed from its last checkpoint.
    """


class ServerLost(RunLost):
    """The server's rank is lost."""


class ServerSilent(ServerLost):
    """The server's rank has not taken this rank's heartbeats for too long.

    The rank that detects this may be the only one that knows why the run ends.
    """


class Liveness:
    """Heartbeats of one rank: `silent` on the server's rank, `beat` on the others.

    Both are cheap enough to be called in every step of the rank.

    Attributes:
        server: The server's rank.
        limit: Time limit, seconds (topology.heartbeat_timeout_seconds); None: no rank counts as silent.
    """

    def __init__(self, context: Context) -> None:
        self.server = context.topology.server
        self.limit = context.config.topology.heartbeat_timeout_seconds
        self._link = LatestLink(context.transport, self.server)
        self._heartbeat = control(Kind.ALIVE, source=context.rank)
        self._due = Interval(
            max(1.0, 0.01 * context.topology.size) if self.limit is None else self.limit / BEATS
        )
        self._last: dict[int, float] = {}
        self._clock, self._looked = 0.0, time.monotonic()
        self._taken = 0.0
        # Whether this rank has sent a heartbeat; whether the server has taken one, or has sent a message.
        self._sent = self._server_begun = False

    def heard(self, rank: int) -> None:
        """Note that a message of a rank has arrived."""
        self._last[rank] = self._clock
        if rank == self.server and not self._server_begun:
            # The normal limit applies from now on. Heartbeats sent while the server built its roles may still
            # be under way.
            self._server_begun, self._taken = (
                True,
                self._clock,
            )

    def forget(self, rank: int) -> None:
        """Remove a lost rank from the ranks that can be silent."""
        self._last.pop(rank, None)

    def _tick(self) -> None:
        now = time.monotonic()
        self._clock += min(now - self._looked, LONGEST_LOOK)
        self._looked = now

    def silent(self) -> list[int]:
        """Return the silent ranks; to be called on the server's rank.

        Returns:
            Ranks that have sent a message before, but none within the limit. Empty between the checks, of
            which there are BEATS within the limit.
        """
        self._tick()
        if self.limit is None or not self._due.due():
            return []
        limit = self.limit
        return [
            rank for rank, last in self._last.items() if rank != self.server and self._clock - last > limit
        ]

    def beat(self) -> None:
        """Send a heartbeat if one is due; to be called on all ranks but the server's.

        Raises:
            ServerSilent: If the server's rank has taken no heartbeat within the limit, or within START limits
                before it has begun.
        """
        self._tick()
        if self._link.idle():
            self._taken, self._server_begun = self._clock, self._server_begun or self._sent
        elif self.limit is not None and self._clock - self._taken > (
            limit := self.limit * (1 if self._server_begun else START)
        ):
            why = (
                "topology.heartbeat_timeout_seconds"
                if self._server_begun
                else "it has not begun; ten times topology.heartbeat_timeout_seconds"
            )
            raise ServerSilent(f"rank {self.server} (server) has taken no message for {limit:g} s ({why})")
        if self._due.due() and self._link.idle():
            self._link.offer(self._heartbeat)
            self._sent = True
