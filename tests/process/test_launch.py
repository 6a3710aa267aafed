"""Launchers and signals: started programs, forwarded settings, and no process left behind."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from hpcmarl.errors import LaunchError
from hpcmarl.launch.mpiexec import (
    MpiProgram,
    end_session,
    find_mpiexec,
    run_ranks,
    session_members,
    supervise,
)
from tests.support.waiting import has_ended, wait_until
from tests.support.worlds import SPREAD


def leader(code, **variables):
    """Start a Python that runs `supervise` on a shell command, as the launching parent does."""
    program = (
        "import os, sys\nfrom hpcmarl.launch.mpiexec import supervise\nsys.exit(supervise(['sh', "
        f"'-c', {code!r}], os.environ))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, **variables}
    )


def test_mpiexec_beside_python_precedes_the_path(tmp_path, monkeypatch):
    for name, version in (
        ("venv", "mpiexec (Open MPI) 5.0.1"),
        ("site", "HYDRA build details:\n Version: 4.2.0"),
    ):
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


def test_ranks_draw_the_returns_in_the_users_terminal(tmp_path):
    """Check that a terminal shows the curve of returns in the panel during training, and at the end."""
    (tmp_path / "config.yaml").write_text(SPREAD)
    command = [sys.executable, "-m", "hpcmarl", "train", "config.yaml", "-n", "2", "--run-dir", "run"]
    changes = ["stop={seconds: 4}", "logging.progress=true"]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 100))
    with subprocess.Popen(
        [*command, *changes], cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=end
    ) as job:
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(terminal, 1 << 16):
                shown += part
    os.close(terminal)
    text = shown.decode()
    assert job.returncode == 0, text
    assert text.count("shares of time") > 2
    assert text.count("(return)") > 2
    last = text[text.rindex("(return)") :]
    assert "(seconds)" in last
    assert "finished after" in last


class TestSupervision:
    def test_supervise_returns_the_exit_code(self):
        assert supervise(["sh", "-c", "exit 75"], os.environ) == 75
        assert supervise(["sh", "-c", "kill -9 $$"], os.environ) == 128 + 9

    @pytest.mark.parametrize(
        ("script", "code"),
        [
            ("exit 2", 2),
            ("exit 0", 1),  # every rank was killed
            ("echo 0 >$HPCMARL_OUTCOME; exit 137", 0),  # one rank was replaced, and the run completed
            ("echo $PWD >$HPCMARL_OUTCOME.run; exit 0", 75),
            (
                "echo $PWD >$HPCMARL_OUTCOME.run; touch $HPCMARL_OUTCOME.said; exit 1",
                75,
            ),  # a rank was missing at the start
        ],
    )
    def test_reported_outcome_overrides_the_exit_code(self, script, code, tmp_path, monkeypatch):
        mpiexec = tmp_path / "mpiexec"
        mpiexec.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        mpiexec.chmod(0o755)
        monkeypatch.setattr(
            "hpcmarl.launch.mpiexec.find_mpiexec", lambda environ: MpiProgram(mpiexec, "openmpi", (5, 0))
        )
        assert run_ranks(2, ["train"], os.environ, lambda run: run == tmp_path) == code

    @pytest.mark.parametrize("script", ["exit 0", "touch $HPCMARL_OUTCOME.said; exit 1"])
    def test_ranks_lost_before_the_run_was_opened_can_resume(self, script, tmp_path, monkeypatch, capfd):
        mpiexec = tmp_path / "mpiexec"
        mpiexec.write_text(f"#!/bin/sh\n{script}\n")
        mpiexec.chmod(0o755)
        monkeypatch.setattr(
            "hpcmarl.launch.mpiexec.find_mpiexec", lambda environ: MpiProgram(mpiexec, "openmpi", (5, 0))
        )
        assert run_ranks(2, ["train"], os.environ, lambda run: run == tmp_path, lambda: tmp_path) == 75
        assert capfd.readouterr().err.count(f"--resume {tmp_path}") == ("said" not in script)
        assert run_ranks(2, ["train"], os.environ, lambda run: False, lambda: tmp_path) == 1

    def test_launchers_code_counts_for_other_commands(self, tmp_path, monkeypatch):
        mpiexec = tmp_path / "mpiexec"
        mpiexec.write_text("#!/bin/sh\nexit 7\n")
        mpiexec.chmod(0o755)
        monkeypatch.setattr(
            "hpcmarl.launch.mpiexec.find_mpiexec", lambda environ: MpiProgram(mpiexec, "openmpi", (5, 0))
        )
        assert run_ranks(2, ["doctor"], os.environ) == 7

    def test_supervise_restores_signal_handlers(self):
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

    def test_second_signal_ends_all_processes(self):
        process = leader(
            "trap 'echo asked' USR1; (trap '' USR1 TERM INT; echo $$; exec sleep 300) & echo $!; while :; do "
            "sleep 0.05; done"
        )
        numbers = {int(process.stdout.readline()) for _ in range(2)}
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGTERM
        wait_until(lambda: all(has_ended(number) for number in numbers))

    def test_children_in_other_process_groups_are_ended_too(self):
        process = leader("set -m; sleep 300 & echo $!; exit 3")
        child = int(process.stdout.readline())
        assert process.wait(20) == 3
        wait_until(lambda: has_ended(child))

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl")
    def test_killing_the_parent_ends_the_launcher(self):
        process = leader("echo $$; exec sleep 300")
        launcher = int(process.stdout.readline())
        process.kill()
        process.wait(20)
        wait_until(lambda: has_ended(launcher))
        assert has_ended(launcher)

    def test_end_session_ends_only_the_given_session(self):
        own, other = (subprocess.Popen(["sleep", "300"], start_new_session=True) for _ in range(2))
        try:
            assert session_members(own.pid) == [own.pid]
            assert end_session(own.pid) == [own.pid]
            assert own.wait(20) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            other.kill()
            other.wait(20)


class TestStopSignals:
    ENDING = (
        "import ctypes, sys\n"
        "from hpcmarl.launch.signals import StopSignals\n"
        # stands for MPI_Finalize, called at the same place
        "ctypes.pythonapi.Py_AtExit(ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p))\n"
        "StopSignals().install().ignore_at_exit()\n"
        "sys.stdout.write('leaving')\n"
    )

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    def test_stop_signals_do_not_kill_a_finishing_rank(self, number):
        with subprocess.Popen([sys.executable, "-c", self.ENDING], stdout=subprocess.PIPE) as process:
            assert process.stdout.read(7) == b"leaving"
            wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "S")  # asleep
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.kill()
        assert process.returncode == -signal.SIGKILL

    def test_processes_started_after_a_run_receive_signals(self):
        program = (
            "import subprocess\n"
            "from hpcmarl.launch.signals import StopSignals\n"
            "StopSignals().install().ignore_at_exit()\n"
            "print(subprocess.run(['bash', '-c', 'trap \"exit 7\" TERM; kill -TERM $$; exit "
            "0']).returncode)\n"
        )
        assert (
            subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True).stdout == "7\n"
        )
