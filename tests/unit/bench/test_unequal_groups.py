"""Benchmarks with unequal groups: their arithmetic and configurations.

They are `bench heterogeneous`, `bench costs` and `bench stragglers --until-return`.
"""

import math
import mmap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hpcmarl.bench import costs, heterogeneous, predicted_returns, returns
from hpcmarl.bench.runs import Moment
from hpcmarl.comm.local import LocalWorld
from hpcmarl.config.file import load_config
from hpcmarl.optim.rounds import RULES
from hpcmarl.roles.base import group_environment

CONFIGS = Path(__file__).parents[3] / "configs"


def test_paper_configuration_equals_the_benchmark_one():
    assert load_config(CONFIGS / "paper" / "heterogeneous.yaml") == load_config(heterogeneous.CONFIG)


@pytest.mark.parametrize("rule", heterogeneous.RULES)
def test_heterogeneous_case_sets_delays_batch_and_offsets(rule):
    delays = (0.1, 0.1, 1.0, 1.0)
    config = heterogeneous.case(rule, 7, 0.05, 12.0, delays)
    assert (config.rounds.rule, config.seed, config.optimizer.step_size, config.stop.seconds) == (
        rule,
        7,
        0.05,
        12.0,
    )
    assert tuple(group.delay.trajectory for group in config.topology.group_list) == delays
    assert config.rounds.batch == (8 if rule == "afedpg" else 32)
    offsets = [group_environment(config, group).kwargs["offset"][0] for group in range(4)]
    # The fast groups have another objective than the slow ones.
    assert offsets == [1.0, 1.0, -1.0, -1.0]
    assert all(group_environment(config, group).kwargs["bonus"] == 1.0 for group in range(4))


def test_scores_weigh_every_group_and_seed_the_same():
    played = [
        {"objectives": [-1.0, -2.0, -3.0, -6.0], "updates": 10, "trajectories": [8, 8, 1, 1]},
        {"objectives": [-2.0, -2.0, -9.0, -7.0], "updates": 20, "trajectories": [10, 8, 3, 1]},
    ]
    told = heterogeneous.figures(played)
    assert told["objective_of_each_seed"] == [-3.0, -5.0]
    assert told["objective_mean"] == -4.0
    assert told["objective_standard_error"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert told["objectives"] == [-1.5, -2.0, -6.0, -6.5]
    assert told["worst_objective_mean"] == -7.5
    assert (told["updates_mean"], told["trajectories_by_group"]) == (15.0, [9.0, 8.0, 2.0, 1.0])
    assert heterogeneous.figures(played[:1])["objective_standard_error"] is None
    assert heterogeneous.best({0.1: played[1], 0.2: played[0]}) == 0.2


@pytest.mark.parametrize("rule", returns.RULES)
def test_return_case_sets_stop_conditions_and_batch(rule):
    config = returns.case(rule, 3, 0.2, [0.1, 0.1, 1.0], 30.0, -6.5, "stop.updates=9")
    assert (config.rounds.rule, config.seed, config.optimizer.step_size) == (rule, 3, 0.2)
    assert (config.stop.return_mean, config.stop.seconds, config.stop.updates) == (-6.5, 30.0, 9)
    assert config.rounds.batch == {"sync": 12, "rennala": 8, "malenia": 12, "afedpg": 4}[rule]
    assert [group.delay.trajectory for group in config.topology.group_list] == [0.1, 0.1, 1.0]


def test_median_time_counts_missing_runs_as_slowest():
    assert returns.middle([3.0, None, 1.0]) == 3.0
    assert returns.middle([None, 2.0, None]) is None
    assert returns.middle([4.0]) == 4.0


@pytest.mark.parametrize("rule", returns.RULES)
def test_predicted_workers_deliver_what_groups_do(rule):
    """Predicted workers deliver as many episodes a second as the groups.

    One predicted worker makes each episode of a wave. Where a wave makes one gradient, one worker makes each
    wave.
    """
    config = returns.case(rule, 3, 0.2, [0.1, 0.1, 1.0], 30.0, 8.0)
    simulated = predicted_returns.simulation(
        config, predicted_returns.Seconds([0.1, 0.1, 1.0], [0.01, 0.02, 0.03])
    )
    times = simulated.times("compute_times").values
    assert sum(1 / time for time in times) == pytest.approx(4 * (1 / 0.1 + 1 / 0.1 + 1 / 1.0))
    assert simulated.times("communication_times").values == (
        (0.01, 0.02, 0.03) if rule == "afedpg" else (0.01,) * 4 + (0.02,) * 4 + (0.03,) * 4
    )
    assert (simulated.rounds.rule, simulated.rounds.batch, simulated.optimizer) == (
        rule,
        config.rounds.batch,
        config.optimizer,
    )
    assert simulated.objective.env == config.env


def test_first_time_is_when_the_newest_episodes_are_good_enough():
    course = {"time": np.array([0.0, 1.0, 2.0, 3.0, 4.0]), "used": np.array([0.0, 4.0, 6.0, 10.0, 12.0])}
    course["objective"] = np.array([np.nan, 0.0, 3.0, 3.0, -9.0])
    # the mean of two episodes of round 2 and all four of round 3
    assert predicted_returns.first_time(course, 3.0, 6) == 3.0
    assert predicted_returns.first_time(course, 1.0, 6) == 2.0
    assert predicted_returns.first_time(course, 1.81, 10) is None
    assert predicted_returns.first_time(course, -9.0, 20) is None  # fewer than 20 episodes


def test_rule_costs_are_computed_from_moments():
    # Two groups complete a round of four trajectories every 0.5 s. Each group makes two of them, in 0.4 s.
    moments = [Moment(0.5 * number, 4 * number, 0, 0.01 * number) for number in range(1, 11)]
    learners = np.array([[5.0, 0.5, 10], [5.0, 1.0, 20]])
    told = costs.figures(moments, learners, 0.2)
    assert told["gradients_per_second"] == pytest.approx(8.0)
    assert told["round_seconds"] == pytest.approx(0.5)
    assert told["round_overhead_seconds"] == pytest.approx(0.1)
    assert told["server_cpu_share"] == pytest.approx(0.02)
    assert told["server_cpu_milliseconds_per_gradient"] == pytest.approx(2.5)
    assert told["learner_cpu_share"] == pytest.approx(0.15)
    assert told["learner_cpu_milliseconds_per_gradient"] == pytest.approx(50.0)


def test_virtual_worker_costs_cover_every_rule_and_size(monkeypatch):
    monkeypatch.setattr(costs, "VIRTUAL", (2, 7))
    monkeypatch.setattr(costs, "LEAST_EVENTS", 84)
    told = costs.virtual()
    for rows in told.values():
        assert [(row["rule"], row["workers"]) for row in rows] == [
            (rule, workers) for rule in RULES for workers in (2, 7)
        ]
        assert all(
            row["gradients"] >= 84 and row["rounds"] >= 1 and row["microseconds_per_gradient"] > 0
            for row in rows
        )
    # All workers deliver in turn. A round of sync takes one trajectory of each worker, a round of rennala or
    # malenia four of each, and a round of afedpg one of any worker.
    assert [row["rounds"] for row in told["engine"]] == [
        {"sync": 84 // n, "afedpg": 84}.get(rule, 84 // (4 * n)) for rule in RULES for n in (2, 7)
    ]


def test_resident_memory_grows_with_an_allocation():
    taken = costs.resident_megabytes()
    # mmap, because the heap may have enough free memory for the block
    with mmap.mmap(-1, 64_000_000) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert costs.resident_megabytes() > taken + 40


class FakeStage:
    """A stage that scores a run by its step size alone; the best one is 0.06."""

    def __init__(self):
        self.transport = LocalWorld(1).transports[0]
        self.played = []

    def play(self, config):
        self.played.append((config.seed, config.optimizer.step_size))
        score = -abs(config.optimizer.step_size - 0.06)
        self.recorder = SimpleNamespace(
            evaluation={"return_by_environment": [score] * 4, "version": 5}, group_counts=[1, 2, 3, 4]
        )


def test_the_step_size_is_tuned_on_a_seed_that_is_not_scored():
    stage = FakeStage()
    told = heterogeneous._rule(stage, "malenia", 2, 1.0, (0.1, 0.1, 1.0, 1.0))
    assert stage.played == [
        *((heterogeneous.TUNING_SEED, size) for size in heterogeneous.STEP_SIZES),
        (0, 0.06),
        (1, 0.06),
    ]
    assert (told["step_size"], told["objective_mean"], told["trajectories_by_group"]) == (
        0.06,
        0.0,
        [1.0, 2.0, 3.0, 4.0],
    )
    assert told["tuning_objectives"]["0.2"] == pytest.approx(-0.14)


def test_run_that_misses_the_return_has_no_time():
    stage = FakeStage()
    stage.play = lambda config: [Moment(2.5, 8, 0), Moment(4.0, 16, 0)]
    config = returns.case("sync", 0, 0.1, [0.1, 1.0], 30.0, -6.0)
    for ended, expected in ((4.5, 4.5), (30.0, None), (30.2, None)):
        # Late reports may have lowered the mean after the run reached the return.
        stage.recorder = SimpleNamespace(recent=[-6.5] * 100, seconds=ended)
        assert returns._play(stage, config)["seconds"] == expected
