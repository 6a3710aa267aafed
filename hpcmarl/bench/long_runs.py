"""Write run directories of long runs, and measure `hpcmarl report` on them.

A run of a million steps writes a row of metrics every few seconds. The figures are drawn; the files are
written as a training writes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import HpcmarlError
from hpcmarl.io.activity import ACTIVITIES, ActivityFile, activity_path
from hpcmarl.io.metrics import write_summary
from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.io.starts import Start, write_start

CONFIG = """name: long
seed: {seed}
env: {{id: mpe2.simple_spread_v3}}
algo: {{name: ma_trace}}
optimizer: {{name: adam, step_size: 0.001}}
rounds: {{rule: rennala, batch: 8}}
stop: {{env_steps: 1000000}}
"""
RANKS = ("server+evaluator (n1)", "learner (n1)", "actor (n1)", "actor (n2)")
TOTALS = (
    "actors/acting_seconds",
    "actors/environment_seconds",
    "actors/waiting_seconds",
    "actors/dropped_steps",
    "actors/trajectory_bytes",
    "actors/trajectory_steps",
)
MEANS = (
    "learner/policy_loss",
    "learner/value_loss",
    "learner/entropy",
    "learner/mean_rho",
    "learner/mean_c",
    "learner/value",
    "learner/explained_variance",
    "learner/gradient_norm",
    "learner/gradient_seconds",
    "server/gradient_seconds",
    "direction_norm",
    "staleness_mean",
    "return_std",
)
STEPS = 50.0  # environment steps of a row
WAITING_ROWS = 200  # rows that may wait for the writer's thread, which thins them beyond 1,000
# Runs the command in a process of its own and prints the peak of its resident memory afterwards.
PROGRAM = """
import runpy, sys
try:
    runpy.run_module("hpcmarl", run_name="__main__", alter_sys=True)
except SystemExit as end:
    if end.code:
        raise
with open("/proc/self/status") as stream:
    print(next(line.split()[1] for line in stream if line.startswith("VmHWM:")))
"""


def write_run(directory: Path, seed: int, rows: int) -> None:
    """Write the directory of a finished run.

    Args:
        directory: A directory that does not exist.
        seed: Seed of the run and of its figures.
        rows: Rows of metrics.

    Raises:
        StorageError: If the disk fails.
    """
    (directory / "starts").mkdir(parents=True)
    (directory / "config.yaml").write_text(CONFIG.format(seed=seed), encoding="utf-8")
    facts = {"created": "2026-01-02T03:04:05+00:00", "host": "n1", "ranks": len(RANKS)}
    write_start(directory, Start(1, facts=facts, run=f"long-{seed}"))
    noise = np.random.default_rng(seed).normal(size=(rows, len(MEANS) + 1))
    writer = MetricsWriter(directory, activity=ActivityFile(activity_path(directory, 1), RANKS, {}))
    for row in range(rows):
        done = row + 1.0
        figures = {
            "version": done,
            "seconds": done / 10,
            "env_steps": STEPS * done,
            "agent_steps": 3 * STEPS * done,
            "episodes": 2 * done,
            "return_mean": -30.0 + 20.0 * row / rows + float(noise[row, -1]),
            "env_steps_per_second": 10 * STEPS,
            "used_trajectories": 8 * done,
            "wasted_gradients": done // 10,
            "lost_ranks": 0.0,
            **dict(zip(MEANS, noise[row].tolist(), strict=False)),
            **{name: place * done for place, name in enumerate(TOTALS)},
            "eval_version": float(row // 100 * 100),
            "eval_return_mean": -30.0 + 20.0 * (row // 100 * 100) / rows,
        }
        writer.append(figures, {"trajectories": np.array([8 * done]), "slots": np.array([4.0])})
        spent = np.zeros((len(RANKS), len(ACTIVITIES)))
        spent[1, ACTIVITIES.index("learning")] = done / 12
        spent[2:, ACTIVITIES.index("stepping")] = done / 20
        writer.note_activity(done / 10, spent)
        if row % WAITING_ROWS == 0:
            writer.wait()
    writer.close()
    write_summary(directory, {"status": "finished", "ranks": len(RANKS), "lost_ranks": [], "updates": rows})


def measure_report(root: Path, runs: int, rows: int) -> dict[str, Any]:
    """Write run directories and measure `hpcmarl report` in a process of its own.

    Args:
        root: A directory for the runs and the report.
        runs: Number of runs.
        rows: Rows of metrics of each run.

    Returns:
        Seconds of the whole process, and the peak of its resident memory in megabytes (1e6 bytes).

    Raises:
        HpcmarlError: If the command fails.
        StorageError: If the disk fails.
    """
    directories = [root / f"seed-{seed}" for seed in range(runs)]
    for seed, directory in enumerate(directories):
        write_run(directory, seed, rows)
    page = root / "report.html"
    began = time.perf_counter()
    job = subprocess.run(
        [sys.executable, "-c", PROGRAM, "report", *map(str, directories), "--out", str(page), "--json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - began
    if job.returncode:
        raise HpcmarlError(f"hpcmarl report failed: {job.stderr.strip().rpartition(chr(10))[2]}")
    written, _, peak = job.stdout.strip().rpartition("\n")
    problems = json.loads(written)["problems"]
    if problems:
        raise HpcmarlError(f"hpcmarl report found a problem: {problems[0]}")
    return {
        "report_runs": runs,
        "report_rows_per_run": rows,
        "report_seconds": seconds,
        "report_peak_megabytes": int(peak) * 1024 / 1e6,
        "report_file_megabytes": page.stat().st_size / 1e6,
    }
