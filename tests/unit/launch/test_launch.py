"""Variables of launchers, and the flags of mpiexec."""

import os
from pathlib import Path

import pytest

from hpcmarl.errors import LaunchError
from hpcmarl.launch.mpiexec import MpiProgram, command_line, program_of, run_ranks
from hpcmarl.launch.world import check_world, launcher_world, library_kind
from hpcmarl.threads import VARIABLES, set_thread_environment

OPEN_MPI, MPICH = "Open MPI v5.0.11, package: ...", "MPICH Version:\t5.0.2"
BATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "8",
    "SLURM_NPROCS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NUM_NODES": "2",
}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "4"}


class TestThreads:
    def test_thread_variables_set_by_the_user_are_kept(self):
        environ = {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": ""}
        chosen = set_thread_environment(2, environ)
        assert environ["OMP_NUM_THREADS"] == "8"
        assert all(environ[name] == "2" for name in VARIABLES if name != "OMP_NUM_THREADS")
        assert "OMP_NUM_THREADS" not in chosen


class TestWorld:
    @pytest.mark.parametrize(
        ("environ", "name", "size", "rank"),
        [
            (STEP, "srun", 4, 2),
            (MPIRUN, "mpirun of Open MPI", 4, 1),
            (HYDRA, "mpiexec of MPICH or Intel MPI", 4, 3),
            ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "a PMI launcher", 2, 0),
            ({**STEP, "PMI_SIZE": "4", "PMI_RANK": "2"}, "srun", 4, 2),
            # mpirun inside a batch job starts its helpers with srun, so that its ranks see the variables of a
            # step of one task a node.
            ({**STEP, "SLURM_STEP_NUM_TASKS": "2", **MPIRUN}, "mpirun of Open MPI", 4, 1),
            ({**STEP, "SLURM_STEP_NUM_TASKS": "2", **HYDRA}, "mpiexec of MPICH or Intel MPI", 4, 3),
        ],
    )
    def test_launcher_world_is_read_from_its_variables(self, environ, name, size, rank):
        world = launcher_world(environ)
        assert (world.launcher.name, world.size, world.rank) == (name, size, rank)

    @pytest.mark.parametrize(
        "environ", [{}, BATCH, {"OMPI_COMM_WORLD_SIZE": "x", "OMPI_COMM_WORLD_RANK": "0"}, {"PMIX_RANK": "0"}]
    )
    def test_launcher_world_is_none_without_valid_variables(self, environ):
        assert launcher_world(environ) is None

    @pytest.mark.parametrize(
        ("environ", "size"),
        [({}, 1), (BATCH, 1), (BATCH, 8), (STEP, 4), (MPIRUN, 4), (HYDRA, 4), ({"PMIX_RANK": "0"}, 1)],
    )
    def test_check_world_accepts_matching_world_sizes(self, environ, size):
        check_world(size, environ, OPEN_MPI)

    @pytest.mark.parametrize(
        ("environ", "size", "library", "parts"),
        [
            (STEP, 1, OPEN_MPI, ["srun started 4 separate worlds", "Open MPI needs srun --mpi=pmix"]),
            (STEP, 1, MPICH, ["MPICH needs srun --mpi=pmi2"]),
            (STEP, 1, "", ["--mpi=pmix", "--mpi=pmi2"]),
            (
                MPIRUN,
                1,
                MPICH,
                [
                    "mpirun of Open MPI started 4",
                    "another MPI than the one mpi4py loaded, MPICH",
                    "MPI4PY_MPIABI",
                ],
            ),
            (HYDRA, 1, OPEN_MPI, ["another MPI than the one mpi4py loaded, Open MPI"]),
            (MPIRUN, 1, OPEN_MPI, ["did not connect"]),
            (MPIRUN, 2, OPEN_MPI, ["says 4 ranks (OMPI_COMM_WORLD_SIZE) but the MPI world has 2"]),
            ({**MPIRUN, "OMPI_COMM_WORLD_SIZE": "1"}, 4, OPEN_MPI, ["says 1 ranks", "has 4"]),
            ({"PMIX_RANK": "3"}, 1, OPEN_MPI, ["PMIx rank 3", "Open MPI did not join"]),
        ],
    )
    def test_world_size_mismatch_error_names_the_remedy(self, environ, size, library, parts):
        with pytest.raises(LaunchError) as raised:
            check_world(size, environ, library)
        for part in parts:
            assert part in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_heterogeneous_component_allows_a_larger_world(self):
        component = {**STEP, "SLURM_HET_SIZE": "2"}
        check_world(6, component, OPEN_MPI)
        with pytest.raises(LaunchError):
            check_world(1, component, OPEN_MPI)


class TestMpiexec:
    @pytest.mark.parametrize(
        ("text", "library", "version"),
        [
            ("mpiexec (Open MPI) 5.0.11\n\nReport bugs to ...", "openmpi", (5, 0, 11)),
            ("mpirun (OpenRTE) 4.1.4\n", "openmpi", (4, 1, 4)),
            (
                "HYDRA build details:\n    Version:                                 5.0.2\n",
                "mpich",
                (5, 0, 2),
            ),
            ("Intel(R) MPI Library for Linux* OS, Version 2021.10 Build 20230619\n", "intel", (2021, 10)),
            ("something else", "unknown", ()),
        ],
    )
    def test_mpiexec_library_and_version_are_parsed(self, text, library, version):
        assert program_of(Path("/x/mpiexec"), text) == MpiProgram(Path("/x/mpiexec"), library, version)
        assert library_kind(text) == library

    def test_mpiexec_flags_depend_on_library_and_version(self):
        five, four = (MpiProgram(Path("/m"), "openmpi", version) for version in ((5, 0, 11), (4, 1, 4)))
        command, added = command_line(3, five, {}, is_root=False, scratch="/s")
        assert command[:3] == ["/m", "-n", "3"]
        assert "--with-ft" in command
        assert "ob1" in command
        assert added == {"PRTE_MCA_prte_local_tmpdir_base": "/s"}
        for chosen in ("PRTE_MCA_prte_tmpdir_base", "PRTE_MCA_prte_local_tmpdir_base"):
            assert command_line(3, five, {chosen: "/user"}, is_root=False, scratch="/s") == (command, {})
        command, added = command_line(3, four, {}, is_root=True, scratch="/s")
        assert "--with-ft" not in command
        assert "^rdma" in command
        assert added == {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        assert command_line(
            3, MpiProgram(Path("/m"), "mpich", (5, 0, 2)), {}, is_root=True, scratch="/s"
        ) == (["/m", "-n", "3"], {})

    def test_multi_node_allocation_gets_no_extra_flags(self):
        program = MpiProgram(Path("/m"), "openmpi", (5, 0, 11))
        assert command_line(3, program, BATCH, is_root=False, scratch="/s") == (["/m", "-n", "3"], {})
        assert (
            len(
                command_line(3, program, {**BATCH, "SLURM_JOB_NUM_NODES": "1"}, is_root=False, scratch="/s")[
                    0
                ]
            )
            > 3
        )

    def test_run_ranks_rejects_a_nested_world(self):
        with pytest.raises(LaunchError, match="leave -n out"):
            run_ranks(2, ["train"], {**os.environ, **MPIRUN})
