"""Check software, MPI, storage and the configuration before a run (`hpcmarl doctor`).

- findings.py: printed lines.
- checks.py: checks of one process.
- world.py and ping.py: checks that need all ranks.
- devices.py: GPUs of learners, and of MPI.
- estimate.py: a job's load on file systems and memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpcmarl.config import Config
from hpcmarl.doctor.findings import Finding, any_bad, as_json, as_text
from hpcmarl.placement import wants_cuda

__all__ = ["Finding", "examine"]


def examine(config: Config | None, run_directory: Path, json: bool) -> int:
    """Run all checks and print the findings on rank 0. Collective.

    Args:
        config: Configuration to check as well; None: check the software and the ranks only.
        run_directory: Directory that runs will be written to.
        json: Whether to print one JSON object instead of aligned lines.

    Returns:
        The exit code. On rank 0 it is 1 if a finding is BAD, on other ranks 1 if a rank died; else 0.
    """
    from hpcmarl.comm.local import LocalWorld
    from hpcmarl.comm.transport import PeerFailure, Transport
    from hpcmarl.doctor import checks, devices, world
    from hpcmarl.doctor.estimate import estimate, judge_shared_memory

    findings, library, size = world.check_library(os.environ)
    transport: Transport = LocalWorld(1).transports[0]
    if size > 1:
        from hpcmarl.comm.mpi.mpi_transport import MpiTransport

        transport = MpiTransport()
    try:
        exchange = world.ping_all(transport, world.local_facts(run_directory))
        about_devices = []
        broken = transport.rank == 0 and bool(exchange.died or exchange.failures())
        if config is not None and wants_cuda(config.device) and not broken:
            about_devices = devices.check_devices_of_ranks(transport, config)
        if transport.rank != 0:
            transport.close()
            return 0
    except PeerFailure:
        return 1  # rank 0 prints the reason
    hosts = [
        str(exchange.reports[rank]["facts"]["host"]) if rank in exchange.reports else "?"
        for rank in range(size)
    ]
    about_job: list[Finding] = []
    if config is not None:
        environment, spec = checks.check_environment(config)
        about_job += environment
        if (topology := world.roles_of(hosts, config)) is not None:
            about_job += estimate(config, topology, spec, world.memory_by_host(exchange.reports))
            shared = world.shared_memory_by_host(exchange.reports)
            about_job += judge_shared_memory(config, topology, spec, shared)
    findings = [
        *checks.check_software(),
        *findings,
        checks.check_mpiexec(os.environ, library),
        *checks.check_left_behind(),
        world.judge_messages(exchange),
        *world.judge_roles(hosts, config),
        *about_devices,
        *devices.describe_other_devices(config),
        *world.judge_facts(exchange.reports, config.topology.threads if config else 1),
        *about_job,
        *checks.check_storage(run_directory),
        *checks.check_packages(),
        *checks.check_tracking(config),
        *checks.check_reductions(config),
        devices.check_gpu_aware_mpi(os.environ),
    ]
    print(as_json(findings) if json else as_text(findings), flush=True)
    if exchange.died or exchange.failures():
        sys.stderr.flush()
        # A rank that does not answer would keep the others waiting in close().
        transport.abort()
    transport.close()
    return 1 if any_bad(findings) else 0
