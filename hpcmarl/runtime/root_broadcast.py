"""Execution of a function on rank 0 whose result or error every rank receives.

It serves the start of a run, before the roles are built. Only rank 0 reads files then. A thousand ranks
should not read one file at the same time, and must not see different states of a file that changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hpcmarl.errors
from hpcmarl.comm.transport import Transport
from hpcmarl.errors import HpcmarlError
from hpcmarl.packing import pack, unpack


def run_on_root_and_broadcast(transport: Transport, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function on rank 0 and return its result on every rank. Collective.

    Args:
        transport: Transport of this rank.
        find: Called on rank 0 only; returns a tree (hpcmarl.packing).

    Raises:
        HpcmarlError: On every rank, the error that `find` raised on rank 0, with `everywhere` set.
    """
    result: dict[str, Any] = {}
    cause: HpcmarlError | None = None
    if transport.rank == 0:
        try:
            result = {"found": find()}
        except HpcmarlError as error:
            cause = error
            result = {"error": str(error), "type": type(error).__name__}
    result = unpack(transport.broadcast(bytes(pack(result)) if transport.rank == 0 else None))
    if "error" in result:
        failure = getattr(hpcmarl.errors, result["type"])(result["error"])
        failure.everywhere = True
        raise failure from cause  # with the traceback of an environment
    found: dict[str, Any] = result["found"]
    return found
