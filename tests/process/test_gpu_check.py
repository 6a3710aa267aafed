"""The script that tests the device path on a GPU, run on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_check"
# `compile` needs a compiler and seconds, and `sums` repeats tests/mpi.
CHECKS = "updates,staging,training,sizes,precision,images,memory,gpu_aware_mpi,inference"


def run(*options):
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow("the script starts three MPI jobs and builds all algorithms twice")
def test_every_check_passes_on_the_cpu():
    done = run("--device", "cpu", "--quick", "--only", CHECKS)
    assert done.returncode == 0, done.stdout + done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(
        CHECKS.split(","), "passed"
    )
    assert checks["training"]["resumed"]["updates"] == 20


def test_a_failing_check_is_reported_and_others_run():
    program = (
        "import runpy, sys\n"
        f"script = runpy.run_path({str(SCRIPT)!r})\n"
        "def fail(check): raise ValueError('broken\\nfor a test')\n"
        "script['CHECKS']['sizes'] = fail\n"
        "sys.argv = ['gpu_check', '--device', 'cpu', '--quick', '--only', 'sizes,memory']\n"
        "sys.exit(script['main']())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    checks = json.loads(done.stdout)["checks"]
    assert checks["sizes"]["status"] == "failed"
    assert checks["sizes"]["reason"] == "ValueError: broken for a test"
    assert checks["memory"]["status"] == "passed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line():
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "or test the script: --device cpu" in done.stderr
