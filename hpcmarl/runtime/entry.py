"""Start of a process: signals, MPI, and the configuration, which rank 0 reads and broadcasts.

This happens before numpy is loaded, because the configuration limits the number of its threads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache

import hpcmarl.errors
from hpcmarl.config import Config
from hpcmarl.config.plain import from_json, to_json
from hpcmarl.errors import HpcmarlError
from hpcmarl.launch.outcome import said_path
from hpcmarl.launch.signals import StopSignals
from hpcmarl.launch.start_watch import watch_start
from hpcmarl.launch.world import check_world, under_launcher

FAILED = "rank 0 failed while it read the configuration"


@cache  # MPI starts once
def enter_world() -> int:
    """Join the MPI world of the launcher that started this process.

    Returns:
        The number of ranks; 1 without a launcher.

    Raises:
        LaunchError: If the launcher meant another world than MPI found (silent singletons).
    """
    if not under_launcher(os.environ):
        return 1
    # a rank that dies inside MPI_Init leaves the others waiting there, deaf to signals
    watch = watch_start(os.environ, said_path(os.environ))
    from hpcmarl.comm.mpi import library as mpi_library

    watch.joined()
    check_world(mpi_library.world_size(), os.environ, mpi_library.library_version())
    return mpi_library.world_size()


def shared_config(read: Callable[[], Config], signals: StopSignals) -> Config:
    """Return on every rank what `read` returns on rank 0; collective.

    Other ranks need neither the file nor the time to check it.

    Args:
        read: Reads and checks the configuration.
        signals: Taken over before MPI starts.

    Raises:
        HpcmarlError: On every rank what was raised on rank 0, marked as known `everywhere`.
    """
    if not under_launcher(os.environ):
        return read()
    signals.install()
    if enter_world() == 1:
        return read()
    from hpcmarl.comm.mpi.start import broadcast_at_start, is_first

    message = broadcast_at_start(_read_or_fail(read) if is_first() else None)
    if message is None:
        return read()  # a rank has died: what comes next finds out which, and says so
    word = json.loads(message)
    if "config" in word:
        config: Config = from_json(word["config"])
        return config
    failure: HpcmarlError = getattr(hpcmarl.errors, word["type"])(word["error"])
    failure.everywhere = True
    raise failure


def _read_or_fail(read: Callable[[], Config]) -> bytes:
    """On rank 0: the configuration, or why there is none, for everyone."""
    try:
        return json.dumps({"config": to_json(read())}).encode()
    except HpcmarlError as error:
        return json.dumps({"error": str(error), "type": type(error).__name__}).encode()
    except BaseException:
        from hpcmarl.comm.mpi.start import broadcast_at_start

        broadcast_at_start(json.dumps({"error": FAILED, "type": "HpcmarlError"}).encode())
        raise
