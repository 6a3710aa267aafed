"""Simulations with gradients of sampled episodes.

The tests check which episodes count, the weights of their gradients, the time charged for them, and that a
seed repeats them.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.algos import make_algorithm
from hpcmarl.config.file import load_simulation
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError
from hpcmarl.sim.cluster import Cluster
from hpcmarl.sim.experiment import simulate
from hpcmarl.sim.objectives import make_objective
from hpcmarl.sim.running import Runner, run_one, time_to
from tests.support.simulations import CARTPOLE


def objective_of(text, *changes):
    config = load_simulation(text, changes)
    return make_objective(config, np.random.default_rng(3))


def test_sampled_episodes_are_whole_first_episodes():
    objective = objective_of(CARTPOLE)
    rollouts = objective._play([0, 1, 2, 0, 1, 2, 0, 1, 2], objective.initial(), np.random.default_rng(0))
    assert len(rollouts) == 9  # 4 slots twice, then one slot
    for rollout in rollouts:
        assert rollout.episode_start[0, 0]
        assert np.flatnonzero(rollout.episode_end[:, 0]).tolist() == [rollout.steps - 1]
        # The reward of CartPole is 1 a step.
        assert rollout.episodes[0].return_mean == rollout.episodes[0].length == rollout.steps
        assert rollout.policies["agent_0"].alive[:-1].all()
    lengths = [rollout.steps for rollout in rollouts]
    assert len(set(lengths)) > 3


@pytest.mark.parametrize("network", ["{hidden: [8]}", "{hidden: [8], body: gru}"])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.5, 2.0, 0.5, 1.0]])
def test_direction_is_the_weighted_sum_of_gradients(monkeypatch, weights, network):
    """Feed-forward policies are computed in numpy, recurrent ones in torch."""
    objective = objective_of(CARTPOLE.replace("{hidden: [8]}", network))
    point = objective.initial()
    played = objective._play([0, 1, 2, 0], point, np.random.default_rng(5))
    config = load_simulation(CARTPOLE.replace("{hidden: [8]}", network)).objective
    torch = make_algorithm(describe(config.env, {}), config.algo, 0)
    torch.load_parameters(point.astype(np.float32))
    expected = sum(
        weight * torch.gradient([rollout])[0].astype(float)
        for weight, rollout in zip(weights, played, strict=True)
    )
    monkeypatch.setattr(objective, "_play", lambda workers, point, generator: played)
    found = objective.weighted([0, 1, 2, 0], np.array(weights), point, np.random.default_rng(5))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert objective.value(point) == pytest.approx(np.mean([rollout.steps for rollout in played]))
    assert np.isnan(objective.value(point))  # no episode since the last call


def test_a_seed_gives_the_same_curve_bit_for_bit():
    config = load_simulation(CARTPOLE)
    first, again, other = run_one(config, 4), run_one(config, 4), run_one(config, 5)
    for name, column in first.course.items():
        np.testing.assert_array_equal(column, again.course[name])
    assert not np.array_equal(first.course["objective"][1:], other.course["objective"][1:])
    assert "gradient_norm" not in first.course  # unknown


def test_sampled_simulation_improves_its_return():
    outcome = run_one(load_simulation(CARTPOLE, ["rounds.batch=10", "sim.stop.rounds=40"]), 0)
    returns = outcome.course["objective"][1:]
    assert returns[-10:].mean() > 1.5 * returns[:5].mean()


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia", "afedpg"])
def test_used_trajectories_are_exactly_those_played(rule):
    batch = "" if rule == "afedpg" else "rounds.batch=6"
    config = load_simulation(
        CARTPOLE, [f"rounds.rule={rule}", batch or "rounds.batch=1", "sim.stop.rounds=4"]
    )
    cluster = Cluster(config, 0)
    played = []
    original = cluster.objective._side_by_side
    cluster.objective._side_by_side = lambda workers, *rest: (
        played.extend(workers) or original(workers, *rest)
    )
    while cluster.ended is None:
        cluster.run(10)
    # Workers play side by side, so that two more episodes may be under way.
    under_way = 2 if rule == "afedpg" else 0
    assert cluster.engine.used <= len(played) <= cluster.engine.used + under_way
    assert cluster.engine.version == 4


def test_trajectories_are_played_where_their_workers_stand():
    """Episodes that are played together give the same gradients as episodes played one by one.

    The rule is afedpg, where each worker has its own point.
    """
    config = load_simulation(CARTPOLE, ["rounds={rule: afedpg}", "sim.stop.rounds=12"])
    cluster = Cluster(config, 0)
    objective, found, points = cluster.objective, [], {}
    begin, weighted = objective.begin_apart, objective.weighted
    objective.begin_apart = lambda workers, where, noise: (
        points.update(zip(workers, where, strict=True)) or begin(workers, where, noise)
    )

    def compared(workers, weights, point, noise):
        np.testing.assert_array_equal(points[workers[0]], point)
        rollout = objective._begun[workers[0]][0]
        objective.algorithm.load_parameters(point.astype(np.float32))
        direction = weighted(workers, weights, point, noise)
        np.testing.assert_allclose(direction, objective.algorithm.weighted_gradient([rollout], [1.0]))
        found.append(len(objective._begun[workers[0]]))
        return direction

    objective.weighted = compared
    while cluster.ended is None:
        cluster.run(10)
    assert len(found) == cluster.engine.used
    assert not any(found)  # each trajectory was used once


def test_playgrounds_have_few_idle_slots_and_seeds_of_their_own():
    objective = objective_of(CARTPOLE.replace("slots: 4", "slots: 20"))
    (stages,) = objective._stages
    seen = []
    for count in range(1, 46):
        parts = list(stages.parts(range(count)))
        assert [place for _, part in parts for place in part] == list(range(count))
        assert all(len(part) <= ground.slots <= max(3, 1.5 * len(part)) for ground, part in parts)
        seen += [ground for ground, _ in parts if ground not in seen]
    first = [ground.environment._seeds.first_slot for ground in seen]
    numbers = [
        slot for start, ground in zip(first, seen, strict=True) for slot in range(start, start + ground.slots)
    ]
    assert len({*numbers}) == len(numbers) <= 80
    objective.close()


def test_what_a_worker_had_under_way_is_lost_when_it_fails():
    cluster = Cluster(
        load_simulation(
            CARTPOLE, ["sim.failures=[{every: 4, repair: 1}]", "sim.stop.rounds=60", "rounds={rule: afedpg}"]
        ),
        2,
    )
    failures = 0
    while cluster.ended is None:
        cluster.run(1)
        failures += bool(cluster.failures.down)
        if cluster.ended is not None:
            break
        under_way = {worker for _, worker in cluster._queue}
        begun = cluster.objective._begun or [()] * 3
        assert [len(begun[worker]) + (worker in cluster._unplayed) for worker in range(3)] == [
            worker in under_way for worker in range(3)
        ]
    assert failures > 3
    assert cluster.ended == "finished"


def test_step_charge_makes_time_proportional_to_length():
    changes = [
        "sim.workers=1",
        "sim.charge=step",
        "objective.reference_steps=10",
        "sim.compute_times=2",
        "rounds={rule: sync, batch: 1}",
    ]
    course = run_one(load_simulation(CARTPOLE, changes), 0).course
    np.testing.assert_allclose(np.diff(course["time"]), 2 * course["objective"][1:] / 10 + 0.5)


@pytest.mark.parametrize(
    "rounds",
    [
        "rule: rennala, batch: 6",
        "rule: rennala, batch: 6, admission: all_begun",
        "rule: rennala, batch: 6, late: ignore",
        "rule: malenia, batch: 6",
        "rule: afedpg",
    ],
)
def test_step_charge_uses_trajectories_begun_by_each_worker(rounds):
    """Each trajectory that counts was begun by its worker at the point of the round.

    Trajectories that were begun and not used are forgotten.
    """
    config = load_simulation(CARTPOLE, ["sim.charge=step", f"rounds={{{rounds}}}", "sim.stop.rounds=4"])
    cluster = Cluster(config, 1)
    begun, used = [], []
    objective = cluster.objective
    begin, take = objective.begin, objective._begun_by
    objective.begin = lambda workers, point, generator: (
        begun.extend((worker, point.copy()) for worker in workers) or begin(workers, point, generator)
    )
    objective._begun_by = lambda workers: used.extend(workers) or take(workers)
    while cluster.ended is None:
        cluster.run(10)
    assert len(used) == cluster.engine.used
    assert len(begun) + cluster.workers >= len(used)
    assert all(len(waiting) <= 1 for waiting in objective._begun)


def test_short_trajectories_finish_first_when_steps_are_charged():
    changes = [
        "sim.workers=10",
        "sim.compute_times=1",
        "rounds.batch=4",
        "optimizer.step_size=1e-9",
        "sim.stop.rounds=30",
    ]
    settings_of = (("step", "first_finished"), ("step", "all_begun"), ("trajectory", "first_finished"))
    configs = [
        load_simulation(CARTPOLE, [*changes, f"sim.charge={charge}", f"rounds.admission={admission}"])
        for charge, admission in settings_of
    ]
    first, begun, whole = (run_one(config, 0).course["objective"][1:] for config in configs)
    assert first.mean() < 0.8 * whole.mean()
    # The ratio of a sum to a count that depends on the sum has a relative bias of about 1 / M.
    # Here M is about 14 trajectories a round.
    assert begun.mean() == pytest.approx(whole.mean(), rel=0.15)


def test_workers_may_have_environments_of_their_own():
    workers = "objective.workers=[{env: {max_steps: 3}}, {env: {max_steps: 5}}]"
    objective = objective_of(CARTPOLE, workers)
    rollouts = objective._play([0, 1, 2, 1], objective.initial(), np.random.default_rng(0))
    assert [rollout.steps for rollout in rollouts] == [3, 5, 3, 5]
    objective.weighted([0, 1, 2, 1], np.ones(4), objective.initial(), np.random.default_rng(0))
    # J_i has the same weight for each worker.
    assert objective.value(objective.initial()) == pytest.approx((3 + 5 + 3) / 3)
    objective.weighted([0], np.ones(1), objective.initial(), np.random.default_rng(0))
    # A worker without a new trajectory still counts.
    assert objective.value(objective.initial()) == pytest.approx((3 + 5 + 3) / 3)
    assert np.isnan(objective.value(objective.initial()))
    late = objective_of(CARTPOLE, workers)
    late.weighted([0, 2], np.ones(2), late.initial(), np.random.default_rng(0))
    assert np.isnan(late.value(late.initial()))  # the objective of worker 1 is not known yet
    with pytest.raises(
        ConfigError,
        match=r"objective.workers: the environments of the workers have different agents or spaces",
    ):
        objective_of(CARTPOLE, 'objective.workers=[{}, {env: {id: "gymnasium:Acrobot-v1"}}]')
    with pytest.raises(ConfigError, match=r"objective\.policy|objective"):
        load_simulation(CARTPOLE, ["objective.workers=[{env: {idd: x}}]"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["sim.charge=step", "sim.failures=[{at: 1, workers: [0]}]"],
            "sim.charge: step does not work with sim.failures",
        ),
        (["sim.charge=step", "objective={name: quadratics}"], "sim.charge: step needs trajectories"),
        (["sim.thresholds=[3]", "objective={name: none}"], "sim.thresholds are values of the objective"),
        (
            ["sim.sweep.tune={seeds: [9], share: 0, grid: {optimizer.step_size: [1]}}"],
            "sim.sweep.tune.share is 0",
        ),
    ],
)
def test_sampled_simulation_rejects_incompatible_settings(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load_simulation(CARTPOLE, changes)
    assert "\n" not in str(caught.value)


def test_trials_of_tuning_end_after_their_share():
    text = "objective: {name: quadratics, start: 5}\nsim:\n  stop: {rounds: 40, time: 1000}\n"
    text += "  sweep: {tune: {seeds: [3], share: 0.25, grid: {optimizer.step_size: [0.1, 0.2]}}}\n"
    seen = []

    class Spy(Runner):
        def run(self, tasks, progress):
            seen.append([(task.config.sim.stop.rounds, task.config.sim.stop.time) for task in tasks])
            return super().run(tasks, progress)

    (result,) = simulate(load_simulation(text), runner=Spy())
    assert seen == [[(10, 250.0)] * 2, [(40, 1000.0)]]
    assert result.outcomes[0].figures["rounds"] == 40


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(-3, 3), st.booleans())
@settings(max_examples=100, deadline=None)
def test_time_to_a_threshold_is_the_first_window_that_reaches_it(values, threshold, begins_unknown):
    course = {"time": np.arange(len(values)) * 2.0, "objective": np.array(values, float)}
    if begins_unknown:
        course["objective"][0] = np.nan
    known = [
        (time, value)
        for time, value in zip(course["time"], course["objective"], strict=True)
        if not np.isnan(value)
    ]
    window = min(5, len(known))
    expected = next(
        (
            known[end - 1][0]
            for end in range(max(window, 1), len(known) + 1)
            if sum(v for _, v in known[end - window : end]) >= threshold * window
        ),
        None,
    )
    assert time_to(threshold - 1e-9, course) == expected
