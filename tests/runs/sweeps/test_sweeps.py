"""Sweeps on this machine: trials, pruning, Optuna, continuation, table and report."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.callbacks import Moment, StopTraining
from hpcmarl.config.file import load_config, load_sweep
from hpcmarl.config.run import CallbackConfig
from hpcmarl.errors import ConfigError, UsageError
from hpcmarl.launch.slurm import Component, Job, render
from hpcmarl.report.report import html
from hpcmarl.report.runs import find_runs, read_runs
from hpcmarl.sweeps.directory import SweepDirectory, best_of, outcomes, prepare, read_trial, unended
from hpcmarl.sweeps.optuna_search import ask, open_study, tell
from hpcmarl.sweeps.pruning import MedianPruner
from tests.support.reports import make_run, plot_of

BASE = """
name: small
env: {id: matrix:stag_hunt}
algo: {name: ma_trace, network: {hidden: [8]}}
rounds: {batch: 4}
topology: {environments_per_actor: 4}
eval: {episodes: 2}
logging: {every_seconds: 0.001, progress: false}
stop: {updates: 4}
"""
GRID = "parameters: {optimizer.step_size: [0.001, 0.01]}\nparallel: 2\n"
OPTUNA = """
search: optuna
trials: 12
metric: return_mean
parameters:
  optimizer.step_size: {low: 0.0001, high: 0.1, log: true}
  algo.network.hidden: [[8], [16, 16]]
"""
PRUNED = (
    GRID.replace("[0.001, 0.01]", "[0.001, 0.002, 0.003, 0.004]") + "prune: {least_trials: 3, after: 0.5}\n"
)


@pytest.fixture
def files(tmp_path):
    """Return a function that writes sweep.yaml beside base.yaml and returns the sweep's directory."""
    (tmp_path / "base.yaml").write_text(BASE)

    def make(text):
        (tmp_path / "sweep.yaml").write_text(text)
        sweep, base = load_sweep(tmp_path / "sweep.yaml"), load_config(tmp_path / "base.yaml")
        directory = SweepDirectory(tmp_path / "sweep")
        prepare(directory, sweep, base)
        return directory, sweep, base

    return make


def rows_of(directory):
    with open(directory / "sweep.csv") as stream:
        return list(csv.DictReader(stream))


def test_grid_trains_here_and_is_continued(tmp_path, run):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(GRID)
    arguments = (
        "train",
        tmp_path / "base.yaml",
        "--sweep",
        tmp_path / "sweep.yaml",
        "--run-dir",
        tmp_path / "s",
    )
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "best: trial" in out
    rows = rows_of(tmp_path / "s")
    assert [row["state"] for row in rows] == ["finished", "finished"]
    assert [float(row["optimizer.step_size"]) for row in rows] == [0.001, 0.01]
    assert all(row["updates"] == "4" and float(row["eval_return_mean"]) >= 0 for row in rows)
    configs = [load_config(tmp_path / "s" / f"trial-000{number}" / "config.yaml") for number in (1, 2)]
    assert [config.optimizer.step_size for config in configs] == [0.001, 0.01]
    before = (tmp_path / "s" / "trial-0001" / "summary.json").stat().st_mtime_ns
    code, out, _ = run(*arguments)
    assert (code, "2 trials, 2 of them done" in out) == (0, True)
    assert (tmp_path / "s" / "trial-0001" / "summary.json").stat().st_mtime_ns == before
    (tmp_path / "sweep.yaml").write_text(GRID + "seeds: 2\n")
    code, _, err = run(*arguments)
    assert (code, "is that of another sweep" in err) == (2, True)
    page = html(read_runs(find_runs([tmp_path / "s"])), "sweep")
    spec = plot_of(page, "s: optimizer.step_size")
    assert spec["x"] == [0.001, 0.01]
    assert spec["runs"] == [0, 1]


def test_failing_trial_is_named_and_the_others_go_on(tmp_path, run):
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text("parameters: {faults.raise_in: [server, null]}\n")
    code, out, _ = run(
        "train", tmp_path / "base.yaml", "--sweep", tmp_path / "sweep.yaml", "--run-dir", tmp_path / "s"
    )
    assert code == 1
    assert "trial 1 (faults.raise_in server): failed with exit code" in out
    assert "trial 2 (faults.raise_in null): finished" in out


def test_bad_values_are_refused_before_anything_trains(files, tmp_path):
    with pytest.raises(ConfigError, match=r"sweep, trial 2 \(optimizer.step_size=-1\): .*step_size"):
        files("parameters: {optimizer.step_size: [0.1, -1]}\n")
    with pytest.raises(ConfigError, match=r"optimizer\.step_sise"):
        files("parameters: {optimizer.step_sise: [0.1]}\n")
    with pytest.raises(ConfigError, match=r"step_size"):
        files(OPTUNA.replace("low: 0.0001, high: 0.1, log: true", "low: -1.0, high: 0.1"))
    assert not (tmp_path / "sweep").exists()


def test_directory_of_something_else_is_refused(files, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty and no sweep"):
        files(GRID)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resume", "auto"], "the same command with --run-dir continues a sweep"),
        ([], "no such file"),
    ],
)
def test_wrong_usage_of_a_sweep(tmp_path, run, arguments, words):
    (tmp_path / "base.yaml").write_text(BASE)
    code, _, err = run("train", tmp_path / "base.yaml", "--sweep", tmp_path / "absent.yaml", *arguments)
    assert code == 2
    assert words in err.lower()


def moment(directory, version, value):
    return Moment(version, 10 * version, 1.0, value, directory, row={"return_mean": value})


def progress(directory, number, updates, value):
    """Play a trial of four updates with a return; return the update at which it was cut short."""
    pruner = MedianPruner(CallbackConfig(name="x"))
    for version in range(1, updates + 1):
        try:
            pruner.on_update(moment(directory.run_of(number), version, value))
        except StopTraining as stop:
            return version, str(stop)
    return None


def test_trials_below_the_median_are_cut_short(files):
    directory, _, _ = files(PRUNED)
    assert load_config(directory.config_of(1)).callbacks[0].name.endswith(":MedianPruner")
    assert progress(directory, 1, 3, 1.0) is None
    assert progress(directory, 2, 3, 2.0) is None
    assert progress(directory, 3, 3, 0.5) is None  # two others are not enough
    version, reason = progress(directory, 4, 3, 0.9)
    assert version == 2  # half of the run
    assert "return_mean 0.9 at 5/10 of the run, and the median of 3 other trials is 1" in reason
    assert json.loads(directory.progress_of(4).read_text()) == {
        "values": {"2": 0.9, "5": 0.9},
        "pruned": True,
    }


def test_trial_cut_short_ends_well_in_a_real_run(files, monkeypatch):
    from hpcmarl.training import train

    directory, sweep, _ = files(PRUNED)
    for number in (1, 2, 3):
        progress(directory, number, 3, 1000.0)
    config = load_config(directory.config_of(4), ["stop.updates=40"])
    directory.config_of(4).write_text(
        directory.config_of(4).read_text().replace("updates: 4\n", "updates: 40\n")
    )
    for number in (1, 2, 3):
        values = {str(check): 1000.0 for check in range(1, 10)}
        directory.progress_of(number).write_text(json.dumps({"values": values}))
    assert train(config, str(directory.run_of(4)), None) == 0
    found = list(outcomes(directory, sweep))[3]
    assert found.state == "pruned"
    assert 20 <= found.updates < 40
    assert 4 not in unended(directory, sweep)


def test_pruner_outside_a_sweep_does_nothing(tmp_path):
    pruner = MedianPruner(CallbackConfig(name="x"))
    pruner.on_update(moment(tmp_path / "runs" / "trial-0001", 1, 0.0))
    assert list(tmp_path.iterdir()) == []


def finish(directory, number, value):
    """Write a finished run of a trial whose last training return is `value`."""
    make_run(directory.run_of(number), rows=3, shift=value - 1.0)


def test_optuna_learns_from_the_files_of_trials(files):
    directory, sweep, base = files(OPTUNA)
    for number in range(1, 13):
        trial = ask(directory, sweep, base, number)
        assert ask(directory, sweep, base, number) == trial == read_trial(directory, number)
        assert 1e-4 <= trial.values["optimizer.step_size"] <= 0.1
        assert trial.values["algo.network.hidden"] in ([8], [16, 16])
        config = load_config(directory.config_of(number))
        assert config.optimizer.step_size == trial.values["optimizer.step_size"]
        finish(directory, number, -abs(np.log10(trial.values["optimizer.step_size"]) + 2.0))
    study = open_study(directory, sweep, 13)
    tell(study, directory, sweep)
    assert len(study.trials) == 12
    best = best_of(sweep, list(outcomes(directory, sweep)))
    assert study.best_trial.user_attrs["trial"] == best.trial.number
    assert study.best_value == pytest.approx(best.value)


def test_optuna_reuses_the_values_of_a_killed_start(files):
    directory, sweep, base = files(OPTUNA)
    trial = ask(directory, sweep, base, 1)
    directory.record_of(1).unlink()  # killed before the record was written
    assert ask(directory, sweep, base, 1) == trial
    assert len(open_study(directory, sweep, 2).trials) == 1


def test_optuna_is_told_of_failed_and_pruned_trials(files):
    directory, sweep, base = files(OPTUNA)
    for number in (1, 2):
        ask(directory, sweep, base, number)
    for number in (1, 2):
        finish(directory, number, 1.0)
    summary = directory.run_of(1) / "summary.json"
    summary.write_text(json.dumps({"status": "failed"}))
    directory.progress_of(2).write_text(json.dumps({"values": {"3": 0.5}, "pruned": True}))
    study = open_study(directory, sweep, 3)
    tell(study, directory, sweep)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "PRUNED"]
    assert study.trials[1].intermediate_values == {3: 0.5}


def test_sweep_trial_command_writes_one_configuration(files, run):
    directory, _, _ = files(OPTUNA)
    assert run("sweep-trial", directory.path, 2)[0] == 0
    assert read_trial(directory, 2).number == 2
    code, _, err = run("sweep-trial", directory.path, 13)
    assert (code, "allowed: 1 to 12" in err) == (2, True)
    code, _, err = run("sweep-trial", directory.trials, 1)
    assert (code, "not the directory of a sweep" in err) == (2, True)


def test_batch_script_of_a_sweep_trains_one_trial_each(run, login_node):
    (login_node / "sweep.yaml").write_text(
        "parameters: {optimizer.step_size: [0.1, 0.2, 0.3]}\nparallel: 2\n"
    )
    code, out, err = run("submit", "tiny.yaml", "--sweep", "sweep.yaml", "--run-dir", "s w", "--dry-run")
    assert code == 0, err
    assert "#SBATCH --array=1-3%2" in out
    assert "run_dir=$run_dir/trial-$trial" in out
    assert 'hpcmarl sweep-trial "$sweep" "$SLURM_ARRAY_TASK_ID"' in out
    assert f"run_dir='{login_node / 's w'}'" in out
    for other, words in (
        ("--seeds=2", "set seeds in the file"),
        ("--hetjob=1x2", "no arrays of heterogeneous"),
    ):
        code, _, err = run("submit", "tiny.yaml", "--sweep", "sweep.yaml", other, "--dry-run")
        assert (code, words in err) == (2, True)
    script = render(Job("sweep", components=(Component(1, 2),), trials="3,5-6%1", config="c", run_dir="/r"))
    assert "--array=3,5-6%1" in script
    assert Path("s w").exists() is False
