"""`hpcmarl simulate` from the command line to its files.

The tests compare figures with closed forms, read results back, and cause mistakes.
"""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcmarl.analysis import simulation as analysis
from hpcmarl.config.file import load_simulation
from hpcmarl.errors import FormatError
from hpcmarl.io import partial_results as shelf
from hpcmarl.io.describe import GOOD, describe, verify_file
from hpcmarl.io.metrics import json_text
from hpcmarl.io.simulation import read_simulation
from hpcmarl.maths import round_times
from hpcmarl.sim import running
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.experiment import simulate as simulate_cases
from hpcmarl.sim.running import run_one

PAPER = Path(__file__).parents[3] / "configs" / "paper"
SMALL = """
objective: {name: quadratics, dimension: 2, optima: [1, -1], noise: 0.1}
sim:
  workers: 3
  stop: {gradients: 60}
  sweep:
    settings: {near: {sim.communication_times: 0}, far: {sim.communication_times: 3}}
    methods: {sync: {rounds.rule: sync}, rennala: {rounds.rule: rennala, rounds.batch: [3, 6]}}
    seeds: [0, 1]
    tune: {seeds: [5], grid: {optimizer.step_size: [0.001, 0.1]}}
"""


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def test_throughput_table_matches_the_published_rates(run, tmp_path):
    code, out, _ = run(
        "simulate", PAPER / "throughput.yaml", "--json", "--out", tmp_path / "out", "sim.stop.gradients=20000"
    )
    assert code == 0
    found = json.loads(out)["gradients_per_time"]
    expected = {
        "equal": [10, 10, 10, 10, 10],
        "sqrt": [1.58, 2.51, 2.45, 2.97, 3.53],
        "sqrt_dimension": [0.22, 0.35, 0.43, 0.62, 0.95],
    }
    for setting, row in expected.items():
        rates = [
            found[setting]["sync"],
            found[setting]["afedpg"],
            *(found[setting]["rennala"][batch] for batch in ("20", "30", "50")),
        ]
        np.testing.assert_allclose(rates, row, atol=0.005)


def test_throughput_overrides_match_closed_forms(run, tmp_path):
    """Values of n, M, h and kappa from the command line give the times of the closed forms."""
    compute, kappa = [0.5, 1.0, 3.0], [2.0, 0.25, 1.0]
    changes = (
        "sim.workers=3",
        "rounds.batch=7",
        f"sim.compute_times={compute}",
        f"sim.communication_times={kappa}",
        "sim.stop.gradients=21000",
    )
    code, out, _ = run("simulate", PAPER / "throughput.yaml", "--json", "--out", tmp_path / "out", *changes)
    assert code == 0
    for found in json.loads(out)["gradients_per_time"].values():
        assert found["sync"] == pytest.approx(round_times.sync_rate(compute, kappa, 7))
        assert found["afedpg"] == pytest.approx(round_times.afedpg_rate(compute, kappa, 7), rel=2e-3)
        assert found["rennala"] == {"7": pytest.approx(round_times.rennala_rate(compute, kappa, 7))}


def test_simulate_writes_config_results_summary_and_plots(run, small, tmp_path):
    code, out, err = run("simulate", small, "--out", tmp_path / "out")
    assert code == 0
    assert len(out.splitlines()) == 7
    assert "per second" in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.yaml", "simulation.h5", "summary.json", "throughput.png", "objective.png"}
    assert load_simulation(tmp_path / "out" / "config.yaml") == load_simulation(small)
    assert all(
        (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        for name in names
        if name.endswith("png")
    )
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    found, attributes = read_simulation(tmp_path / "out" / "simulation.h5")
    assert attributes["seeds"] == told["seeds"] == [0, 1]
    assert [(case["setting"], case["method"], case["batch"]) for case in found][:3] == [
        ("near", "sync", None),
        ("near", "rennala", 3),
        ("near", "rennala", 6),
    ]
    rates = [outcome["gradients_per_time"] for outcome in found[1]["outcomes"]]
    assert told["gradients_per_time"]["near"]["rennala"]["3"] == pytest.approx(np.mean(rates))
    assert told["tuned"]["far"]["sync"] == found[3]["tuned"]
    assert verify_file(tmp_path / "out" / "simulation.h5")["status"] == GOOD
    assert describe(tmp_path / "out" / "simulation.h5")["cases"][1] == {
        "setting": "near",
        "method": "rennala",
        "batch": 3,
        "seeds": 2,
    }


def test_results_use_all_seeds_and_tuned_values():
    config = load_simulation(SMALL)
    told = []
    results = simulate_cases(config, (), lambda done, words: told.append(done))
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1.0)
    assert len(results) == 6
    for result in results:
        scores = {values["optimizer.step_size"]: score for values, score in result.trials}
        assert result.tuned == {"optimizer.step_size": max(scores, key=scores.__getitem__)}
        assert [outcome.seed for outcome in result.outcomes] == [0, 1]
    first = results[0]
    chosen = first.case.config.model_copy(
        update={
            "optimizer": first.case.config.optimizer.model_copy(
                update={"step_size": first.tuned["optimizer.step_size"]}
            )
        }
    )
    again = run_one(chosen, 1)
    np.testing.assert_array_equal(again.course["objective"], first.outcomes[1].course["objective"])


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia", "afedpg"])
def test_round_times_stay_within_the_reported_bound(rule):
    text = f"rounds: {{rule: {rule}, batch: 9, initial_batch: 14}}\n"
    text += "sim: {workers: 7, compute_times: sqrt, communication_times: sqrt, stop: {rounds: 9}}\n"
    figures = run_one(load_simulation(text), 0).figures
    assert np.isfinite(figures["round_time_bound"]) == (rule in ("rennala", "malenia"))
    assert not figures["round_time_max"] > figures["round_time_bound"]
    for change in (
        "sim.compute_times={noise: exponential}",
        "sim.failures=[{at: 1, workers: [0]}]",
        "rounds.late=ignore",
    ):
        assert np.isnan(run_one(load_simulation(text, [change]), 0).figures["round_time_bound"])


def test_diverging_simulation_is_reported_and_not_chosen():
    text = "objective: {name: quadratics, start: 5}\noptimizer: {name: sgd}\nsim:\n  stop: {rounds: 3000}\n"
    text += "  sweep: {tune: {seeds: [3], grid: {optimizer.step_size: [100.0, 0.01]}}}\n"
    (result,) = simulate_cases(load_simulation(text))
    assert result.tuned == {"optimizer.step_size": 0.01}
    assert np.isnan(result.trials[0][1])
    outcome = run_one(load_simulation(text, ["optimizer.step_size=100"]), 0)
    assert outcome.figures["ended"].startswith("diverged")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rounds={rule: afedpg, reduce: mpi}"], "rounds.reduce: mpi"),
        (
            ["sim.sweep.methods={m: {rounds.rule: malenia, rounds.batch: 2}}"],
            "rounds.batch: 2 is less than the 3 workers",
        ),
        (["optimizer.momentum=1.5"], "optimizer.momentum"),
        (["sim.communication_times=-2"], "sim.communication_times is -2"),
    ],
)
def test_simulate_errors_exit_with_code_2_and_write_nothing(run, small, tmp_path, arguments, words):
    code, out, err = run("simulate", small, *arguments, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_jobs_change_no_result(small, run, tmp_path):
    assert run("simulate", small, "sim.sweep.tune=", "--out", tmp_path / "one")[0] == 0
    assert run("simulate", small, "sim.sweep.tune=", "--out", tmp_path / "two", "--jobs", "2")[0] == 0
    (one, _), (two, _) = (read_simulation(tmp_path / name / "simulation.h5") for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        for left, right in zip(first["outcomes"], second["outcomes"], strict=True):
            assert {
                name: str(value) for name, value in left.items() if name not in ("seconds", "course")
            } == {name: str(value) for name, value in right.items() if name not in ("seconds", "course")}
            for name, column in left["course"].items():
                np.testing.assert_array_equal(column, right["course"][name])


def test_interrupted_simulation_resumes_where_it_stopped(run, small, tmp_path, monkeypatch):
    monkeypatch.setattr(shelf, "WORTH", 0.0)
    done, limit = [], 5

    def one(config, seed, progress, kind=Cluster):
        if len(done) == limit:
            raise KeyboardInterrupt
        done.append(seed)
        return run_one(config, seed)

    monkeypatch.setattr(running, "run_one", one)
    out = tmp_path / "out"
    assert run("simulate", small, "--out", out)[0] == 130
    assert len(list((out / "parts").iterdir())) == limit
    assert run("simulate", small, "--out", out)[0] == 2
    assert run("simulate", small, "--out", out, "--resume", "seed=3")[0] == 2
    first, limit = len(done), 10_000
    assert run("simulate", small, "--out", out, "--resume")[0] == 0
    # trials and results, each run once
    assert len(done) == 6 * 2 + 6 * 2
    assert first == 5
    assert not (out / "parts").exists()
    assert run("simulate", small, "--out", tmp_path / "whole")[0] == 0
    told, whole = (
        json.loads((directory / "summary.json").read_text()) for directory in (out, tmp_path / "whole")
    )
    for key in ("tuned", "objective", "gradients_per_time", "ended"):
        assert told[key] == whole[key]


def test_resuming_needs_something_to_resume(run, small, tmp_path):
    assert "--resume needs --out" in run("simulate", small, "--resume")[2]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    code, _, err = run("simulate", small, "--resume", "--out", tmp_path / "other")
    assert code == 2
    assert "holds no unfinished simulation" in err


def test_summary_reports_the_times_to_each_threshold(run, small, tmp_path):
    code, out, _ = run(
        "simulate", small, "--json", "--out", tmp_path / "out", "sim.sweep.tune=", "sim.thresholds=[-1.2, 1]"
    )
    assert code == 0
    told = json.loads(out)
    (found, _) = read_simulation(tmp_path / "out" / "simulation.h5")
    for case in found:
        times = [outcome["threshold_times"][0] for outcome in case["outcomes"]]
        own = told["times_to_thresholds"][case["setting"]][case["method"]]
        own, never = own if case["batch"] is None else own[str(case["batch"])]
        reached = [time for time in times if time is not None]
        assert (own["threshold"], never["threshold"]) == (-1.2, 1)
        assert never == {"threshold": 1, "median": None, "min": None, "max": None, "reached": 0, "seeds": 2}
        assert (own["reached"], own["seeds"]) == (len(reached), 2)
        assert own["median"] == (pytest.approx(np.median(times)) if len(reached) == 2 else None)
        assert own["min"] == (min(reached) if reached else None)


def test_condensed_simulation_preserves_config_and_outcomes(run, small, tmp_path):
    run("simulate", small, "--out", tmp_path / "out", "sim.thresholds=[-1.2]")
    stored = json.loads(json_text(analysis.condensed(tmp_path / "out" / "simulation.h5")))
    cases, _ = read_simulation(tmp_path / "out" / "simulation.h5")
    assert [case["method"] for case in stored["cases"]] == [case["method"] for case in cases]
    assert load_simulation(stored["config"]).sim.thresholds == (-1.2,)
    for kept, case in zip(stored["cases"], cases, strict=True):
        assert kept["tuned"] == case["tuned"]
        assert [own["objective"] for own in kept["outcomes"]] == [
            outcome["objective"] for outcome in case["outcomes"]
        ]
        course = {name: np.array(column) for name, column in kept["course"].items()}
        assert len(course["time"]) == 50
        assert (course["percentile_20"] <= course["median"] + 1e-9).all()
        assert (course["median"] <= course["percentile_80"] + 1e-9).all()


def test_curves_begin_with_the_first_value_that_is_known():
    course = {"time": np.array([0.0, 1.0, 3.0]), "objective": np.array([np.nan, 2.0, 4.0])}
    times, values = analysis.course_of({"outcomes": [{"course": course}]}, "objective")
    np.testing.assert_allclose(values[0], np.interp(times, [1, 3], [2, 4]))
    assert values[0, 0] == 2.0


def test_non_empty_output_directory_is_rejected(run, small, tmp_path):
    code, _, err = run("simulate", small, "--out", tmp_path)
    assert code == 2
    assert "is not empty" in err


def test_commands_distinguish_runs_and_simulations(run, small):
    assert run("train", small)[0] == 2
    assert "hpcmarl simulate" in run("train", small)[2]
    assert run("config", "check", small)[1].endswith("a simulation of 6 cases, objective quadratics\n")
    assert load_simulation(run("config", "show", small, "seed=4")[1]).seed == 4
    assert "sim.workers" in run("config", "schema", "--simulation")[1]


def test_missing_matplotlib_hint_names_the_extra(run, small, tmp_path, monkeypatch):
    monkeypatch.setattr(analysis, "plots_possible", lambda: False)
    code, out, err = run("simulate", small, "--json", "--out", tmp_path / "out", "sim.sweep.tune=")
    assert code == 0
    assert json.loads(out)["directory"] == str(tmp_path / "out")
    assert "pip install 'hpcmarl[analysis]'" in err
    assert not list((tmp_path / "out").glob("*.png"))


def test_damaged_simulation_file_is_rejected(run, small, tmp_path):
    run("simulate", small, "--out", tmp_path / "out", "sim.sweep.tune=")
    path = tmp_path / "out" / "simulation.h5"
    with h5py.File(path, "r+") as file:
        del file["cases/2"].attrs["method"]
    with pytest.raises(FormatError, match="case 2 has invalid fields"):
        read_simulation(path)
    with h5py.File(path, "r+") as file:
        del file["cases"]
    with pytest.raises(FormatError, match="damaged"):
        read_simulation(path)
