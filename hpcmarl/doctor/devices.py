"""Checks of the doctor about GPUs: the device of each rank, and MPI with buffers on a GPU."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.doctor.findings import Finding
from hpcmarl.doctor.world import roles_of
from hpcmarl.errors import HpcmarlError
from hpcmarl.launch.mpiexec import find_mpiexec
from hpcmarl.launch.world import launcher_world
from hpcmarl.placement import shared_devices, wants_cuda
from hpcmarl.runtime.devices import FIELD, device_users, gather_texts, open_own

SELF_TEST = "hpcmarl.comm.mpi.device_self_test"
SELF_TEST_SECONDS = 60.0
UNUSED = "hpcmarl sends main memory only, so no run depends on it"


def check_devices_of_ranks(transport: Transport, config: Config) -> list[Finding]:
    """Open the device of each rank that needs one. Collective.

    Args:
        transport: The world, whose messages arrive.
        config: The configuration, which names a CUDA device.

    Returns:
        On rank 0 a finding for each device, and one about devices that NCCL cannot use.
    """
    hosts = transport.gather_hosts()
    topology = roles_of(hosts, config)
    if topology is None:
        return []
    learners, users = [group.learner for group in topology.groups], device_users(config, topology)
    own = FIELD.join(open_own(config, topology, transport.rank)) if transport.rank in users else ""
    texts = gather_texts(transport, own)
    findings, used = [], []
    for rank in users if texts else ():
        device, _, name = texts[rank].partition(FIELD)
        if device:
            used += [(rank, hosts[rank], name)] if rank in learners else []
            value = f"{device} ({name}) on {hosts[rank]}"
            findings.append(Finding("OK", f"device of rank {rank}", value))
        else:
            findings.append(Finding("BAD", f"device of rank {rank}", name))
    if config.rounds.reduce == "nccl" and (problem := shared_devices(used)):
        findings.append(Finding("BAD", "devices of NCCL", problem))
    return findings


def describe_other_devices(config: Config | None) -> list[Finding]:
    """Return a finding if learners and actors use the CPU by choice."""
    if config is None or wants_cuda(config.device):
        return []
    return [Finding("OK", "devices", f"cpu (device: {config.device})")]


def check_gpu_aware_mpi(environ: Mapping[str, str], device: str = "cuda") -> Finding:
    """Send a buffer between the GPUs of two ranks, which are started for it.

    Args:
        environ: Environment variables of this process.
        device: "cuda"; "cpu" tests the check itself.

    Returns:
        A finding, which is never BAD.
    """
    name = "GPU-aware MPI"
    if device == "cuda" and not _sees_cuda():
        return Finding("OK", name, f"not tested: this process sees no CUDA device ({UNUSED})")
    if launcher_world(environ) is not None:
        remedy = "hpcmarl doctor without -n, srun or mpirun, on a node with a GPU"
        return Finding("OK", name, "not tested inside an MPI job", remedy)
    try:
        # The options of `hpcmarl train -n` leave out the transports that know GPUs.
        program = find_mpiexec(environ)
        flags = ["--oversubscribe", "--bind-to", "none"] if program.library == "openmpi" else []
        command = [str(program.path), "-n", "2", *flags, sys.executable, "-m", SELF_TEST, device]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        code = _run(command, {**environ, **(root if os.geteuid() == 0 else {})})
    except (HpcmarlError, OSError) as error:
        return Finding("OK", name, f"not tested: {error}")
    if code == 0:
        return Finding("OK", name, f"works: a buffer of {device} arrives unchanged ({UNUSED})")
    end = f"no answer within {SELF_TEST_SECONDS:g} s" if code is None else f"exit code {code}"
    return Finding("OK", name, f"does not work here: {end} ({UNUSED})")


def _sees_cuda() -> bool:
    try:
        torch = importlib.import_module("torch")
        return bool(torch.cuda.is_available())
    except Exception:  # check_software reports a torch that does not load
        return False


def _run(command: Sequence[str], environ: Mapping[str, str]) -> int | None:
    """Run a command in a session of its own; return its exit code, or None if it was too slow."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, env=dict(environ), stdout=quiet, stderr=quiet, start_new_session=True
    ) as process:
        try:
            return process.wait(SELF_TEST_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None
