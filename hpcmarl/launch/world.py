"""What the launcher's environment variables say about the MPI world, and whether the world that MPI found
agrees.

Called by the start of every rank (roles) and by the doctor. Knows variables and texts only: MPI itself is
asked elsewhere, so that this can be tested without it and run before it loads.

The trap it is for: an MPI library that does not understand the launcher gives N worlds of size 1 without a
word, and N copies of the run write into one directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hpcmarl.errors import LaunchError

LIBRARIES = {
    "openmpi": "Open MPI",
    "mpich": "MPICH",
    "intel": "Intel MPI",
    "unknown": "an unknown MPI library",
}


@dataclass(frozen=True)
class Launcher:
    """A launcher and the variables it gives each process. `marker`, if any, must be there too; `speaks` lists
    the libraries it can join."""

    name: str
    size: str
    rank: str
    marker: str
    speaks: tuple[str, ...]


@dataclass(frozen=True)
class LauncherWorld:
    """What the launcher intended: `size` processes, of which this is `rank`."""

    launcher: Launcher
    size: int
    rank: int


# The first row that fits counts. mpirun inside a Slurm job starts its helpers with srun, so that its ranks
# see a step's variables too: mpirun's own come first. A batch script has SLURM_NTASKS but is no step, so that
# a process started there by hand is alone.
LAUNCHERS = (
    Launcher("mpirun of Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "", ("openmpi",)),
    Launcher("mpiexec of MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", ("mpich", "intel")),
    Launcher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID", ("openmpi", "mpich", "intel")),
    Launcher("a PMI launcher", "PMI_SIZE", "PMI_RANK", "", ("mpich", "intel")),
)


def launcher_world(environ: Mapping[str, str]) -> LauncherWorld | None:
    """What the variables of this process say; None for a process that was started by hand."""
    for launcher in LAUNCHERS:
        size, rank = _number(environ, launcher.size), _number(environ, launcher.rank)
        if size and rank is not None and (not launcher.marker or launcher.marker in environ):
            return LauncherWorld(launcher, size, rank)
    return None


# variables that some launcher gives its processes; what is set by hand to tune MPI (OMPI_MCA_…, I_MPI_…) is
# not among them
# how wide the user's terminal is: ranks that a launcher started have none of their own
TERMINAL = "HPCMARL_TERMINAL"
LAUNCHER_PREFIXES = (
    "OMPI_COMM_WORLD_",
    "PMI_",
    "PMIX_",
    "PALS_",
    "MPI_LOCAL",
    "MV2_COMM_WORLD_",
    "SLURM_STEP_",
    "HYDRA_",
    "FLUX_TASK_",
)


def under_launcher(environ: Mapping[str, str]) -> bool:
    """Whether some MPI or Slurm launcher has started this process, also one that LAUNCHERS does not list."""
    return any(name.startswith(LAUNCHER_PREFIXES) for name in environ)


def library_kind(version_text: str) -> str:
    """One of the keys of LIBRARIES, from MPI's library version or from `mpiexec --version`."""
    text = version_text.lower()
    if "open mpi" in text or "openrte" in text or "open-mpi" in text or "prrte" in text:
        return "openmpi"
    if "intel" in text:
        return "intel"
    return "mpich" if "mpich" in text or "hydra" in text or "mvapich" in text else "unknown"


def check_world(actual_size: int, environ: Mapping[str, str], library: str = "") -> None:
    """Compare the size of MPI's world with what the launcher intended.

    `library` is MPI's version text, for the hint. Raises LaunchError, one line with the remedy, when they
    differ. A process that no launcher started is always in order, and so is one that Slurm started as a part
    of a heterogeneous job.
    """
    intended = launcher_world(environ)
    if intended is None:
        if actual_size == 1 and (_number(environ, "PMIX_RANK") or 0) > 0:
            name = LIBRARIES[library_kind(library)]
            raise LaunchError(
                f"this is PMIx rank {environ['PMIX_RANK']} but its MPI world has one rank: {name} did not "
                "join the others"
            )
        return
    if actual_size == intended.size:
        return
    if "SLURM_HET_SIZE" in environ and actual_size > intended.size:
        return  # each component counts its own tasks only
    name, size, kind = intended.launcher.name, intended.size, library_kind(library)
    if actual_size == 1:
        raise LaunchError(
            f"{name} started {size} separate worlds of one rank: {_singleton_hint(intended.launcher, kind)}"
        )
    raise LaunchError(
        f"{name} says {size} ranks ({intended.launcher.size}) but the MPI world has {actual_size}: "
        "the variables come from another launcher around this one; start the job with one launcher only"
    )


def _singleton_hint(launcher: Launcher, kind: str) -> str:
    library = LIBRARIES[kind]
    if launcher.name == "srun":
        plugin = {"openmpi": "pmix", "mpich": "pmi2", "intel": "pmi2"}.get(
            kind, "pmix (Open MPI) or --mpi=pmi2 (MPICH, Intel MPI)"
        )
        return (
            f"{library} needs srun --mpi={plugin} (srun --mpi=list shows what is there), or mpirun inside "
            "sbatch"
        )
    if kind in launcher.speaks or kind == "unknown":
        return (
            f"{library}, which mpi4py loaded, did not connect to it; try the mpiexec beside this Python "
            "(hpcmarl train -n RANKS does)"
        )
    return (
        f"it belongs to another MPI than the one mpi4py loaded, {library}; "
        "use that library's launcher (hpcmarl train -n RANKS finds it) or choose the library with "
        "MPI4PY_MPIABI"
    )


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isdecimal() else None
