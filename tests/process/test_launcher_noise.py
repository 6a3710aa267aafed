"""Known harmless messages of the launcher go to a log after a good end and are shown after a failure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcmarl.launch.mpiexec import MpiProgram, run_ranks

NOISE = (
    "[warn] Epoll MOD(1) on fd 31 failed. Old events were 6\\n[n1:77] pmix_ptl_base: send_msg: write "
    "failed: Broken pipe (32) [sd = 5]\\n"
)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a run directory; return the path of a script that replaces mpiexec."""
    mpiexec = tmp_path / "mpiexec"
    monkeypatch.setattr(
        "hpcmarl.launch.mpiexec.find_mpiexec", lambda environ: MpiProgram(mpiexec, "openmpi", (5, 0))
    )
    (tmp_path / "run" / "logs").mkdir(parents=True)
    return mpiexec


def speak(launcher: Path, code: int) -> int:
    run = launcher.parent / "run"
    told = f"echo {code} >$HPCMARL_OUTCOME; echo {run} >$HPCMARL_OUTCOME.run"
    launcher.write_text(
        f"#!/bin/sh\n{told}\nprintf 'a real line\\n{NOISE}[rank 3] no newline' >&2\nexit {code}\n"
    )
    launcher.chmod(0o755)
    return run_ranks(2, ["train"], os.environ, lambda run: True)


@pytest.mark.parametrize("code", [0, 75])
def test_noise_after_a_good_end_goes_to_a_log(
    launcher: Path, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert speak(launcher, code) == code
    assert capfd.readouterr().err == "a real line\n[rank 3] no newline"
    log = (launcher.parent / "run" / "logs" / "launcher.log").read_text()
    assert "Epoll MOD" in log
    assert "send_msg" in log


def test_noise_after_a_failure_is_shown(launcher: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert speak(launcher, 1) == 1
    told = capfd.readouterr().err
    assert "Epoll MOD" in told
    assert "a real line" in told
