"""Start of a process of a job: signals, MPI, and the configuration, which rank 0 reads and broadcasts.

This happens before numpy is loaded, because the configuration contains the number of numpy's threads. After
that training.py continues.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from functools import cache

import hpcmarl.errors
from hpcmarl import plugins
from hpcmarl.config import Config
from hpcmarl.config.choice import classes_outside
from hpcmarl.config.plain import from_json, to_json
from hpcmarl.errors import ConfigError, HpcmarlError
from hpcmarl.launch.outcome import said_path
from hpcmarl.launch.signals import StopSignals
from hpcmarl.launch.start_watch import watch_start
from hpcmarl.launch.world import check_world, under_launcher
from hpcmarl.threads import set_thread_environment

FAILED = "rank 0 failed while it read the configuration"


@cache  # a process can join MPI only once
def enter_world() -> int:
    """Join the MPI world of the launcher.

    Returns:
        Number of ranks; 1 without a launcher.

    Raises:
        LaunchError: If MPI's world differs from the launcher's, for instance if each process forms a world of
            its own.
    """
    if not under_launcher(os.environ):
        return 1
    # If a rank dies inside MPI_Init, the others wait there and do not react to signals. The watch ends them.
    watch = watch_start(os.environ, said_path(os.environ))
    from hpcmarl.comm.mpi import library as mpi_library

    watch.joined()
    check_world(mpi_library.world_size(), os.environ, mpi_library.library_version())
    return mpi_library.world_size()


def shared_config(read: Callable[[], Config], signals: StopSignals) -> Config:
    """Read the configuration on rank 0 and return it on every rank. Collective.

    The other ranks neither need the file nor spend time on checking it.

    Args:
        read: Reads and checks the configuration.
        signals: Signal handlers, installed before MPI starts.

    Raises:
        HpcmarlError: On every rank, the error that `read` raised on rank 0, with `everywhere` set.
    """
    if not under_launcher(os.environ):
        return read()
    signals.install()
    if enter_world() == 1:
        return read()
    from hpcmarl.comm.mpi.start import broadcast_at_start, is_first

    message = broadcast_at_start(_read_or_fail(read) if is_first() else None)
    if message is None:
        return read()  # a rank has died; the next collective call determines and reports which one
    answer = json.loads(message)
    if "error" in answer:
        raise _everywhere(getattr(hpcmarl.errors, answer["type"])(answer["error"]))
    if answer["classes"]:
        set_thread_environment(answer["threads"], os.environ)
        _check_classes(answer["classes"])
    config: Config = from_json(answer["config"])
    return config


def _check_classes(classes: Sequence[tuple[str, str]]) -> None:
    """Import the classes outside hpcmarl that the configuration names. Collective.

    Args:
        classes: Kind and name of each class.

    Raises:
        ConfigError: On every rank, if a rank cannot import them; it names the first such rank.
    """
    from hpcmarl.comm.mpi.start import broadcast_at_start, gather_at_start, is_first

    own = ""
    for kind, name in classes:
        try:
            plugins.need(kind, name)
        except HpcmarlError as error:
            own = own or f"on {socket.gethostname()}: {plugins.KINDS[kind].key}: {error}"
    texts = gather_at_start(own)
    failed = [rank for rank, text in enumerate(texts) if text]
    line = ""
    if failed:
        others = f" (and on {len(failed) - 1} more ranks)" if len(failed) > 1 else ""
        line = f"rank {failed[0]} {texts[failed[0]]}{others}; install the package on every node"
    found = broadcast_at_start(line.encode() if is_first() else None)
    if found:
        raise _everywhere(ConfigError(found.decode()))


def _everywhere(failure: HpcmarlError) -> HpcmarlError:
    failure.everywhere = True
    return failure


def _read_or_fail(read: Callable[[], Config]) -> bytes:
    """Return the configuration, or the error of reading it, as a message for all ranks.

    Unexpected errors are also sent to the other ranks, and then raised on rank 0.
    """
    try:
        config = read()
        classes = sorted(set(classes_outside(config)))
        with plugins.with_threads(config.topology.threads):
            for kind, name in classes:  # reading the configuration does not import factories of modules
                plugins.need(kind, name)
        answer = {"config": to_json(config), "classes": classes, "threads": config.topology.threads}
        return json.dumps(answer).encode()
    except HpcmarlError as error:
        return json.dumps({"error": str(error), "type": type(error).__name__}).encode()
    except BaseException:
        from hpcmarl.comm.mpi.start import broadcast_at_start

        broadcast_at_start(json.dumps({"error": FAILED, "type": "HpcmarlError"}).encode())
        raise
