"""Program of a process that MPI starts to replace a dead actor (topology.respawn).

MPI runs it as `python -m hpcmarl.respawned_actor`. The process receives the run's configuration from the
learner's rank, builds the role of the dead actor, and serves until the run ends. The ranks that mpiexec has
started determine the run's exit code. This process exits with 0 unless it fails itself.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from pathlib import Path

from hpcmarl.comm.topology import assign_roles
from hpcmarl.comm.transport import PeerFailure, Transport
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.envs.trust import trust
from hpcmarl.launch.processes import started_at
from hpcmarl.launch.signals import StopSignals
from hpcmarl.roles.base import Context
from hpcmarl.runtime.abort import AbortHook
from hpcmarl.runtime.payloads import RespawnedStart
from hpcmarl.runtime.rank import Rank, serve
from hpcmarl.runtime.respawn import RespawnManager
from hpcmarl.runtime.tracing import traced
from hpcmarl.training import start_logging

logger = logging.getLogger(__name__)
MPI_START_SECONDS = 60.0


def context_of(transport: Transport, start: RespawnedStart) -> Context:
    """Build the context of the dead rank.

    Args:
        transport: Transport of this process.
        start: Data from the learner's rank.
    """
    # This process has the launcher's environment variables, which can differ from those of the ranks.
    trust(start.trusted)
    config = load_config(start.config)
    topology = assign_roles(len(start.hosts), start.hosts, config.topology)
    processes = {topology.server: (start.server[0], start.server[1])} if start.server else {}
    return Context(
        config,
        topology,
        transport,
        Path(start.run_directory),
        describe(config.env, config.policies),
        job_end=start.job_end,
        processes=processes,
        start_number=start.start_number,
        start_version=start.start_version,
        run_id=start.run_id,
        replaces=True,
    )


def main() -> None:
    """Serve as the rank that the parent names; does not return."""
    signals = StopSignals().install()
    # End this process if the parent dies during the start.
    faulthandler.dump_traceback_later(MPI_START_SECONDS, exit=True)
    from hpcmarl.comm.mpi.respawned import ReplacementTransport
    from hpcmarl.comm.mpi.spawn import finalize_pmix

    transport = ReplacementTransport((os.getpid(), started_at(os.getpid())))
    faulthandler.cancel_dump_traceback_later()
    start = RespawnedStart.unpack(transport.payload)
    hook = AbortHook(transport)
    try:
        hook.context = context = context_of(transport, start)
        transport.join(context.topology.size, RespawnManager(context).parent_of(context.rank))
        start_logging(context)
        hook.rank = rank = Rank(traced(context))
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
