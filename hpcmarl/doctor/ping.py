"""Every rank sends a message to every other one and tells rank 0 whom it did not hear, with a deadline
instead of a hang.

Called by doctor/world.py over MPI and by the tests over the in-process transport; knows neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import SendHandle, Transport
from hpcmarl.packing import pack, unpack


class AllPairs:
    """One rank's part. Call `step()` until it returns True; then rank 0 has everybody's facts in `reports`.

    timeout: seconds to wait for the other ranks' messages, and again as many for their reports.
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
        self.died = ""  # why the exchange was broken off, if it was
        self.started = clock()
        self._handles = [transport.send(other, control(Kind.PING)) for other in sorted(self.silent)]
        self._report: SendHandle | None = None

    def step(self) -> bool:
        """Receive what has come; True when this rank has nothing left to do or its time is up."""
        while (message := self.transport.receive()) is not None:
            if message.kind == Kind.PING:
                self.silent.discard(message.source)
            elif message.kind == Kind.STATE:
                self.reports[message.source] = unpack(message.payload)
            message.release()
        elapsed = self.clock() - self.started
        if self._report is None and (not self.silent or elapsed > self.timeout):
            self._tell()
        if elapsed > 2 * self.timeout + 1.0:
            return True
        if self._report is None:
            return False
        if self.transport.rank == 0:
            return len(self.reports) == self.transport.size and all(handle.done() for handle in self._handles)
        return self._report.done() and all(handle.done() for handle in self._handles)

    def _tell(self) -> None:
        report = {"facts": self.facts, "silent": sorted(self.silent)}
        if self.transport.rank == 0:
            self.reports[0], self._report = report, SendHandle()
        else:
            self._report = self.transport.send(0, control(Kind.STATE, bytes(pack(report))))

    def failures(self) -> list[str]:
        """On rank 0: what did not arrive, as "2 -> 0"; a rank that did not report at all as "2 did not
        report"."""
        missing = [rank for rank in range(self.transport.size) if rank not in self.reports]
        pairs = [
            f"{source} -> {rank}"
            for rank, report in sorted(self.reports.items())
            for source in report["silent"]
            if source not in missing
        ]
        return [f"{rank} did not report" for rank in missing] + pairs
