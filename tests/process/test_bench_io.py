"""`hpcmarl bench io` at a tiny size, as a process of its own."""

import json
import math
import subprocess
import sys

import pytest


def bench(*arguments):
    command = [sys.executable, "-m", "hpcmarl", "bench", "io", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow("starts two processes, one of which loads torch, and syncs many files")
def test_bench_io_compares_files_and_leaves_none(tmp_path):
    job = bench("--gigabytes", 0.003, "--runs", 2, "--rows", 30, "--dir", tmp_path, "--json")
    assert job.returncode == 0, job.stderr
    found = json.loads(job.stdout)
    for name in ("write", "verify", "inspect", "merge"):
        assert found[f"{name}_megabytes_per_second"] > 0
        assert 0 < found[f"{name}_ratio"] < math.inf
    assert 0.002 < found["gigabytes"] < 0.004
    assert found["shards"] >= 2
    assert (found["report_runs"], found["report_rows_per_run"]) == (2, 30)
    assert found["report_seconds"] > 0
    assert found["report_peak_megabytes"] > 10
    assert list(tmp_path.iterdir()) == []


def test_bench_io_refuses_a_disk_without_space(tmp_path):
    job = bench("--gigabytes", 1e9, "--dir", tmp_path)
    assert job.returncode == 2
    assert "are needed; name another directory, or lower --gigabytes" in job.stderr
    assert "Traceback" not in job.stderr
