"""`hpcmarl data inspect` with several runs: a table with a row for each."""

import json

import pytest
from typer.testing import CliRunner

from hpcmarl.cli.data import data_app
from tests.support.reports import make_run


def inspect(*arguments):
    """Return the lines on standard output, and those on standard error."""
    result = CliRunner().invoke(data_app, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout.splitlines(), result.stderr.splitlines()


@pytest.fixture
def runs(tmp_path):
    """Return a directory with a finished run, one that is running or was killed, and one that is damaged."""
    make_run(tmp_path / "runs" / "seed-0", shift=2.0)
    make_run(tmp_path / "runs" / "seed-1", seed=1, rows=5, summary=False)
    make_run(tmp_path / "runs" / "seed-2", seed=2)
    (tmp_path / "runs" / "seed-2" / "metrics.csv").write_text("version\nx\n")
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def test_several_runs_give_a_table_of_seeds_and_returns(runs):
    lines, problems = inspect(runs / "seed-0", runs / "seed-1")
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert cells == [
        [
            "run",
            "state",
            "seed",
            "algorithm",
            "updates",
            "env steps",
            "return",
            "evaluated",
            "training time",
        ],
        ["seed-0", "finished", "0", "ma_trace", "50", "50,000", "3", "6", "1 min 40 s"],
        ["seed-1", "killed", "1", "ma_trace", "5", "5,000", "1", "-", "10 s"],
    ]
    assert problems == []


def test_a_directory_of_runs_is_a_table_and_names_damage(runs):
    lines, problems = inspect(runs, "--json")
    rows = json.loads("".join(lines))["runs"]
    assert [(row["run"], row["seed"], row["updates"]) for row in rows] == [
        ("seed-0", 0, 50),
        ("seed-1", 1, 5),
        ("seed-2", 2, None),
    ]
    assert rows[1]["eval_return_mean"] is None
    assert len(problems) == 1
    assert "seed-2/metrics.csv" in problems[0]


def test_single_runs_and_files_are_shown_whole(runs):
    lines, _ = inspect(runs / "seed-0")
    assert any(line.startswith("metrics_rows") for line in lines)
    lines, _ = inspect(runs / "seed-0", runs / "seed-1" / "metrics.h5", "--json")
    run, file = json.loads("".join(lines))["files"]
    assert (run["format"], file["rows"]) == ("run directory", 5)
    lines, _ = inspect(runs / "notes")
    assert any(line.startswith("state") and "not started" in line for line in lines)
