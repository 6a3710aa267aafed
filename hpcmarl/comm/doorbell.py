"""Wake a rank that sleeps when another one on its host has sent it a message, so that it need not look so often whether one has come.

A datagram of one byte to a socket in Linux's abstract namespace: no file is left behind, and MPI itself is untouched. A rank without a doorbell,
on another host or system, naps as before.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Mapping

NAME_BYTES = 32
HELD = 1024  # datagrams that are taken at once, more than a socket holds
SELECTABLE = 1024  # file descriptors below that can be waited for


class Doorbell:
    """The doorbell of this rank, and those of the ranks that it can wake.

    Attributes:
        name: By which others ring it; empty where the system has no such sockets.
    """

    def __init__(self) -> None:
        self.name = b""
        self._others: dict[int, bytes] = {}
        self._socket: socket.socket | None = None
        if not sys.platform.startswith("linux"):
            return
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        name = b"hpcmarl-" + os.urandom(10).hex().encode()
        try:
            own.bind(b"\0" + name)
        except OSError:
            own.close()
            return
        if own.fileno() >= SELECTABLE:
            own.close()
            return
        self.name, self._socket = name, own

    def connect(self, names: Mapping[int, bytes]) -> None:
        """Learn the names of the other ranks of this host; those without a name have no doorbell."""
        self._others = {rank: b"\0" + name for rank, name in names.items() if name and self._socket is not None}

    def reaches(self, rank: int) -> bool:
        """Whether the rank has a doorbell that this one can ring."""
        return rank in self._others

    def ring(self, rank: int) -> None:
        """Wake a rank, if it sleeps; without a doorbell it wakes by itself."""
        name = self._others.get(rank)
        if name is None or self._socket is None:
            return
        try:
            self._socket.sendto(b"\0", name)
        except BlockingIOError:  # it was rung often enough
            pass
        except OSError:  # gone, or in another network namespace
            del self._others[rank]

    def wait(self, seconds: float) -> bool:
        """Sleep until somebody rings, `seconds` at most; whether somebody has."""
        if self._socket is None:
            time.sleep(seconds)
            return False
        select.select([self._socket], [], [], seconds)  # poll would round up to milliseconds
        return self._drain()

    def _drain(self) -> bool:
        rung = False
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            for _ in range(HELD):  # whoever rings on and on must not hold the rank up
                self._socket.recv(1)
                rung = True
        return rung

    def close(self) -> None:
        """Ring and be rung no more."""
        self._others = {}
        if self._socket is not None:
            self._socket.close()
            self._socket = None
