"""The benchmarks that start training in their own world, on few ranks and for a short time: their figures are there and possible."""

import json
import sys

import pytest

from tests.support.launch import run

pytestmark = [pytest.mark.mpi, pytest.mark.long("benchmarks that measure for seconds")]


def bench(*arguments):
    job = run([sys.executable, "-m", "hpcmarl", "bench", *arguments, "--json"], limit=150.0)
    assert job.code == 0, job.text
    assert not job.orphans
    return json.loads(next(line for line in job.text.splitlines() if line.startswith("{")))


@pytest.mark.timeout(170)
def test_bench_stragglers_reports_possible_efficiencies():
    told = bench("stragglers", "-n", "3", "--seconds", "2.5", "--unit", "0.04")
    assert told["ranks"] == 3
    for setting in told["settings"].values():
        assert setting["ideal_gradients_per_second"] == pytest.approx(sum(1 / time for time in setting["trajectory_seconds"]))
        # on a busy machine all of them may be low, or have too few rounds; none can be above what the groups make (rounding of short runs aside)
        assert all(0 < setting[f"{rule}_efficiency"] < 1.2 for rule in ("rennala", "malenia", "sync", "afedpg") if setting[f"{rule}_efficiency"])
    assert told["settings"]["one_rank_10x_slower"]["sync_efficiency_expected"] == pytest.approx(0.2 / 1.1)
    assert told["afedpg_efficiency"] == told["settings"]["one_rank_10x_slower"]["afedpg_efficiency"] is not None
    assert told["sync_efficiency"] < told["afedpg_efficiency"]


@pytest.mark.timeout(170)
def test_bench_comm_reports_the_gradient_message_rate():
    told = bench("comm", "-n", "3", "--seconds", "2")
    assert told["gradient_senders"] == 2
    assert told["gradient_messages_per_second"] > 100
    assert 0 <= told["gradient_messages_late_share"] < 1


@pytest.mark.timeout(170)
def test_bench_stragglers_reports_seconds_to_a_return():
    told = bench("stragglers", "-n", "3", "--until-return", "-100", "--limit", "30", "--unit", "0.01", "--seeds", "1")
    for rule in ("sync", "rennala", "afedpg"):  # anything is better than -100: as soon as there are 100 episodes
        assert 0 < told[f"{rule}_seconds"] < 30
        assert told["runs"][rule][0]["return_mean"] > -100


@pytest.mark.timeout(170)
def test_bench_costs_reports_possible_cpu_shares():
    told = bench("costs", "-n", "3", "--seconds", "2")
    assert (told["ranks"], set(told["rules"])) == (3, {"sync", "rennala", "malenia", "afedpg"})
    for figures in told["rules"].values():
        assert 0 < figures["gradients_per_second"] < 12  # two groups that sleep 0.2 s for each make ten
        assert 0 < figures["server_cpu_share"] <= 1.05
        assert 0 < figures["learner_cpu_share"] <= 1.05
        assert figures["server_resident_megabytes"] > 20
