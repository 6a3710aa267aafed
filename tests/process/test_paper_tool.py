"""tools/paper: its list, a tiny experiment, and no repetition.

The list names every configuration of the paper.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def paper(*arguments, **environ):
    command = [str(ROOT / "tools" / "paper"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environ})


def hpcmarl(tmp_path):
    """Write a script that runs hpcmarl in the Python of this test; return its path."""
    path = tmp_path / "hpcmarl"
    path.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="{ROOT}:$PYTHONPATH"\nexec "{sys.executable}" -m hpcmarl "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def test_every_configuration_is_listed(tmp_path):
    done = paper("--list", "--out", tmp_path)
    assert done.returncode == 0
    for path in (ROOT / "configs" / "paper").glob("*.yaml"):
        simulated = "sim:" in path.read_text()
        assert (
            f"hpcmarl simulate configs/paper/{path.name} " if simulated else f"hpcmarl bench {path.stem} "
        ) in done.stdout
    assert all("about" in line and "hpcmarl " in line for line in done.stdout.splitlines())


def test_finished_experiments_are_not_repeated(tmp_path):
    arguments = ("two_quadratics", "--out", tmp_path / "out", "sim.stop.time=100")
    done = paper(*arguments, HPCMARL=hpcmarl(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "malenia" in done.stdout
    assert (tmp_path / "out" / "two_quadratics" / "table.txt").read_text() == done.stdout
    written = (tmp_path / "out" / "two_quadratics" / "summary.json").stat().st_mtime_ns
    again = paper(*arguments, HPCMARL=hpcmarl(tmp_path))
    assert (again.returncode, again.stdout) == (0, "")
    assert "two_quadratics is done" in again.stderr
    assert (tmp_path / "out" / "two_quadratics" / "summary.json").stat().st_mtime_ns == written
    assert "done:" in paper("--list", "--out", tmp_path / "out").stdout
    failed = paper("failures", "sim.workers=0", "--out", tmp_path / "out", HPCMARL=hpcmarl(tmp_path))
    assert failed.returncode == 1
    assert "sim.workers is 0" in failed.stderr
    assert "failed: failures" in failed.stderr


def test_unknown_experiments_and_options_are_rejected():
    assert "unknown experiment hoper; allowed: throughput" in paper("hoper").stderr
    assert paper("--everything").returncode == 2
