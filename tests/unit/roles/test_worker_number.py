"""Choice of the number of workers: predicted rates of arrangements of the same ranks."""

import pytest

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config.file import load_config
from hpcmarl.roles.worker_number import Cost, StepCosts, actors_rate, choose_number, workers_rate

TEXT = "env: {id: a.b}\nstop: {updates: 3}\n"


def costs(wall, processor, fixed, each):
    return StepCosts(Cost(0.0, wall), Cost(0.0, processor), Cost(fixed, each), Cost(fixed, each))


def chosen(measured, size, cores, *changes):
    config = load_config(TEXT, ["topology.workers_per_actor=auto", *changes])
    return choose_number(config, size, ["a"] * size, cores, measured)


def test_cost_through_two_measurements():
    cost = Cost.through((2, 10.0), (6, 18.0))
    assert (cost.fixed, cost.each) == (6.0, 2.0)
    assert cost(4) == 14.0
    assert Cost.through((1, 3.0), (4, 2.0)) == Cost(2.0, 0.0)  # noise: more environments took less time
    assert Cost.through((1, 1.0), (4, 8.0)).fixed == 0.0
    assert Cost.through((1, 3.0), (1, 3.0)) == Cost(0.0, 3.0)


def test_rates_without_overheads_are_those_of_stepping_ranks():
    free = costs(1e-3, 1e-4, 0.0, 1e-9)
    plain = assign_roles(8, ["a"] * 8, load_config(TEXT, []).topology)
    settings = load_config(TEXT, ["topology.workers_per_actor=5"]).topology
    with_workers = assign_roles(8, ["a"] * 8, settings)
    assert actors_rate(plain, 16, 64, free) == pytest.approx(6 * 1000, rel=0.01)
    assert workers_rate(with_workers, 20, 64, free) == pytest.approx(5 * 1000, rel=0.05)


@pytest.mark.parametrize(
    ("measured", "cores"),
    [
        (costs(300e-6, 300e-6, 100e-6, 2e-6), 2),  # cores step or infer: the work stays the same
        (costs(300e-6, 300e-6, 100e-6, 2e-6), 64),  # every rank infers in parallel
        (costs(5e-3, 0.0, 100e-6, 2e-6), 2),  # environments wait: every rank can wait for one
        (costs(1e-5, 1e-5, 3e-3, 0.0), 2),  # an actor's own batch is the larger one
    ],
)
def test_equal_ranks_are_used_best_without_workers(measured, cores):
    assert chosen(measured, 10, cores, "topology.environments_per_actor=16") == 0


@pytest.mark.parametrize(("size", "expected"), [(2, 0), (3, 0), (4, 2), (8, 6)])
def test_ranks_beyond_the_fixed_actors_become_workers(size, expected):
    measured = costs(1e-3, 1e-3, 1e-4, 1e-6)
    assert chosen(measured, size, 64, "topology.actors_per_learner=1") == expected


def test_no_more_workers_than_environments_or_ranks():
    expensive = costs(1e-5, 1e-5, 1e-1, 0.0)
    assert chosen(expensive, 12, 2, "topology.environments_per_actor=2") <= 2
    assert chosen(expensive, 2, 2) <= 1
    assert chosen(expensive, 1, 2) == 0
