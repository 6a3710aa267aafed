"""The section `slurm`: settings of the cluster for batch scripts (rendered by launch/slurm.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import Line, Section


class SlurmConfig(Section):
    """Settings of the cluster for `hpcmarl submit`; the run itself does not use them."""

    account: Line | None = None
    partition: Line | None = None
    actor_partition: Line | None = Field(None, description="of the actors in a heterogeneous job (--hetjob)")
    modules: tuple[Line, ...] = Field((), description="names for `module load`")
    environment: Line | None = Field(
        None, description="virtual environment; default: the one that runs hpcmarl submit"
    )
    launcher: Literal["srun", "mpirun"] = Field("srun", description="what starts the ranks inside the job")
    mpi: Line | None = Field(
        "pmix",
        description=(
            "srun --mpi=...: pmix for Open MPI, pmi2 for MPICH and Intel MPI; null: the cluster's default"
        ),
    )
    launcher_options: tuple[Line, ...] = Field(
        (),
        description=(
            "further words for srun or mpirun; without any, Open MPI's mpirun gets --bind-to none "
            "and, from 5 on, fault tolerance"
        ),
    )
    options: tuple[Line, ...] = Field(
        (), description="further options of sbatch, [--gres=gpu:1, --exclusive]"
    )
    actor_options: tuple[Line, ...] = Field(
        (), description="the same for the actors' nodes of a heterogeneous job"
    )
    signal_seconds: Annotated[int, Field(ge=1, le=65535)] = Field(
        120, description="the signal to stop comes so long before the time limit"
    )
    requeues: Annotated[int, Field(ge=0)] = Field(
        3, description="requeues in a row that may bring no newer checkpoint; then the job ends"
    )
    stage: bool = Field(False, description="unpack the environment on each node's own disk first")
