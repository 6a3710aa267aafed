"""What the MPI library is and can. Called by comm/mpi/mpi_transport.py, the doctor and the start of a run."""

from __future__ import annotations

import os

from mpi4py import MPI


def library_version() -> str:
    """The MPI library's own words, first line (Open MPI's text ends in a NUL byte)."""
    return MPI.Get_library_version().rstrip("\x00").strip().splitlines()[0]


def standard_version() -> tuple[int, int]:
    """(major, minor) of the MPI standard that the library implements."""
    return MPI.Get_version()


def thread_level_name() -> str:
    """single, funneled, serialized or multiple: what MPI was initialised with."""
    names = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
        MPI.THREAD_MULTIPLE: "multiple",
    }
    return names[MPI.Query_thread()]


def survives_deaths() -> bool:
    """Whether the other ranks live on when one dies: Open MPI from version 5 on, if mpiexec was told
    --with-ft ulfm.
    """
    name, version = MPI.get_vendor()
    fault_tolerant = os.environ.get("OMPI_MCA_mpi_ft_enable") == "1"  # noqa: SIM112
    return name == "Open MPI" and version >= (5, 0) and fault_tolerant


def world_size() -> int:
    """Ranks in the world that MPI was started with."""
    return int(MPI.COMM_WORLD.Get_size())
