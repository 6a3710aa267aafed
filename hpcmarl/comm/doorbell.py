"""Wake a rank that sleeps when another one on its host has sent it a message, so that it need not look so
often whether one has come.

A datagram of one byte to a socket in Linux's abstract namespace: no file is left behind, and MPI itself is
untouched. A rank without a doorbell, on another host or system, naps as before.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Iterable

TOKEN_BYTES = 10
HELD = 1024  # datagrams that are taken at once, more than a socket holds
SELECTABLE = 1024  # file descriptors below that can be waited for


def new_token() -> bytes:
    """Return a token that no other world has."""
    return os.urandom(TOKEN_BYTES).hex().encode()


class Doorbell:
    """The doorbell of one rank, and those of the ranks that it can wake.

    Args:
        token: What the names of all doorbells of a world begin with; the same on every rank, and in no other
            world (`new_token`).
        rank: Whose doorbell it is.
    """

    def __init__(self, token: bytes, rank: int) -> None:
        self._token = token
        self._others: set[int] = set()
        self._socket: socket.socket | None = None
        if not sys.platform.startswith("linux"):
            return
        own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            own.bind(self._name(rank))
        except OSError:
            own.close()
            return
        if own.fileno() >= SELECTABLE:
            own.close()
            return
        self._socket = own

    def _name(self, rank: int) -> bytes:
        return b"\0hpcmarl-%s-%d" % (self._token, rank)

    @property
    def exists(self) -> bool:
        """Whether it can be rung: the system has such sockets."""
        return self._socket is not None

    def connect(self, ranks: Iterable[int]) -> None:
        """Learn which other ranks of this host have a doorbell."""
        self._others = set(ranks) if self._socket is not None else set()

    def reaches(self, rank: int) -> bool:
        """Whether the rank has a doorbell that this one can ring."""
        return rank in self._others

    def ring(self, rank: int) -> None:
        """Wake a rank, if it sleeps; without a doorbell it wakes by itself."""
        if rank not in self._others or self._socket is None:
            return
        try:
            self._socket.sendto(b"\0", self._name(rank))
        except BlockingIOError:  # it was rung often enough
            pass
        except OSError:  # gone, or in another network namespace
            self._others.remove(rank)

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
        self._others = set()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
