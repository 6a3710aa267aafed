"""The section `slurm`: settings of the cluster for batch scripts (rendered by launch/slurm.py)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpcmarl.config.base import Line, Section


class SlurmConfig(Section):
    """Settings of the cluster for `hpcmarl submit`; the run itself does not use them."""

    account: Line | None = Field(
        None, description="account that jobs are charged to; null: the cluster's default"
    )
    partition: Line | None = Field(None, description="partition of jobs; null: the cluster's default")
    actor_partition: Line | None = Field(
        None,
        description=(
            "partition of the actors in a heterogeneous job (--hetjob); null: the cluster's default"
        ),
    )
    modules: tuple[Line, ...] = Field((), description="names for module load")
    environment: Line | None = Field(
        None, description="directory of a virtual environment; null: the one that runs hpcmarl submit"
    )
    launcher: Literal["srun", "mpirun"] = Field(
        "srun", description="program that starts the ranks inside the job"
    )
    mpi: Line | None = Field(
        "pmix",
        description=(
            "type for srun --mpi: pmix for Open MPI, pmi2 for MPICH and Intel MPI; null: the cluster's "
            "default"
        ),
    )
    launcher_options: tuple[Line, ...] = Field(
        (),
        description=(
            "additional options of srun or mpirun; without any, Open MPI's mpirun gets --bind-to none "
            "and, from version 5 on, fault tolerance"
        ),
    )
    options: tuple[Line, ...] = Field(
        (), description="additional options of sbatch, [--gres=gpu:1, --exclusive]"
    )
    actor_options: tuple[Line, ...] = Field(
        (), description="additional options of sbatch for the actors' nodes of a heterogeneous job"
    )
    gpus: Annotated[int, Field(ge=0, le=1024)] = Field(
        0,
        description=(
            "GPUs of each node (sbatch --gpus-per-node); in a heterogeneous job, of each learners' node; 0: "
            "the option is left out"
        ),
    )
    signal_seconds: Annotated[int, Field(ge=1, le=65535)] = Field(
        120, description="seconds before the time limit at which the job gets the signal to stop"
    )
    requeues: Annotated[int, Field(ge=0)] = Field(
        3, description="number of consecutive requeues without a newer checkpoint after which the job ends"
    )
    stage: bool = Field(False, description="first unpack the environment on the local disk of each node")
