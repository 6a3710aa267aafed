"""`python -m hpcmarl.respawned_actor`: a process that MPI has started in the place of a dead actor
(topology.respawn).

It gets the run's configuration from the learner's rank, builds the same role that the dead one had, and
serves until the end. The run's exit code is the affair of the ranks that mpiexec has started: this process
leaves with 0 but for a failure of its own.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from pathlib import Path
from typing import Any

from hpcmarl.comm.topology import assign_roles
from hpcmarl.comm.transport import PeerFailure, Transport
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.envs.trust import trust
from hpcmarl.launch.processes import started_at
from hpcmarl.launch.signals import StopSignals
from hpcmarl.packing import unpack
from hpcmarl.roles.base import Context
from hpcmarl.runtime.rank import AbortHook, Rank, serve
from hpcmarl.train import start_logging

logger = logging.getLogger(__name__)
MPI_START_SECONDS = 60.0


def context_of(transport: Transport, start_message: dict[str, Any]) -> Context:
    """What the dead rank was given at the start of the run."""
    trust(start_message["trusted"])  # what the launcher starts has the launcher's variables, not the ranks'
    config = load_config(start_message["config"])
    topology = assign_roles(len(start_message["hosts"]), start_message["hosts"], config.topology)
    processes = {topology.server: tuple(start_message["server"])} if start_message["server"] else {}
    spec = describe(config.env, config.policies)
    return Context(
        config,
        topology,
        transport,
        Path(start_message["run_directory"]),
        spec,
        None,
        start_message["job_end"],
        processes,
        **start_message["start"],
    )


def main() -> None:
    """Serve as the rank that the parent names; never returns."""
    signals = StopSignals().install()
    faulthandler.dump_traceback_later(MPI_START_SECONDS, exit=True)  # should the parent die meanwhile
    from hpcmarl.comm.mpi.respawned import ReplacementTransport
    from hpcmarl.comm.mpi.spawn import finalize_pmix

    transport = ReplacementTransport((os.getpid(), started_at(os.getpid())))
    faulthandler.cancel_dump_traceback_later()
    start_message = unpack(transport.payload)
    hook = AbortHook(transport)
    try:
        context = context_of(transport, start_message)
        transport.join(context.topology.size, context.topology.group_of(context.rank).learner)
        start_logging(context)
        hook.rank = rank = Rank(context)
        try:
            serve(rank, signals)
        except PeerFailure as error:
            logger.error("%s", error)
        rank.close()
        transport.close()
        logging.shutdown()
        finalize_pmix()
    except BaseException as error:
        hook.fail(error)
    os._exit(0)  # MPI_Finalize would wait for ranks that may be gone


if __name__ == "__main__":
    main()
