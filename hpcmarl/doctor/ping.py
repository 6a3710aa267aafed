"""Exchange a message between every pair of ranks and report missing ones to rank 0.

A deadline ends the exchange, so that it cannot hang. It works with any transport.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import SendHandle, Transport
from hpcmarl.packing import pack, unpack


class AllPairs:
    """This rank's part in the exchange of messages between all pairs of ranks.

    Call `step()` until it returns True. Rank 0 then has the facts of every rank that answered in `reports`.

    Args:
        transport: The world.
        facts: Facts about this rank for rank 0.
        timeout: Seconds to wait for the other ranks' messages, and again for their reports.
        clock: Returns the time in seconds.

    Attributes:
        silent: Ranks whose message has not arrived.
        reports: On rank 0, rank -> its facts and the list of its silent ranks.
        died: Reason why the exchange ended early; empty otherwise.
    """

    def __init__(
        self,
        transport: Transport,
        facts: dict[str, Any],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.transport, self.facts, self.timeout, self.clock = transport, facts, timeout, clock
        self.silent = set(range(transport.size)) - {transport.rank}
        self.reports: dict[int, dict[str, Any]] = {}
        self.died = ""
        self.started = clock()
        self._handles = [transport.send(other, control(Kind.PING)) for other in sorted(self.silent)]
        self._report: SendHandle | None = None

    def step(self) -> bool:
        """Process received messages.

        Returns:
            True if this rank has finished its part or its time is up.
        """
        while (message := self.transport.receive()) is not None:
            if message.kind == Kind.PING:
                self.silent.discard(message.source)
            elif message.kind == Kind.STATE:
                self.reports[message.source] = unpack(message.payload)
            message.release()
        elapsed = self.clock() - self.started
        if self._report is None and (not self.silent or elapsed > self.timeout):
            self._send_report()
        if elapsed > 2 * self.timeout + 1.0:
            return True
        if self._report is None:
            return False
        if self.transport.rank == 0:
            return len(self.reports) == self.transport.size and all(handle.done() for handle in self._handles)
        return self._report.done() and all(handle.done() for handle in self._handles)

    def _send_report(self) -> None:
        report = {"facts": self.facts, "silent": sorted(self.silent)}
        if self.transport.rank == 0:
            self.reports[0], self._report = report, SendHandle()
        else:
            self._report = self.transport.send(0, control(Kind.STATE, bytes(pack(report))))

    def failures(self) -> list[str]:
        """Return, on rank 0, the messages and reports that did not arrive.

        "2 -> 0" is a lost message from rank 2 to rank 0; "2 did not report" is a missing report.
        """
        missing = [rank for rank in range(self.transport.size) if rank not in self.reports]
        pairs = [
            f"{source} -> {rank}"
            for rank, report in sorted(self.reports.items())
            for source in report["silent"]
            if source not in missing
        ]
        return [f"{rank} did not report" for rank in missing] + pairs
