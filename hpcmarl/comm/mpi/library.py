"""Name, version and abilities of the MPI library."""

from __future__ import annotations

import os

from mpi4py import MPI


def library_version() -> str:
    """Return the first line of the MPI library's version text (Open MPI's text ends in a NUL byte)."""
    return MPI.Get_library_version().rstrip("\x00").strip().splitlines()[0]


def standard_version() -> tuple[int, int]:
    """Return the (major, minor) version of the MPI standard that the library implements."""
    return MPI.Get_version()


def thread_level_name() -> str:
    """Return MPI's thread level: "single", "funneled", "serialized" or "multiple"."""
    names = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    return names[MPI.Query_thread()]


def survives_deaths() -> bool:
    """Return whether the other ranks can continue when one dies.

    This requires Open MPI 5 or later, started by mpiexec with `--with-ft ulfm`.
    """
    name, version = MPI.get_vendor()
    fault_tolerant = os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112
    return name == "Open MPI" and version >= (5, 0) and fault_tolerant


def world_size() -> int:
    """Return the number of ranks in the world that MPI was started with."""
    return int(MPI.COMM_WORLD.Get_size())
