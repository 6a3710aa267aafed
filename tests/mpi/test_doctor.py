"""`hpcmarl doctor` on real ranks."""

import json
import subprocess
import sys

import pytest

from tests.support.launch import ranks_take_seconds

pytestmark = [pytest.mark.mpi, ranks_take_seconds]


def test_doctor_reports_all_pairs_on_real_ranks(tmp_path):
    command = [
        sys.executable,
        "-m",
        "hpcmarl",
        "doctor",
        "-n",
        "3",
        "--json",
        "--run-dir",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["messages"]["value"].startswith("all 6 pairs")
    assert "rank 2" in findings
