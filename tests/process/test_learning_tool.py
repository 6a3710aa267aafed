"""tools/learning: tables, results and failures.

Its tables load. A tiny run of two seeds is kept and not repeated. A failure is reported.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hpcmarl.config.file import load_config

ROOT = Path(__file__).parents[2]
TINY = """
figures:
  updates: {title: updates, digits: 0}
  eval_return_mean: {title: evaluated return, digits: 2}
  policies: {path: "evaluation.returns.*", title: by policy, digits: 2, over: updates, scale: 10}
  good: {command: data verify RUN --json, title: good files, digits: 0, each: true}
  newest: {command: data verify RUN --json, path: files.0.status}
  others: {only: "smal*|b*", command: no such command}
  nowhere: {command: data verify RUN --json, path: files.-1.shards.*, title: nowhere}
experiments:
  tiny:
    config: configs/mpe/spread_qmix.yaml
    changes: [stop.updates=2, eval.episodes=3, rounds.batch=2, algo.replay.learning_starts=2,
              topology.environments_per_actor=2]
    ranks: 1
    minutes: 0.1
  broken: {config: configs/mpe/spread_qmix.yaml, changes: [algo.discount=7], ranks: 1, minutes: 0.1}
"""


def command_of(tmp_path, *arguments, program=f'"{sys.executable}" -m hpcmarl "$@"'):
    """Return the command and the environment of the tool.

    Args:
        program: Shell command that takes the place of hpcmarl. Default: hpcmarl in the Python of this test.
    """
    path = tmp_path / "hpcmarl"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}:$PYTHONPATH"\nexec {program}\n')
    path.chmod(0o755)
    return [sys.executable, str(ROOT / "tools" / "learning"), *map(str, arguments)], {
        **os.environ,
        "HPCMARL": str(path),
    }


def learning(tmp_path, *arguments):
    """Run the tool; return the completed process."""
    called, environment = command_of(tmp_path, *arguments)
    return subprocess.run(called, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.parametrize("table", ["learning", "league"])
def test_every_experiment_is_a_configuration_that_loads(tmp_path, table):
    path = ROOT / "tools" / f"{table}.yaml"
    listed = learning(tmp_path, "--list", "--table", path).stdout.splitlines()
    experiments = yaml.safe_load(path.read_text())["experiments"]
    assert len(listed) == len(experiments) > 0
    for line, (name, experiment) in zip(listed, experiments.items(), strict=True):
        assert line.split()[0] == name
        config = load_config(ROOT / experiment["config"], experiment.get("changes", []))
        assert f"runs/{table}/{name}-0" in line
        if table == "learning":
            assert config.stop.env_steps is not None, (
                f"{name} would not end after the same experience on every machine"
            )


def test_closed_output_pipe_causes_no_error(tmp_path):
    command, environment = command_of(tmp_path, "--list")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as listing:
        listing.stdout.close()  # as `| head` does
        assert listing.stderr.read() == b""


@pytest.mark.slow("trains two seeds, each in a process of its own")
def test_finished_runs_are_not_repeated_and_failures_reported(tmp_path):
    table, out = tmp_path / "table.yaml", tmp_path / "out"
    table.write_text(TINY)
    done = learning(tmp_path, "tiny", "--seeds", "3,5", "--table", table, "--out", out)
    assert done.returncode == 0, done.stderr
    written = (out / "table.csv").read_text()
    rows = list(csv.DictReader(written.splitlines()))
    assert list(rows[0]) == [
        "experiment",
        "seed",
        "updates",
        "eval_return_mean",
        "policies",
        "good",
        "newest",
        "others",
        "nowhere",
        "command",
    ]
    assert [(row["experiment"], row["seed"], row["updates"]) for row in rows] == [
        ("tiny", "3", "2"),
        ("tiny", "5", "2"),
    ]
    assert rows[0]["command"].startswith(
        "hpcmarl train configs/mpe/spread_qmix.yaml -n 1 --run-dir runs/table/tiny-3 stop.updates=2"
    )
    returns = [float(row["eval_return_mean"]) for row in rows]
    mean, error = sum(returns) / 2, abs(returns[0] - returns[1]) / 2
    each = sorted(row["good"] for row in rows)
    assert [row["newest"] for row in rows] == ["good", "good"]
    assert "| experiment | seeds | updates | evaluated return | by policy | good files |\n" in done.stdout
    assert (
        f"| tiny | 2 | 2 | {mean:.2f} ± {error:.2f} | {5 * mean:.2f} ± {5 * error:.2f} | {each[0]} "
        f"({each[0]}, {each[0]}) |"
    ) in done.stdout
    again = learning(tmp_path, "tiny", "broken", "--seeds", "3,5", "--table", table, "--out", out)
    assert again.returncode == 1
    assert "broken, seed 3 ended with exit code 2" in again.stderr
    assert "algo.discount" in (out / "broken-3.log").read_text()
    assert (out / "table.csv").read_text() == written
    assert learning(tmp_path, "--table", table, "--show", out / "table.csv").stdout == done.stdout
    wanted = ("tiny", "--marl-eval", tmp_path / "returns.json", "--table", table, "--out", out)
    assert learning(tmp_path, *wanted).stdout == f"{tmp_path}/returns.json: 2 runs\n"
    seeds = json.loads((tmp_path / "returns.json").read_text())["mpe2"]["simple_spread_v3"]["tiny"]
    final = [seeds[f"seed_{seed}"]["absolute_metrics"]["return"] for seed in (3, 5)]
    assert final == [[value] for value in returns]
    wanted_curves = ("tiny", "--curves", tmp_path / "curves.svg", "--table", table, "--out", out)
    assert learning(tmp_path, *wanted_curves).returncode == 0
    assert "tiny (2 seeds)" in "".join(re.findall("<!-- (.*?) -->", (tmp_path / "curves.svg").read_text()))
    shutil.rmtree(out / "tiny-5")
    missing = learning(tmp_path, *wanted_curves)
    assert missing.returncode == 2
    assert "tiny-5: holds neither" in missing.stderr
    refused = learning(tmp_path, *wanted)
    assert refused.returncode == 2
    assert "returns.json: exists" in refused.stderr


def test_unknown_experiment_exits_with_code_2(tmp_path):
    done = learning(tmp_path, "4m-qmix")
    assert done.returncode == 2
    assert "unknown experiment 4m-qmix; allowed: 3m-ma_trace" in done.stderr


def test_termination_stops_the_training_and_writes_no_row(tmp_path):
    table, out, told = tmp_path / "table.yaml", tmp_path / "out", tmp_path / "told"
    table.write_text(TINY)
    trap = f'trap "echo stopped >> {told}; exit 75" TERM'
    program = f"sh -c '{trap}; echo $$ > {told}; while true; do sleep 0.05; done'"
    called, environment = command_of(tmp_path, "tiny", "--table", table, "--out", out, program=program)
    with subprocess.Popen(called, env=environment) as running:
        until = time.monotonic() + 60
        while not (told.exists() and told.read_text().strip()) and time.monotonic() < until:
            time.sleep(0.05)
        running.terminate()
        assert running.wait(60) == 128 + signal.SIGTERM
    while told.read_text().split()[1:] != ["stopped"] and time.monotonic() < until:
        time.sleep(0.05)  # on a busy machine the shell's trap may follow a little later
    assert told.read_text().split()[1:] == ["stopped"]
    assert not (out / "table.csv").exists()
