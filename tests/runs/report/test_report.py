"""hpcmarl report: what it says about runs, and what it does with bad ones."""

import json
import shutil

import numpy as np
import pytest

from hpcmarl.maths.round_times import rennala_bound
from hpcmarl.report.report import LIVE, follow_report, html, write_report
from hpcmarl.report.runs import find_runs, read_run, read_runs
from tests.support.reports import RANKS, data_of, make_run, plot_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three seeds of one configuration and two of another."""
    root = tmp_path_factory.mktemp("made")
    for seed in range(3):
        make_run(root / f"a{seed}", seed=seed, shift=float(seed))
    for seed in range(2):
        make_run(root / f"b{seed}", seed=seed, step_size=0.01, shift=10.0 + seed)
    return root


@pytest.fixture(scope="module")
def text(made):
    return html(read_runs(find_runs([made])), "made runs")


def test_seeds_are_grouped_and_differences_come_first(text):
    data = data_of(text)
    assert [group["runs"] for group in data["groups"]] == [[0, 1, 2], [3, 4]]
    assert [group["name"] for group in data["groups"]] == [
        "optimizer.step_size: 0.001",
        "optimizer.step_size: 0.01",
    ]
    assert text.index('<h2 id="differences-title">') < text.index('<h2 id="runs-title">')
    assert '<th scope="row">optimizer.step_size</th><td>0.001</td><td>0.01</td>' in text


def test_curves_hold_the_metrics_on_three_axes(text):
    spec = plot_of(text, "Return of training episodes")
    lines = {line["run"]: line["y"] for line in spec["lines"]}
    assert np.allclose(lines[1], 1.0 + np.linspace(0, 1, 50), atol=1e-5)
    axes = data_of(text)["runs"][1]["axes"]
    assert axes["steps"][:2] == [1000.0, 2000.0]
    assert axes["time"][-1] == 100.0
    assert axes["updates"] == list(np.arange(1.0, 51.0))
    band = next(band for band in spec["bands"] if band["group"] == 0)["axes"]["updates"]
    assert band["mean"][0] == pytest.approx(1.0)
    assert band["low"][0] == pytest.approx(0.0)
    assert band["high"][0] == pytest.approx(2.0)


def test_evaluations_are_points_and_not_steps(text):
    line = plot_of(text, "Return of evaluations")["lines"][0]
    assert line["y"] == [1.0, 2.0, 3.0, 4.0]
    assert line["x"]["updates"] == [11.0, 21.0, 31.0, 41.0]


def test_final_table_has_the_mean_over_seeds(text):
    last_tenth = np.linspace(0, 1, 50)[-5:].mean()
    assert f'<td class="number">{1 + last_tenth:.4g} [{last_tenth:.4g}, {2 + last_tenth:.4g}]</td>' in text


def test_ranks_over_time_show_who_works(text):
    spec = plot_of(text, "a0: ranks over time")
    assert spec["y"] == [f"{rank} {name}" for rank, name in enumerate(RANKS)]
    work = np.array(spec["z"])
    assert np.allclose(work[1], 0.95, atol=1e-3)
    assert np.allclose(work[2:], 0.3, atol=1e-3)
    assert spec["text"][2][0] == "waiting 60 %, stepping 30 %"
    stacks = {stack["name"]: stack["x"] for stack in plot_of(text, "Time by role")["stacks"]}
    assert stacks["learning"][1] == pytest.approx(0.95, abs=1e-3)
    assert stacks["rest"][2] == pytest.approx(0.1, abs=1e-3)


def test_rounds_stand_beside_the_bound_of_their_rule(text):
    spec = plot_of(text, "Duration of a round")
    assert spec["lines"][0]["y"][1:] == [2.0] * 49
    bound = rennala_bound([0.5] * 4 + [1.0] * 4, 8)
    assert spec["horizontal"][0]["y"] == pytest.approx(bound)
    assert plot_of(text, "Wasted trajectories")["lines"][0]["y"][0] == 0.25


def test_many_ranks_are_chosen_by_role(tmp_path):
    ranks = ("server (n)", *(f"learner (n{number})" for number in range(9)))
    ranks += tuple(f"actor (n{number})" for number in range(990))
    make_run(tmp_path / "wide", rows=5, ranks=ranks)
    spec = plot_of(html([read_run(tmp_path / "wide", "wide")], "wide"), "wide: ranks over time")
    assert len(spec["y"]) == 200
    assert {name.split()[1] for name in spec["y"]} == {"server", "learner", "actor"}
    assert len(spec["z"]) * len(spec["z"][0]) <= 6000


def test_runs_without_results_have_a_report(tmp_path, run):
    make_run(tmp_path / "one", rows=1)
    make_run(tmp_path / "none", rows=0, summary=False)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("name: begun\n")
    (tmp_path / "notes").mkdir()
    code, out, err = run("report", tmp_path, "--out", tmp_path / "all.html")
    assert code == 0, err
    assert "3 runs" in out
    assert "Traceback" not in err


def test_damaged_files_are_named_and_left_out(tmp_path, run):
    for name in ("good", "csv", "activity", "config", "summary", "start"):
        make_run(tmp_path / name, rows=20)
    (tmp_path / "csv" / "metrics.csv").write_bytes(b"version,x\n1,\xff\n" * 50)
    ranks = tmp_path / "activity" / "starts" / "start-0001-ranks.h5"
    ranks.write_bytes(ranks.read_bytes()[:500])
    (tmp_path / "config" / "config.yaml").write_text("{a: [")
    (tmp_path / "summary" / "summary.json").write_text("{")
    (tmp_path / "start" / "starts" / "start-0001.json").write_text("[]")
    code, _, err = run("report", tmp_path, "--out", tmp_path / "all.html")
    assert code == 0
    for file in ("csv/metrics.csv", "starts/start-0001-ranks.h5", "config/config.yaml"):
        assert file in err
    page = (tmp_path / "all.html").read_text()
    assert {each["label"] for each in data_of(page)["runs"]} == {
        "good",
        "csv",
        "activity",
        "config",
        "summary",
        "start",
    }
    assert "start-0001-ranks.h5: the file is truncated" in page


def test_report_refuses_what_it_cannot_use(tmp_path, run):
    make_run(tmp_path / "good", rows=3)
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([tmp_path / "absent"], "absent: no such directory"),
        ([tmp_path / "mine.html"], "mine.html: a file; name the directory of a run"),
        ([tmp_path / "empty"], "empty: not a run directory, and holds none"),
        ([tmp_path / "good", "--out", tmp_path / "mine.html"], "exists and is no report"),
        ([tmp_path / "good", "--out", tmp_path / "report.pdf"], "a name that ends with .html"),
        ([tmp_path / "good", "--out", tmp_path / "no" / "r.html"], "no does not exist; create it first"),
    ):
        code, _, err = run("report", *arguments)
        assert code in (1, 2), arguments
        assert words in err
        assert len(err.strip().splitlines()) == 1
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


def test_older_run_without_rank_times_has_a_report(tmp_path):
    """Runs of earlier versions have other keys, no rank times and no group figures."""
    make_run(tmp_path / "old", rows=20)
    for file in ("starts", "metrics-groups.npy", "metrics.h5"):
        path = tmp_path / "old" / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = tmp_path / "old" / "config.yaml"
    config.write_text(config.read_text() + "server: {former_key: 3}\n")
    page = html([read_run(tmp_path / "old", "old")], "old")
    assert len(plot_of(page, "Return of training episodes")["lines"][0]["y"]) == 20
    assert "former_key" in page
    assert "ranks over time" not in page


def test_following_ends_with_the_run(tmp_path):
    directory = make_run(tmp_path / "live", rows=5, summary=False)
    (directory / "run.lock").write_text('{"host": "n1", "process": 1}')
    target, seen = tmp_path / "live.html", []

    def sleep(seconds):
        assert seconds == 7.0
        assert '<meta http-equiv="refresh" content="7">' in target.read_text()
        (directory / "run.lock").unlink()
        (directory / "summary.json").write_text('{"status": "finished"}')

    written = follow_report([directory], target, None, 7.0, seen.append, sleep=sleep)
    assert [each.states for each in seen] == [["running"], ["finished"]]
    assert written.states[0] not in LIVE
    assert "refresh" not in target.read_text().partition("<title>")[0].replace("hpcmarl report", "")


def test_reports_replace_reports(tmp_path, made):
    target = tmp_path / "r.html"
    first = write_report([made / "a0"], target)
    second = write_report([made], target)
    assert (len(first.runs), len(second.runs)) == (1, 5)
    assert target.stat().st_size == second.file_bytes


def test_report_says_what_to_change(tmp_path):
    directory = make_run(tmp_path / "busy", rows=3)
    summary = json.loads((directory / "summary.json").read_text())
    summary |= {
        "time_shares": {"learners": {"learning": 0.9}, "actors": {"waiting": 0.4}},
        "used_trajectories": 70,
        "wasted_gradients": 30,
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    page = html([read_run(directory, "busy")], "busy")
    assert "30 % of the trajectories came too late for their round: set rounds.backpressure: true" in page
    assert "learners were busy 90 % of the time and actors waited 40 % for them" in page
    config = directory / "config.yaml"
    config.write_text(config.read_text().replace("{name: ma_trace}", "{name: 'os.path:join'}"))
    assert "learners were busy" not in html([read_run(directory, "busy")], "busy")  # no foreign code is run


def test_failed_run_is_shown_with_its_reason(tmp_path):
    directory = make_run(tmp_path / "bad", rows=3)
    failed = {"status": "failed", "error": "rank 2 failed: IndexError in my_env.py, line 40"}
    (directory / "summary.json").write_text(json.dumps(failed))
    assert "bad: failed: rank 2 failed: IndexError in my_env.py, line 40" in html(
        [read_run(directory, "bad")], "t"
    )
