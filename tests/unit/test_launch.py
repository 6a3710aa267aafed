"""Launching: what launchers' variables mean, mpiexec's flags, signals, and that no process is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcmarl.errors import LaunchError
from hpcmarl.launch.mpiexec import MpiProgram, command_line, end_session, find_mpiexec, program_of, run_ranks, session_members, supervise
from hpcmarl.launch.threads import VARIABLES, set_thread_environment
from hpcmarl.launch.world import check_world, launcher_world, library_kind

OPEN_MPI, MPICH = "Open MPI v5.0.11, package: ...", "MPICH Version:\t5.0.2"
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NUM_NODES": "2"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}
MPIRUN = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "PMIX_RANK": "1"}
HYDRA = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "4"}


class TestThreads:
    def test_sets_what_the_user_has_not_set(self):
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
            # mpirun inside a batch job starts its helpers with srun: its ranks see a step of one task a node
            ({**STEP, "SLURM_STEP_NUM_TASKS": "2", **MPIRUN}, "mpirun of Open MPI", 4, 1),
            ({**STEP, "SLURM_STEP_NUM_TASKS": "2", **HYDRA}, "mpiexec of MPICH or Intel MPI", 4, 3),
        ],
    )
    def test_what_the_launcher_meant(self, environ, name, size, rank):
        world = launcher_world(environ)
        assert (world.launcher.name, world.size, world.rank) == (name, size, rank)

    @pytest.mark.parametrize("environ", [{}, BATCH, {"OMPI_COMM_WORLD_SIZE": "x", "OMPI_COMM_WORLD_RANK": "0"}, {"PMIX_RANK": "0"}])
    def test_nobody_meant_anything(self, environ):
        assert launcher_world(environ) is None

    @pytest.mark.parametrize(("environ", "size"), [({}, 1), (BATCH, 1), (BATCH, 8), (STEP, 4), (MPIRUN, 4), (HYDRA, 4), ({"PMIX_RANK": "0"}, 1)])
    def test_agreement(self, environ, size):
        check_world(size, environ, OPEN_MPI)

    @pytest.mark.parametrize(
        ("environ", "size", "library", "parts"),
        [
            (STEP, 1, OPEN_MPI, ["srun started 4 separate worlds", "Open MPI needs srun --mpi=pmix"]),
            (STEP, 1, MPICH, ["MPICH needs srun --mpi=pmi2"]),
            (STEP, 1, "", ["--mpi=pmix", "--mpi=pmi2"]),
            (MPIRUN, 1, MPICH, ["mpirun of Open MPI started 4", "another MPI than the one mpi4py loaded, MPICH", "MPI4PY_MPIABI"]),
            (HYDRA, 1, OPEN_MPI, ["another MPI than the one mpi4py loaded, Open MPI"]),
            (MPIRUN, 1, OPEN_MPI, ["did not connect"]),
            (MPIRUN, 2, OPEN_MPI, ["says 4 ranks (OMPI_COMM_WORLD_SIZE) but the MPI world has 2"]),
            ({**MPIRUN, "OMPI_COMM_WORLD_SIZE": "1"}, 4, OPEN_MPI, ["says 1 ranks", "has 4"]),
            ({"PMIX_RANK": "3"}, 1, OPEN_MPI, ["PMIx rank 3", "Open MPI did not join"]),
        ],
    )
    def test_disagreement_says_how_to_mend_it(self, environ, size, library, parts):
        with pytest.raises(LaunchError) as raised:
            check_world(size, environ, library)
        for part in parts:
            assert part in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_a_component_of_a_heterogeneous_job_counts_its_own_tasks(self):
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
            ("HYDRA build details:\n    Version:                                 5.0.2\n", "mpich", (5, 0, 2)),
            ("Intel(R) MPI Library for Linux* OS, Version 2021.10 Build 20230619\n", "intel", (2021, 10)),
            ("something else", "unknown", ()),
        ],
    )
    def test_whose_mpiexec(self, text, library, version):
        assert program_of(Path("/x/mpiexec"), text) == MpiProgram(Path("/x/mpiexec"), library, version)
        assert library_kind(text) == library

    def test_flags(self):
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
        assert command_line(3, MpiProgram(Path("/m"), "mpich", (5, 0, 2)), {}, is_root=True, scratch="/s") == (["/m", "-n", "3"], {})

    def test_nothing_is_forced_on_an_allocation_of_several_nodes(self):
        program = MpiProgram(Path("/m"), "openmpi", (5, 0, 11))
        assert command_line(3, program, BATCH, is_root=False, scratch="/s") == (["/m", "-n", "3"], {})
        assert len(command_line(3, program, {**BATCH, "SLURM_JOB_NUM_NODES": "1"}, is_root=False, scratch="/s")[0]) > 3

    def test_the_one_beside_python_comes_first_then_path(self, tmp_path, monkeypatch):
        for name, version in (("venv", "mpiexec (Open MPI) 5.0.1"), ("site", "HYDRA build details:\n Version: 4.2.0")):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "mpiexec").write_text(f"#!/bin/sh\necho '{version}'\n")
            (folder / "mpiexec").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
        assert find_mpiexec({"PATH": str(tmp_path / "site")}).label == "openmpi 5.0.1"
        (tmp_path / "venv" / "mpiexec").unlink()
        assert find_mpiexec({"PATH": str(tmp_path / "site")}).label == "mpich 4.2.0"
        with pytest.raises(LaunchError, match=r"hpcmarl\[openmpi\]"):
            find_mpiexec({"PATH": str(tmp_path)})

    def test_refuses_a_world_inside_a_world(self):
        with pytest.raises(LaunchError, match="leave -n out"):
            run_ranks(2, ["train"], {**os.environ, **MPIRUN})


def leader(code, **variables):
    """A Python that runs `supervise` on a shell command, as the launching parent does."""
    program = f"import os, sys\nfrom hpcmarl.launch.mpiexec import supervise\nsys.exit(supervise(['sh', '-c', {code!r}], os.environ))"
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, **variables})


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


def gone(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


class TestSupervision:
    def test_the_exit_code_is_handed_up(self):
        assert supervise(["sh", "-c", "exit 75"], os.environ) == 75
        assert supervise(["sh", "-c", "kill -9 $$"], os.environ) == 128 + 9

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ("exit 7", 7),
            ("echo 0 >$HPCMARL_OUTCOME; exit 137", 0),  # a replaced rank was killed in its turn
        ],
    )
    def test_the_runs_own_word_counts_where_there_is_one(self, script, code, tmp_path, monkeypatch):
        mpiexec = tmp_path / "mpiexec"
        mpiexec.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        mpiexec.chmod(0o755)
        monkeypatch.setattr("hpcmarl.launch.mpiexec.find_mpiexec", lambda environ: MpiProgram(mpiexec, "openmpi", (5, 0)))
        assert run_ranks(2, ["train"], os.environ) == code

    def test_handlers_are_put_back(self):
        before = signal.getsignal(signal.SIGUSR1)
        supervise(["true"], os.environ)
        assert signal.getsignal(signal.SIGUSR1) is before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
    def test_the_first_signal_asks_for_a_checkpoint(self, number):
        process = leader("trap 'echo asked; exit 75' USR1; echo ready; while :; do sleep 0.05; done")
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "asked\n"
        assert process.wait(20) == 75

    def test_the_second_signal_ends_it_and_what_it_left(self):
        process = leader("trap 'echo asked' USR1; (trap '' USR1 TERM INT; echo $$; exec sleep 300) & echo $!; while :; do sleep 0.05; done")
        numbers = {int(process.stdout.readline()) for _ in range(2)}
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGTERM
        wait_until(lambda: all(gone(number) for number in numbers))

    def test_children_in_other_process_groups_are_ended_too(self):
        process = leader("set -m; sleep 300 & echo $!; exit 3")
        child = int(process.stdout.readline())
        assert process.wait(20) == 3
        wait_until(lambda: gone(child))

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl")
    def test_killing_the_parent_ends_the_launcher(self):
        process = leader("echo $$; exec sleep 300")
        launcher = int(process.stdout.readline())
        process.kill()
        process.wait(20)
        wait_until(lambda: gone(launcher))
        assert gone(launcher)

    def test_only_the_session_asked_for_is_ended(self):
        own, other = (subprocess.Popen(["sleep", "300"], start_new_session=True) for _ in range(2))
        try:
            assert session_members(own.pid) == [own.pid]
            assert end_session(own.pid) == [own.pid]
            assert own.wait(20) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            other.kill()
            other.wait(20)


@pytest.mark.mpi
class TestRealMpiexec:
    def test_ranks_find_each_other(self, tmp_path):
        program = find_mpiexec(os.environ)
        command, added = command_line(3, program, os.environ, is_root=os.geteuid() == 0, scratch=str(tmp_path))
        code = "from mpi4py import MPI; import sys; c = MPI.COMM_WORLD; sys.exit(0 if (c.allreduce(c.rank), c.size) == (3, 3) else 9)"
        done = subprocess.run([*command, sys.executable, "-c", code], env={**os.environ, **added}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def test_what_a_killed_launcher_of_the_same_number_has_left_is_no_obstacle(self, tmp_path, monkeypatch):
        """Open MPI 5's launcher keeps its files in $TMPDIR/ompi.PROCESS; one that finds them there does not start (openpmix issue 4022)."""
        program = find_mpiexec(os.environ)
        left = tmp_path / "mpiexec"
        left.write_text(f'#!/bin/sh\nmkdir "$TMPDIR/ompi.$$" && touch "$TMPDIR/ompi.$$/pmix.vm.tool.$$"\nexec {program.path} "$@"\n')
        left.chmod(0o755)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("hpcmarl.launch.mpiexec.find_mpiexec", lambda environ: MpiProgram(left, program.library, program.version))
        assert run_ranks(1, ["list", "algos"], os.environ) == 0
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("hpcmarl-")] == []

    def test_the_first_signal_reaches_the_ranks_as_usr1_and_nothing_is_left(self, tmp_path):
        script = tmp_path / "rank.py"
        script.write_text(
            "import os, signal, sys, time\n"
            "from mpi4py import MPI\n"
            "def stop(number, frame):\n"
            "    MPI.COMM_WORLD.Barrier(); sys.exit(75)\n"
            "signal.signal(signal.SIGUSR1, stop)\n"
            "print('ready', os.getpid(), flush=True)\n"
            "while True: time.sleep(0.02)\n"
        )
        program = (
            "import os, sys\nfrom hpcmarl.launch.mpiexec import *\n"
            f"command, added = command_line(2, find_mpiexec(os.environ), os.environ, os.geteuid() == 0, {str(tmp_path)!r})\n"
            f"sys.exit(supervise([*command, sys.executable, {str(script)!r}], {{**os.environ, **added}}))"
        )
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        numbers = [int(process.stdout.readline().split()[1]) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
        wait_until(lambda: all(gone(number) for number in numbers))


class TestStopSignals:
    ENDING = (
        "import ctypes, sys\n"
        "from hpcmarl.launch.signals import StopSignals\n"
        "ctypes.pythonapi.Py_AtExit(ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p))\n"  # stands for MPI_Finalize, called at the same place
        "StopSignals().install().ignore_at_exit()\n"
        "sys.stdout.write('leaving')\n"
    )

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    def test_none_kills_a_rank_that_is_done_and_waits_in_mpi_finalize(self, number):
        with subprocess.Popen([sys.executable, "-c", self.ENDING], stdout=subprocess.PIPE) as process:
            assert process.stdout.read(7) == b"leaving"
            wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "S")  # asleep
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
        assert process.returncode == -signal.SIGKILL

    def test_what_is_started_after_a_run_hears_signals(self):
        program = (
            "import subprocess\n"
            "from hpcmarl.launch.signals import StopSignals\n"
            "StopSignals().install().ignore_at_exit()\n"
            "print(subprocess.run(['bash', '-c', 'trap \"exit 7\" TERM; kill -TERM $$; exit 0']).returncode)\n"
        )
        assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True).stdout == "7\n"
