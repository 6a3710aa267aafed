"""Local steps of the simulator's workers (FedPG), compared with explicit federated averaging.

The objectives are formulas and played episodes.
"""

import numpy as np
import pytest

from hpcmarl.config.file import load_simulation
from hpcmarl.errors import ConfigError
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.local import sum_of_local_steps
from hpcmarl.sim.objectives import make_objective
from tests.support.simulations import CARTPOLE

QUADRATICS = """
objective: {name: quadratics, dimension: 3, optima: [1, -2, 0.5], start: 3}
optimizer: {name: sgd, step_size: 0.4}
rounds: {batch: 12}
sim: {workers: 3, communication_times: 2, local_step_size: 0.1, stop: {rounds: 7}}
"""


def finished(text, *changes):
    cluster = Cluster(load_simulation(text, changes), 0)
    while cluster.ended is None:
        cluster.run(1000)
    return cluster


def test_rounds_of_local_steps_average_the_workers_points():
    """The new point of a round is the mean of the workers' points after their local steps.

    Each worker takes four local steps a round. The step size of sgd equals four local step sizes.
    """
    point = np.full(3, 3.0)
    for _ in range(7):
        places = []
        for optimum in (1.0, -2.0, 0.5):
            place = point.copy()
            for _ in range(4):
                gradient = optimum - place
                place += 0.1 * gradient / np.linalg.norm(gradient)
            places.append(place)
        point = np.mean(places, axis=0)
    np.testing.assert_allclose(finished(QUADRATICS).engine.optimizer.parameters, point, rtol=1e-12)


def test_local_steps_take_no_time_of_their_own():
    assert (
        finished(QUADRATICS).published
        == finished(QUADRATICS, "sim.local_step_size=null").published
        == 7 * (4 + 2)
    )


def test_a_worker_at_its_optimum_stays_there():
    objective = make_objective(load_simulation(QUADRATICS), np.random.default_rng(0))
    found = sum_of_local_steps(objective, [0, 0], np.ones(3), 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(found, np.zeros(3))


@pytest.mark.parametrize("network", ["{hidden: [8]}", "{hidden: [8], body: gru}"])
def test_local_steps_follow_episodes_of_each_workers_point(network):
    """Each worker plays at its own point, in numpy and in torch.

    When a worker plays a second time, its point has moved by one step along the gradient of its first
    episode.
    """
    objective = make_objective(
        load_simulation(CARTPOLE.replace("{hidden: [8]}", network)), np.random.default_rng(3)
    )
    seen, apart = [], objective.apart

    def note(workers, points, generator):
        found = apart(workers, points, generator)
        seen.append((list(workers), [point.copy() for point in points], found))
        return found

    objective.apart = note
    point = objective.initial()
    total = sum_of_local_steps(objective, [0, 2, 0, 1, 2, 0], point, 0.5, np.random.default_rng(1))
    assert [workers for workers, _, _ in seen] == [[0, 1, 2], [0, 2], [0]]
    units = [[gradient / np.linalg.norm(gradient) for gradient in gradients] for _, _, gradients in seen]
    np.testing.assert_allclose(total, sum(unit for row in units for unit in row), rtol=1e-10)
    assert all(np.array_equal(place, point) for place in seen[0][1])
    for place, unit in zip(seen[1][1], [units[0][0], units[0][2]], strict=True):
        np.testing.assert_allclose(place - point, 0.5 * unit, atol=1e-12)
    assert not np.isclose(units[0][0] @ units[0][2], 1.0)  # from different episodes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["rounds.rule=rennala"], r"sim\.local_step_size: \S+ does not work with rounds\.rule: rennala"),
        (["objective={name: none}"], r"sim\.local_step_size: \S+ needs the gradient of an objective"),
    ],
)
def test_local_steps_reject_what_they_do_not_go_with(changes, words):
    with pytest.raises(ConfigError, match=words):
        load_simulation(QUADRATICS, changes)


def test_local_steps_reject_trajectories_charged_by_the_step():
    with pytest.raises(ConfigError, match=r"sim\.local_step_size: 0\.1 does not work with sim\.charge: step"):
        load_simulation(CARTPOLE, ["rounds={rule: sync}", "sim.charge=step", "sim.local_step_size=0.1"])
