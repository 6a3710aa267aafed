"""Benchmarks on ranks, from the command line.

Outside an MPI world a benchmark starts one with its own arguments. Inside a world it measures.
"""

import json
import sys
from types import SimpleNamespace

import pytest

from hpcmarl.cli import bench as cli_bench
from hpcmarl.cli import bench_ranks as cli_bench_ranks


@pytest.fixture
def started(monkeypatch):
    """Record starts of ranks as (number, arguments), without starting any."""
    calls = []

    def start(ranks, arguments):
        calls.append((ranks, arguments))
        raise SystemExit(0)

    monkeypatch.setattr(cli_bench, "start", start)
    monkeypatch.setattr(cli_bench_ranks, "start", start)
    monkeypatch.setattr("hpcmarl.launch.world.under_launcher", lambda environ: False)
    return calls


@pytest.mark.parametrize(
    ("arguments", "ranks"),
    [
        (("stragglers", "--seconds", "2.5", "--unit", "0.5", "--json"), 7),
        (
            (
                "stragglers",
                "--seconds",
                "10.0",
                "--unit",
                "0.1",
                "--until-return",
                "8.0",
                "--limit",
                "60.0",
                "--seeds",
                "2",
            ),
            3,
        ),
        (("costs", "-n", "4", "--seconds", "3.0", "--json"), 4),
    ],
)
def test_benchmark_starts_ranks_with_its_own_arguments(run, started, arguments, ranks):
    given = arguments if "-n" in arguments else (*arguments, "-n", str(ranks))
    assert run("bench", *given)[0] == 0
    assert started == [(ranks, ["bench", *arguments])]


@pytest.fixture
def joined(monkeypatch):
    """Pretend that mpiexec has started this process."""
    monkeypatch.setattr("hpcmarl.launch.world.under_launcher", lambda environ: True)


def test_benchmarks_inside_a_world_measure_there(run, joined, monkeypatch):
    monkeypatch.setitem(
        sys.modules,
        "hpcmarl.bench.stragglers",
        SimpleNamespace(run=lambda seconds, unit: {"told": [seconds, unit]}),
    )
    code, out, _ = run("bench", "stragglers", "--seconds", "2.5", "--unit", "0.5", "--json")
    assert (code, json.loads(out)) == (0, {"told": [2.5, 0.5]})


def test_rank_without_the_result_prints_nothing(run, joined, monkeypatch):
    fake = SimpleNamespace(run=lambda target, limit, seeds, unit, measured_run: None)
    monkeypatch.setattr("hpcmarl.bench.returns", fake, raising=False)
    monkeypatch.setitem(sys.modules, "hpcmarl.bench.returns", fake)
    assert run("bench", "stragglers", "--until-return", "8", "--json")[:2] == (0, "")
