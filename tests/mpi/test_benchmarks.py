"""Benchmarks that start their own ranks from the command line.

Short benchmarks on shared ranks are in tests/mpi/checks/benchmarks.py.
"""

import json
import sys

import pytest

from tests.support.benchmark_figures import check_comm, check_costs, check_returns, check_stragglers
from tests.support.launch import run

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.long("benchmarks that measure for seconds"),
    pytest.mark.timeout(170),
]


def bench(*arguments):
    job = run([sys.executable, "-m", "hpcmarl", "bench", *arguments, "--json"], limit=150.0)
    assert job.code == 0, job.text
    assert not job.orphans
    return json.loads(next(line for line in job.text.splitlines() if line.startswith("{")))


def test_bench_stragglers_reports_possible_efficiencies():
    told = bench("stragglers", "-n", "3", "--seconds", "2.5", "--unit", "0.04")
    check_stragglers(told, ranks=3)
    assert told["afedpg_efficiency"] is not None
    assert told["sync_efficiency"] < told["afedpg_efficiency"]


def test_bench_comm_reports_the_gradient_message_rate():
    check_comm(bench("comm", "-n", "3", "--seconds", "2"), ranks=3)


def test_bench_workers_reports_rates_and_exchange():
    few = ("--networks", "mlp-64-64", "--environments", "busy-300us", "--workers", "1", "--slots", "4")
    told = bench("workers", *few, "--seconds", "2")
    [row] = told["rows"]
    assert (row["network"], row["environment"], row["workers"]) == ("mlp-64-64", "busy-300us", 1)
    rates = [
        row[f"{name}_env_steps_per_second"]
        for name in ("bare", "fused", "workers", "workers_numpy", "workers_torch")
    ]
    assert all(0 < rate < 2 / 300e-6 + 1 for rate in rates)  # two ranks step at most
    assert row["exchange_us_per_worker_step"] > 0
    slowed = {(entry["arrangement"][:3], entry["slowed"]): entry for entry in told["decoupled"]}
    assert len(slowed) == 6
    for name in ("off", "on-"):
        usual, learner = slowed[name, "nothing"], slowed[name, "learner"]
        assert learner["updates_per_second"] < usual["updates_per_second"]
        workers = slowed[name, "workers"]
        assert 0 < workers["env_steps_per_second"] < usual["env_steps_per_second"]


def test_bench_stragglers_reports_seconds_to_a_return():
    told = bench(
        "stragglers", "-n", "3", "--until-return", "-100", "--limit", "30", "--unit", "0.01", "--seeds", "1"
    )
    check_returns(told, target=-100, limit=30)


def test_bench_costs_reports_possible_cpu_shares():
    check_costs(bench("costs", "-n", "3", "--seconds", "2"), ranks=3, unit=0.2)


def test_bench_startup_finds_what_each_role_has_used():
    told = bench("startup", "-n", "4")
    assert told["ranks"] == 4
    assert told["seconds_to_first_update"] > 0
    for role in ("server", "learner", "actor"):
        own = told[role]
        assert 0 < own["cpu_seconds_median"] <= own["cpu_seconds_max"]
        assert 0 < own["uss_mb_median"] < own["rss_mb_median"]
        assert own["files_opened_median"] > 100
        assert own["bytes_read_median"] > 1e6
        assert own["imports_torch"] == (role == "learner")


def test_bench_scale_reports_every_rule_and_reduction():
    told = bench("scale", "--ranks", "4,5", "--unit", "0.05", "--seconds", "1.5", "--repetitions", "2")
    assert [(row["ranks"], row["groups"]) for row in told["rows"]] == [(4, 2)] * 7 + [(5, 2)] * 7
    for row in told["rows"]:
        assert 0 < row["efficiency_mean"] < 1.2
        assert row["efficiency_std"] >= 0
        assert 0 <= row["server_core_share"] <= 1.05
        assert 0 < row["uss_mb_median"] < row["rss_mb_median"]
        assert row["predicted_efficiency"] is None or 0 < row["predicted_efficiency"] < 1.2
