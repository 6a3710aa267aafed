"""How torch.distributed's members find each other: a store of keys whose messages go over MPI, so that no
server socket and no file is needed.

Called by comm/reductions/torch_allreduce.py. Every set is sent to every member; a get waits until the key has
come. Knows no reduction.
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

TAG = 1  # nobody else sends point to point over the members' communicator
KEY_LENGTH = struct.Struct("<I")
WAIT_SECONDS = 30.0  # for a member that lives but sets no key


class MpiStore(distributed.Store):  # type: ignore[name-defined, misc]  # torch's stubs leave it out
    """The part of torch's store that process groups use to connect. MPI's errors (a member has died) come out
    of get and wait.
    """

    def __init__(self, communicator: Any) -> None:
        super().__init__()
        self._comm = communicator
        self._values: dict[str, bytes] = {}
        self._sent: list[tuple[Any, bytes]] = []  # requests, and what MPI reads until they are complete
        self._status = MPI.Status()

    def set(self, key: str, value: bytes | str) -> None:
        data = value.encode() if isinstance(value, str) else bytes(value)
        self._values[key] = data
        name = key.encode()
        message = KEY_LENGTH.pack(len(name)) + name + data
        for rank in range(self._comm.Get_size()):
            if rank != self._comm.Get_rank():
                self._sent.append((self._comm.Isend([message, MPI.BYTE], rank, TAG), message))

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._values[key]

    def wait(self, keys: Sequence[str], timeout: datetime.timedelta | None = None) -> None:
        """Raises RuntimeError when a key does not come within the timeout (default WAIT_SECONDS)."""
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
        """Looks at what has come; torch may ask from threads of its own, so it does not touch MPI."""
        return all(key in self._values for key in keys)

    def _receive(self) -> bool:
        """Take in one message, if one has come."""
        matched = self._comm.Improbe(MPI.ANY_SOURCE, TAG, self._status)
        if matched is None:
            return False
        data = np.empty(self._status.Get_count(MPI.BYTE), np.uint8)
        matched.Recv([data, MPI.BYTE])
        message = data.tobytes()
        begin = KEY_LENGTH.size + KEY_LENGTH.unpack_from(message)[0]
        self._values[message[KEY_LENGTH.size : begin].decode()] = message[begin:]
        return True
