"""The cluster that the tests of this directory share, and what they ask of it; every wait has a limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "slurm-cluster"
# Idle most of the time: the tests are about signals and time limits, and several jobs share two cores.
CONFIG = """
name: tiny
env: {id: mpe2.simple_spread_v3, kwargs: {max_cycles: 5}}
algo: {name: ma_trace, unroll: 6, network: {hidden: [8]}}
topology: {environments_per_actor: 1, groups: [{delay: {step: 0.02}}]}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 5}
logging: {progress: false, level: debug, every_seconds: 0.01}
checkpoint: {every_seconds: null}
"""


@dataclass
class Cluster:
    """A running cluster: `environ` is what its users have."""

    directory: Path
    environ: dict[str, str]
    jobs: list[str] = field(default_factory=list)

    def run(self, *command: str | Path, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
        """A command of a user on the login node, with its output."""
        return subprocess.run(
            [str(word) for word in command],
            env=self.environ,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )

    def ask(self, *command: str | Path) -> str:
        """The output of a command that must work."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, name: str, *arguments: str, config: str = "tiny.yaml") -> Run:
        """`hpcmarl submit` of a configuration into the run directory `name`."""
        directory = self.directory / "runs" / name
        done = self.run(
            sys.executable, "-m", "hpcmarl", "submit", config, "--time=5", "--run-dir", directory, *arguments
        )
        assert done.returncode == 0, done.stderr
        numbers = re.findall(r"^job (\d+)", done.stdout, re.MULTILINE)
        return Run(self, numbers[0], directory, numbers[1:])

    def by_hand(self, name: str, *options: str, changes: tuple[str, ...]) -> tuple[str, Path]:
        """slurm/train.sbatch as it stands; returns the job and the run directory."""
        directory = self.directory / "runs" / name
        directory.mkdir(parents=True)
        script = ROOT / "slurm" / "train.sbatch"
        environ = f"--export=ALL,RUN_DIR={directory}"
        return self.sbatch(
            *options, environ, f"--output={directory}/slurm-%j.out", script, "tiny.yaml", *changes
        ), directory

    def sbatch(self, *arguments: str | Path) -> str:
        return self.ask("sbatch", "--parsable", *arguments)

    def show(self, job: str, key: str) -> str:
        """A field of `scontrol show job`."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job)
        return next(word.removeprefix(f"{key}=") for word in text.split() if word.startswith(f"{key}="))

    def wait(self, job: str, *states: str, limit: float = 90.0, on_failure: Callable[[], str] = str) -> str:
        """Until the job is in one of these states; a job that ends otherwise, or the limit, fails the
        test."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
        self.until(
            lambda: self.show(job, "JobState") in {*states, *ended},
            limit,
            lambda: f"job {job}, {' or '.join(states)}\n{on_failure()}",
        )
        state = self.show(job, "JobState")
        assert state in states, f"job {job} is {state}, not {' or '.join(states)}\n{on_failure()}"
        return state

    @staticmethod
    def until(condition: Callable[[], Any], limit: float, what: Callable[[], str]) -> None:
        end = time.monotonic() + limit
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"waited {limit} s in vain: {what()}")
            time.sleep(0.2)


@dataclass
class Run:
    """A submitted training run."""

    cluster: Cluster
    job: str
    directory: Path
    later: list[str]

    @property
    def summary(self) -> dict[str, Any]:
        path = self.directory / "summary.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @property
    def state(self) -> str:
        return self.cluster.show(self.job, "JobState")

    @property
    def output(self) -> str:
        """What all its jobs have printed, in the order of time; the tasks of an array print beside their run
        directories."""
        files = [*self.directory.glob("*.out"), *self.directory.parent.glob(f"slurm-{self.job}.out")]
        return "\n".join(
            path.read_text(errors="replace") for path in sorted(files, key=lambda path: path.stat().st_mtime)
        )

    def rows(self) -> int:
        """Rows of metrics so far: how far the training is."""
        path = self.directory / "metrics.csv"
        return len(path.read_text().splitlines()) - 1 if path.exists() else 0

    def hosts(self) -> dict[int, str]:
        """Where each rank was, by its log."""
        logs = "".join(path.read_text() for path in (self.directory / "logs").iterdir())
        return {
            int(rank): host
            for rank, host in re.findall(r": rank (\d+) of \d+ is \S+ on (\S+)$", logs, re.MULTILINE)
        }

    def wait_for_training(self, rows: int = 2) -> None:
        start = self.rows()
        self.cluster.until(
            lambda: self.rows() >= start + rows, 60, lambda: f"training in {self.directory}\n{self.output}"
        )

    def finish(self, limit: float = 120.0) -> dict[str, Any]:
        """Wait for the job's good end; returns its summary."""
        self.cluster.wait(self.job, "COMPLETED", limit=limit, on_failure=lambda: self.output)
        assert self.summary["status"] == "finished"
        return self.summary

    def stops(self) -> list[int]:
        """The update at which each start was stopped by a signal, in order."""
        found = re.findall(r"^interrupted after .*: ([\d,]+) updates", self.output, re.MULTILINE)
        return [int(updates.replace(",", "")) for updates in found]


def check_nothing_lost(run: Run, restarts: int | None = None) -> None:
    """A finished run that was stopped at least once: every start began where the one before had ended, and
    the run went on."""
    stops, summary = run.stops(), run.summary
    assert stops, run.output
    assert stops == sorted(stops)
    assert summary["status"] == "finished"
    assert Path(summary["resumed_from"]).name == f"checkpoint-{stops[-1]:010d}.h5"
    assert summary["updates"] > stops[-1] > 0
    assert int(run.cluster.show(run.job, "Restarts")) == (len(stops) if restarts is None else restarts)


def missing_programs() -> str:
    """Why the tests cannot run here; empty where they can."""
    if os.geteuid() != 0:
        return "needs root: only then do the nodes of tools/slurm-cluster have host names of their own"
    done = subprocess.run([TOOL, "check"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
