"""The MPI world that the launcher intended, from its environment variables, and a check against MPI's world.

The check catches a silent failure: an MPI library that does not understand the launcher creates N worlds of
one rank, and N copies of the run write into one directory.

This module does not load MPI, so it can run before MPI does.
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
    """A launcher and the variables that it sets for each process.

    Attributes:
        name: Name for messages.
        size: Variable with the number of ranks.
        rank: Variable with the rank.
        marker: Another variable that must be set; empty: none.
        speaks: MPI libraries whose ranks it can connect, as keys of LIBRARIES.
    """

    name: str
    size: str
    rank: str
    marker: str
    speaks: tuple[str, ...]


@dataclass(frozen=True)
class LauncherWorld:
    """World that the launcher intended: `size` processes, of which this one is `rank`."""

    launcher: Launcher
    size: int
    rank: int


# The first matching row counts. mpirun inside a Slurm job starts its daemons with srun, so its ranks also see
# the variables of a step; mpirun's variables come first. A batch script has SLURM_NTASKS but is no step, so a
# process started there by hand is alone.
LAUNCHERS = (
    Launcher("mpirun of Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "", ("openmpi",)),
    Launcher("mpiexec of MPICH or Intel MPI", "PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS", ("mpich", "intel")),
    Launcher("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID", ("openmpi", "mpich", "intel")),
    Launcher("a PMI launcher", "PMI_SIZE", "PMI_RANK", "", ("mpich", "intel")),
)


def launcher_world(environ: Mapping[str, str]) -> LauncherWorld | None:
    """Return the world that the launcher intended; None if no launcher of LAUNCHERS started this process."""
    for launcher in LAUNCHERS:
        size, rank = _number(environ, launcher.size), _number(environ, launcher.rank)
        if size and rank is not None and (not launcher.marker or launcher.marker in environ):
            return LauncherWorld(launcher, size, rank)
    return None


# Variable with the width of the user's terminal, because ranks under a launcher have no terminal.
TERMINAL = "HPCMARL_TERMINAL"
# Prefixes of variables that launchers set for their processes. Variables that users set to tune MPI
# (OMPI_MCA_…, I_MPI_…) are not among them.
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
    """Return whether an MPI or Slurm launcher has started this process, including ones not in LAUNCHERS."""
    return any(name.startswith(LAUNCHER_PREFIXES) for name in environ)


def library_kind(version_text: str) -> str:
    """Return the key of LIBRARIES for the version text of an MPI library or of mpiexec."""
    text = version_text.lower()
    if "open mpi" in text or "openrte" in text or "open-mpi" in text or "prrte" in text:
        return "openmpi"
    if "intel" in text:
        return "intel"
    return "mpich" if "mpich" in text or "hydra" in text or "mvapich" in text else "unknown"


def check_world(actual_size: int, environ: Mapping[str, str], library: str = "") -> None:
    """Compare the size of MPI's world with the size that the launcher intended.

    A process that no launcher started passes, unless its PMIx rank shows that it belongs to a larger world. A
    component of a heterogeneous Slurm job may be part of a larger world.

    Args:
        actual_size: Number of ranks in MPI's world.
        environ: Environment variables of this process.
        library: Version text of the MPI library, for the remedy.

    Raises:
        LaunchError: If the sizes differ; one line with the remedy.
    """
    intended = launcher_world(environ)
    if intended is None:
        if actual_size == 1 and (_number(environ, "PMIX_RANK") or 0) > 0:
            name = LIBRARIES[library_kind(library)]
            raise LaunchError(
                f"this is PMIx rank {environ['PMIX_RANK']} but its MPI world has one rank: {name} did not "
                "join the others; use the launcher of that library (hpcmarl train -n RANKS finds it)"
            )
        return
    if actual_size == intended.size:
        return
    if "SLURM_HET_SIZE" in environ and actual_size > intended.size:
        # the variables of each component count only its own tasks
        return
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
            f"{library} needs srun --mpi={plugin} (srun --mpi=list shows the available types), or mpirun "
            "inside sbatch"
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
