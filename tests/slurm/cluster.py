"""The cluster shared by the tests of this directory, and its commands; every wait has a limit."""

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
# The ranks are idle most of the time, because several jobs share two cores. The tests are about signals and
# time limits.
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
    """A running cluster.

    Attributes:
        directory: Folder of the cluster, of its configurations and of the runs.
        environ: Environment variables of the cluster's users.
    """

    directory: Path
    environ: dict[str, str]
    jobs: list[str] = field(default_factory=list)

    def run(self, *command: str | Path, limit: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a user's command on the login node and return it with its output."""
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
        """Return the output of a command that must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, name: str, *arguments: str, config: str = "tiny.yaml") -> Run:
        """Submit a configuration with `hpcmarl submit`, into the run directory `name`."""
        directory = self.directory / "runs" / name
        done = self.run(
            sys.executable, "-m", "hpcmarl", "submit", config, "--time=5", "--run-dir", directory, *arguments
        )
        assert done.returncode == 0, done.stderr
        numbers = re.findall(r"^job (\d+)", done.stdout, re.MULTILINE)
        return Run(self, numbers[0], directory, numbers[1:])

    def by_hand(self, name: str, *options: str, changes: tuple[str, ...]) -> tuple[str, Path]:
        """Submit slurm/train.sbatch without changes; return the job and the run directory."""
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
        """Return a field of `scontrol show job`."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job)
        return next(word.removeprefix(f"{key}=") for word in text.split() if word.startswith(f"{key}="))

    def wait(self, job: str, *states: str, limit: float = 90.0, on_failure: Callable[[], str] = str) -> str:
        """Wait until the job is in one of these states, and return the state.

        The test fails if the job ends in another state or the limit passes.
        """
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
        """Output of all jobs of the run, in the order of time.

        Tasks of an array write their output beside their run directories.
        """
        files = [*self.directory.glob("*.out"), *self.directory.parent.glob(f"slurm-{self.job}.out")]
        return "\n".join(
            path.read_text(errors="replace") for path in sorted(files, key=lambda path: path.stat().st_mtime)
        )

    def rows(self) -> int:
        """Return the number of rows of metrics so far, which shows the progress of training."""
        path = self.directory / "metrics.csv"
        return len(path.read_text().splitlines()) - 1 if path.exists() else 0

    def hosts(self) -> dict[int, str]:
        """Return the host of each rank, from the logs."""
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
        """Wait until the job completes without failure; return the summary."""
        self.cluster.wait(self.job, "COMPLETED", limit=limit, on_failure=lambda: self.output)
        assert self.summary["status"] == "finished"
        return self.summary

    def stops(self) -> list[int]:
        """Return the update at which each start was stopped by a signal, in order."""
        found = re.findall(r"^interrupted after .*: ([\d,]+) updates", self.output, re.MULTILINE)
        return [int(updates.replace(",", "")) for updates in found]


def check_nothing_lost(run: Run, restarts: int | None = None) -> None:
    """Check a finished run that was stopped at least once.

    Every start began where the one before had ended, and the run continued.
    """
    stops, summary = run.stops(), run.summary
    assert stops, run.output
    assert stops == sorted(stops)
    assert summary["status"] == "finished"
    assert Path(summary["resumed_from"]).name == f"checkpoint-{stops[-1]:010d}.h5"
    assert summary["updates"] > stops[-1] > 0
    assert int(run.cluster.show(run.job, "Restarts")) == (len(stops) if restarts is None else restarts)


def missing_programs() -> str:
    """Return the reason why the tests cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return "needs root: only then do the nodes of tools/slurm-cluster have host names of their own"
    done = subprocess.run([TOOL, "check"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
