"""`mpiexec` as started by hpcmarl: one world, leftover files, and signals passed on to real ranks."""

import os
import signal
import subprocess
import sys

import pytest

from hpcmarl.launch.mpiexec import MpiProgram, command_line, find_mpiexec, run_ranks
from tests.support.launch import ranks_take_seconds
from tests.support.waiting import has_ended, wait_until

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


class TestRealMpiexec:
    def test_ranks_started_by_mpiexec_form_one_world(self, tmp_path):
        program = find_mpiexec(os.environ)
        command, added = command_line(
            3, program, os.environ, is_root=os.geteuid() == 0, scratch=str(tmp_path)
        )
        code = (
            "from mpi4py import MPI; import sys; c = MPI.COMM_WORLD; sys.exit(0 if (c.allreduce(c.rank), "
            "c.size) == (3, 3) else 9)"
        )
        done = subprocess.run(
            [*command, sys.executable, "-c", code],
            env={**os.environ, **added},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_leftover_files_of_a_killed_launcher_are_harmless(self, tmp_path, monkeypatch):
        """`run_ranks` succeeds although a killed launcher has left files in $TMPDIR.

        Open MPI 5's launcher keeps its files in $TMPDIR/ompi.PROCESS. A launcher that finds files at this
        path does not start (openpmix issue 4022).
        """
        program = find_mpiexec(os.environ)
        left = tmp_path / "mpiexec"
        left.write_text(
            '#!/bin/sh\nmkdir "$TMPDIR/ompi.$$" && touch "$TMPDIR/ompi.$$/pmix.vm.tool.$$"\nexec '
            f'{program.path} "$@"\n'
        )
        left.chmod(0o755)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr(
            "hpcmarl.launch.mpiexec.find_mpiexec",
            lambda environ: MpiProgram(left, program.library, program.version),
        )
        assert run_ranks(1, ["list", "algos"], os.environ) == 0
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("hpcmarl-")] == []

    def test_first_signal_reaches_the_ranks_as_usr1(self, tmp_path):
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
            "command, added = command_line(2, find_mpiexec(os.environ), os.environ, os.geteuid() == 0, "
            f"{str(tmp_path)!r})\n"
            f"sys.exit(supervise([*command, sys.executable, {str(script)!r}], {{**os.environ, **added}}))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        numbers = [int(process.stdout.readline().split()[1]) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
        wait_until(lambda: all(has_ended(number) for number in numbers))
