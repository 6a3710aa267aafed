"""Doorbells: datagrams that wake a sleeping rank when another rank of its host has sent it a message.

A rank with a doorbell polls less often. A ring is a datagram of one byte to a socket in Linux's abstract
namespace, so no file is left behind. MPI is not involved. A rank that cannot be rung, because its host or its
system differs, polls after short sleeps.
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
# Datagrams read in one call of wait(); more than a socket buffers.
HELD = 1024
# select() accepts only file descriptors below this number.
SELECTABLE = 1024


def new_token() -> bytes:
    """Return a random token for the doorbells of one world."""
    return os.urandom(TOKEN_BYTES).hex().encode()


class Doorbell:
    """Doorbell of one rank, and access to the doorbells of the other ranks on its host.

    Args:
        token: Common part of the socket names in a world, from `new_token`. It is the same on every rank of
            the world and differs between worlds.
        rank: Rank that owns this doorbell.

    Attributes:
        token: The token.
    """

    def __init__(self, token: bytes, rank: int) -> None:
        self.token = token
        self._others: dict[int, bytes] = {}  # name of each other rank's socket
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
        return b"\0hpcmarl-%s-%d" % (self.token, rank)

    @property
    def exists(self) -> bool:
        """Whether other ranks can ring this doorbell; False if its socket could not be opened."""
        return self._socket is not None

    def connect(self, ranks: Iterable[int]) -> None:
        """Set the ranks that this one can wake.

        Args:
            ranks: Other ranks of this host that have a doorbell.
        """
        self._others = {rank: self._name(rank) for rank in ranks} if self._socket is not None else {}

    def reaches(self, rank: int) -> bool:
        """Return whether this rank can ring the doorbell of `rank`."""
        return rank in self._others

    def ring(self, rank: int) -> None:
        """Wake a rank if it sleeps; do nothing if it cannot be reached, since it then polls."""
        name = self._others.get(rank)
        if name is None or self._socket is None:
            return
        try:
            self._socket.sendto(b"\0", name)
        except BlockingIOError:  # the socket is full: the rank will wake anyway
            pass
        except OSError:  # the process has ended, or is in another network namespace
            del self._others[rank]

    def wait(self, seconds: float) -> bool:
        """Sleep until another rank rings.

        Args:
            seconds: Longest sleep.

        Returns:
            Whether another rank has rung. Always False without a socket; the whole time is slept then.
        """
        if self._socket is None:
            time.sleep(seconds)
            return False
        # select() and not poll(): poll() would round up to milliseconds.
        select.select([self._socket], [], [], seconds)
        return self._drain()

    def _drain(self) -> bool:
        rung = False
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            for _ in range(HELD):  # bounded, so that a rank that rings without pause cannot block this one
                self._socket.recv(1)
                rung = True
        return rung

    def close(self) -> None:
        """Close the socket; afterwards this doorbell neither rings nor wakes early."""
        self._others = {}
        if self._socket is not None:
            self._socket.close()
            self._socket = None
