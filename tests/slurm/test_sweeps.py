"""A sweep as a job array: every trial is a task, and the results are those of the files."""

import subprocess
import sys

import pytest

from hpcmarl.config.file import load_config
from tests.slurm.cluster import Run

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.mpi,
    pytest.mark.slow("jobs wait for Slurm: scheduling takes seconds"),
]
SWEEP = """
search: optuna
trials: 2
parallel: 2
parameters: {optimizer.step_size: {low: 0.001, high: 0.1, log: true}}
"""


def test_trials_of_a_sweep_are_tasks_of_an_array(cluster):
    (cluster.directory / "sweep.yaml").write_text(SWEEP)
    array = cluster.submit("swept", "--sweep=sweep.yaml", "--ntasks-per-node=2")
    for number in (1, 2):
        trial = Run(cluster, f"{array.job}_{number}", array.directory / f"trial-{number:04d}", [])
        assert trial.finish()["status"] == "finished"
        config = load_config(trial.directory / "config.yaml")
        assert config == load_config(array.directory / "trials" / f"{number:04d}.yaml")
        assert 0.001 <= config.optimizer.step_size <= 0.1
    configs = [load_config(array.directory / f"trial-000{number}" / "config.yaml") for number in (1, 2)]
    assert configs[0].optimizer.step_size != configs[1].optimizer.step_size
    again = subprocess.run(
        [
            sys.executable,
            "-m",
            "hpcmarl",
            "submit",
            "tiny.yaml",
            "--sweep=sweep.yaml",
            "--run-dir",
            array.directory,
        ],
        cwd=cluster.directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert "all 2 trials of the sweep have ended" in again.stderr
