"""Key-value store over MPI, by which the members of a torch.distributed group exchange their addresses.

It needs neither a server socket nor a file. `set` sends the key and its value to every member. `get` waits
until the key has arrived.
"""

from __future__ import annotations

import datetime
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.distributed as distributed
from mpi4py import MPI

from hpcmarl.comm.transport import Backoff

TAG = 1  # no other code sends point to point over the members' communicator
KEY_LENGTH = struct.Struct("<I")
WAIT_SECONDS = 30.0  # for a member that is alive but does not set the key


class MpiStore(distributed.Store):  # type: ignore[name-defined, misc]  # torch's stubs leave it out
    """The methods of torch's store that process groups use to connect.

    `get` and `wait` raise MPI's error if a member has died.
    """

    def __init__(self, communicator: Any) -> None:
        super().__init__()
        self._comm = communicator
        self._values: dict[str, bytes] = {}
        # Requests, and the messages that MPI reads until the requests are complete.
        self._sent: list[tuple[Any, bytes]] = []
        self._status = MPI.Status()

    def set(self, key: str, value: bytes | str) -> None:
        """Store a value and send it to all other members, without waiting."""
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._values[key] = data
        name = key.encode()
        message = KEY_LENGTH.pack(len(name)) + name + data
        for rank in range(self._comm.Get_size()):
            if rank != self._comm.Get_rank():
                self._sent.append((self._comm.Isend([message, MPI.BYTE], rank, TAG), message))

    def get(self, key: str) -> bytes:
        """Return the value of a key; wait for it as `wait` does."""
        self.wait([key])
        return self._values[key]

    def wait(self, keys: Sequence[str], timeout: datetime.timedelta | None = None) -> None:
        """Wait until all keys have arrived.

        Args:
            keys: Names of the keys.
            timeout: Longest wait; None: WAIT_SECONDS.

        Raises:
            RuntimeError: If a key does not arrive in time.
        """
        backoff = Backoff()
        left = WAIT_SECONDS if timeout is None else timeout.total_seconds()
        end = MPI.Wtime() + left
        while missing := [key for key in keys if key not in self._values]:
            if self._receive():
                backoff.reset()
                continue
            if MPI.Wtime() > end:
                raise RuntimeError(f"no member has set {', '.join(missing)} within {left:g} s")
            backoff.wait()

    def check(self, keys: Sequence[str]) -> bool:
        """Return whether all keys have already been received.

        It makes no MPI calls, because torch may call it from other threads.
        """
        return all(key in self._values for key in keys)

    def _receive(self) -> bool:
        """Receive one message if one has arrived; return whether it has."""
        matched = self._comm.Improbe(MPI.ANY_SOURCE, TAG, self._status)
        if matched is None:
            return False
        data = np.empty(self._status.Get_count(MPI.BYTE), np.uint8)
        matched.Recv([data, MPI.BYTE])
        message = data.tobytes()
        begin = KEY_LENGTH.size + KEY_LENGTH.unpack_from(message)[0]
        self._values[message[KEY_LENGTH.size : begin].decode()] = message[begin:]
        return True
