"""The trace of whole runs on virtual ranks, as a timeline."""

import json

import pytest
from typer.testing import CliRunner

from hpcmarl.analysis.timeline import Selection, trace_directory, write_timeline
from hpcmarl.cli.main import app
from hpcmarl.cli.trace import parse_ranks
from hpcmarl.errors import FormatError, UsageError
from tests.support.timelines import check_arrows, check_nesting, events_of, names_of, titles_of
from tests.support.worlds import run_world

TRACE = "logging.trace=true"
WORKERS = ("topology.actors_per_learner=1", "topology.environments_per_actor=4")
FULL = ("trajectories.enabled=true", "eval.episodes=2", "checkpoint.every_updates=2")


def timeline(directory, selection=None):
    out = directory / "timeline.json"
    summary = write_timeline(trace_directory(directory, None), out, selection or Selection())
    return summary, events_of(out)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    directory = tmp_path_factory.mktemp("traced") / "run"
    run_world(4, directory, TRACE, *FULL)
    return directory


def test_timeline_has_the_work_of_every_role(traced):
    summary, events = timeline(traced)
    assert summary.ranks == {0, 1, 2, 3}
    assert [title.partition(" (")[0] for title in titles_of(events)] == [
        "rank 0: server+evaluator",
        "rank 1: learner",
        "rank 2: actor",
        "rank 3: actor",
    ]
    server = {"serve gradient", "optimizer step", "evaluation", "collect checkpoint", "write checkpoint"}
    assert server <= names_of(events, 0)
    assert {"gradient", "send WEIGHTS", "receive ROLLOUT"} <= names_of(events, 1)
    acting = {"inference", "environment step", "write trajectories", "send ROLLOUT", "receive WEIGHTS"}
    assert all(acting <= names_of(events, rank) for rank in (2, 3))
    check_nesting(events)
    assert check_arrows(events) == summary.arrows > 20


def test_selected_ranks_and_seconds_alone_are_shown(traced):
    whole, _ = timeline(traced)
    middle = (whole.first + whole.last) / 2
    summary, events = timeline(traced, Selection(0.0, middle, {0, 2}))
    assert summary.ranks == {event["pid"] for event in events} == {0, 2}
    assert 0 < summary.spans < whole.spans
    assert all(event["ts"] <= middle * 1e6 for event in events if event["ph"] == "X")
    assert all(event["pid"] in (0, 2) for event in events)


def test_workers_step_environments_in_the_timeline(tmp_path):
    run_world(3, tmp_path / "run", TRACE, *WORKERS, "topology.workers_per_actor=1")
    _, events = timeline(tmp_path / "run")
    assert "environment step" in names_of(events, 2)
    assert "environment step" not in names_of(events, 1)
    assert "inference" in names_of(events, 1)
    check_nesting(events)
    check_arrows(events)


def test_episodes_that_begin_are_shown(tmp_path):
    run_world(2, tmp_path / "run", TRACE, "algo.name=reinforce", "rounds.batch=4")
    assert "begin episodes" in names_of(timeline(tmp_path / "run")[1], 1)


def test_allreduce_steps_are_shown_on_learners(tmp_path):
    run_world(4, tmp_path / "run", TRACE, "topology.groups=2", "rounds.reduce=mpi")
    _, events = timeline(tmp_path / "run")
    assert sum("optimizer step" in names_of(events, rank) for rank in range(4)) == 2
    check_arrows(events)


def test_each_start_of_a_resumed_run_has_a_trace(tmp_path):
    run_world(2, tmp_path, TRACE, "stop.updates=2")
    run_world(2, tmp_path, TRACE, "stop.updates=4", resume=str(tmp_path))
    assert trace_directory(tmp_path, None).name == "start-0002"
    assert trace_directory(tmp_path, 1).name == "start-0001"
    with pytest.raises(UsageError, match="--start 7: no trace of this start"):
        trace_directory(tmp_path, 7)
    check_arrows(timeline(tmp_path)[1])


def test_replaced_actor_has_its_own_file_and_no_wrong_arrows(tmp_path):
    changes = (TRACE, "topology.respawn=true", "stop.updates=12")
    run_world(3, tmp_path / "run", *changes, deaths={2: 3})
    check_arrows(timeline(tmp_path / "run")[1], complete=False)


def test_trace_changes_no_parameter_and_is_off_by_default(tmp_path):
    from tests.support.worlds import final_parameters

    for name, changes in (("on", (TRACE,)), ("off", ())):
        run_world(2, tmp_path / name, "deterministic=true", *changes)
    assert (final_parameters(tmp_path / "on") == final_parameters(tmp_path / "off")).all()
    assert not (tmp_path / "off" / "trace").exists()


def test_run_without_trace_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(UsageError, match="no such run directory"):
        trace_directory(tmp_path / "none", None)
    with pytest.raises(UsageError, match=r"set logging\.trace=true"):
        trace_directory(tmp_path, None)


def test_damaged_files_are_named_and_the_rest_is_shown(traced, tmp_path):
    directory = tmp_path / "trace" / "start-0001"
    directory.mkdir(parents=True)
    for path in trace_directory(traced, None).iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    (directory / "rank-0001.0000.trace").write_bytes(b"no trace")
    half = directory / "rank-0002.0000.trace"
    half.write_bytes(half.read_bytes()[:-7])
    summary, events = timeline(tmp_path)
    assert summary.damaged == ["rank-0001.0000.trace"]
    assert summary.ignored_bytes > 0
    assert {0, 2, 3} == summary.ranks
    check_nesting(events)
    for path in directory.iterdir():
        path.write_bytes(b"no trace")
    with pytest.raises(FormatError, match="all 4 are damaged"):
        timeline(tmp_path)


class TestCommand:
    def test_command_prints_one_line_and_writes_gzip(self, traced, tmp_path):
        out = tmp_path / "timeline.json.gz"
        done = CliRunner().invoke(app, ["trace", str(traced), "--out", str(out), "--ranks", "0,2-3"])
        assert done.exit_code == 0, done.output
        assert "spans of 3 ranks" in done.output
        assert len(done.output.splitlines()) == 1
        assert titles_of(events_of(out))[-1].startswith("rank 3: actor")

    def test_command_prints_figures_as_json(self, traced):
        done = CliRunner().invoke(app, ["trace", str(traced), "--json"])
        figures = json.loads(done.output)
        assert (figures["ranks"], figures["damaged"]) == (4, [])
        assert figures["file"].endswith("trace/timeline.json.gz")

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["--out", "a.txt"], "--out a.txt: allowed: a name that ends with .json"),
            (["--from", "3", "--to", "2"], "--to 2: must be larger than --from"),
            (["--ranks", "1-"], "--ranks 1-: allowed: ranks and ranges"),
            (["--ranks", "77"], "--ranks: no trace of these ranks; allowed: 0 to 3"),
        ],
    )
    def test_wrong_options_give_one_line_with_the_remedy(self, traced, options, text):
        done = CliRunner().invoke(app, ["trace", str(traced), *options])
        assert text in str(done.exception)

    def test_ranges_of_ranks_are_parsed(self):
        assert parse_ranks("0,3-5, 9") == {0, 3, 4, 5, 9}
