"""Run a function on rank 0 and broadcast its result, or its failure, to every rank.

Rank 0 alone reads files at the start. A thousand ranks must neither read the same file at once nor see two
states of a file that changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hpcmarl.errors
from hpcmarl.comm.transport import Transport
from hpcmarl.errors import HpcmarlError
from hpcmarl.packing import pack, unpack


def run_on_root_and_broadcast(transport: Transport, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `find` returns on rank 0 (arrays and plain values), on every rank. Collective.

    Raises on every rank the HpcmarlError that it raised there, marked as known `everywhere`.
    """
    result: dict[str, Any] = {}
    if transport.rank == 0:
        try:
            result = {"found": find()}
        except HpcmarlError as error:
            result = {"error": str(error), "type": type(error).__name__}
    result = unpack(transport.broadcast(bytes(pack(result)) if transport.rank == 0 else None))
    if "error" in result:
        failure = getattr(hpcmarl.errors, result["type"])(result["error"])
        failure.everywhere = True
        raise failure
    found: dict[str, Any] = result["found"]
    return found
