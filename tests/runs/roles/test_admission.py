"""Episodes that a round counts: short ones weigh as much as long ones."""

import itertools
import logging

import numpy as np
import pytest

from hpcmarl.roles.learner.nonfinite import NonFiniteGradientFilter
from tests.support.admission import GAME, TWO_GROUPS, slope
from tests.support.worlds import final_parameters, run_world, summary

CASES = [
    (1, ("rounds.batch=1",), 250),
    (1, ("rounds.batch=16", "rounds.late=ignore"), 60),
    (1, ("rounds.batch=1", "deterministic=true"), 250),
    (3, ("rounds.batch=5",), 100),
    (4, ("rounds.batch=7", "deterministic=true"), 100),
    (5, (TWO_GROUPS, "rounds.reduce=mpi", "rounds.batch=6"), 100),
    (2, (TWO_GROUPS, "rounds.rule=malenia", "rounds.batch=2"), 150),
    (2, (TWO_GROUPS, "rounds.rule=malenia", "rounds.late=ignore", "rounds.batch=32"), 60),
    (5, (TWO_GROUPS, "rounds.rule=malenia", "rounds.reduce=mpi", "rounds.batch=16"), 60),
    (2, (TWO_GROUPS, "rounds.rule=afedpg", "rounds.batch=1"), 250),
    (2, (TWO_GROUPS, "rounds.rule=rennala", "rounds.batch=16", "rounds.admission=all_begun"), 40),
    (
        5,
        (
            TWO_GROUPS,
            "rounds.rule=rennala",
            "rounds.batch=4",
            "rounds.admission=all_begun",
            "rounds.reduce=mpi",
        ),
        40,
    ),
    (2, ("rounds.rule=rennala", "rounds.batch=1"), 250),
]


@pytest.mark.parametrize(("size", "changes"), [case[:2] for case in CASES[::3]])
def test_a_longer_way_to_a_higher_reward_is_learned(tmp_path, size, changes):
    run_world(size, tmp_path, *changes, text=GAME, order=2)
    assert summary(tmp_path)["eval_return_mean"] > 1.8


@pytest.mark.parametrize(("size", "changes", "updates"), CASES)
def test_expected_direction_is_the_gradient(tmp_path, size, changes, updates):
    found, true = slope(tmp_path, size, *changes, updates=updates)
    assert true == pytest.approx(0.25, abs=0.01)
    # The estimate of one episode has a standard deviation of 0.75, that is 0.05 over 250 episodes. Counting
    # episodes as they finish gives -0.5.
    assert found == pytest.approx(true, abs=0.2)


def test_first_finished_episodes_are_biased_and_said_to_be(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found, _ = slope(tmp_path, 2, TWO_GROUPS, "rounds.rule=rennala", "rounds.batch=4", updates=60)
    assert found < -0.3
    assert any("gives short episodes too much weight" in record.message for record in caplog.records)


@pytest.mark.parametrize("changes", [("rounds.admission=all_begun",), ("env.id=mpe2.simple_spread_v3",)])
def test_unbiased_rounds_give_no_warning(tmp_path, caplog, changes):
    small = (
        "rounds.rule=rennala",
        "rounds.batch=4",
        "stop.updates=2",
        "eval.episodes=0",
        "topology.environments_per_actor=2",
    )
    with caplog.at_level(logging.WARNING):
        run_world(2, tmp_path, TWO_GROUPS, *small, *changes, text=GAME)
    assert not [record for record in caplog.records if "short episodes" in record.message]


def test_agreed_episodes_are_all_used(tmp_path):
    run_world(3, tmp_path, "rounds.batch=5", "stop.updates=40", "eval.episodes=0", text=GAME)
    told = summary(tmp_path)
    assert (told["used_trajectories"], told["wasted_gradients"], told["dropped_rollouts"]) == (200, 0, 0)
    assert told["episodes"] == 200


def test_default_batch_is_an_episode_of_every_slot(tmp_path):
    run_world(
        3, tmp_path, "topology.environments_per_actor=3", "stop.updates=4", "eval.episodes=0", text=GAME
    )
    told = summary(tmp_path)
    assert told["used_trajectories"] == 4 * 3 * sum("actor" in roles for roles in told["roles"])


@pytest.mark.parametrize("respawn", ["false", "true"])
@pytest.mark.parametrize(
    "changes", [(), ("rounds.rule=malenia", TWO_GROUPS, "rounds.batch=24"), ("rounds.batch=3",)]
)
def test_episodes_of_a_dead_actor_are_played_by_others(tmp_path, respawn, changes):
    size = 7 if TWO_GROUPS in changes else 4
    run_world(
        size,
        tmp_path,
        *changes,
        f"topology.respawn={respawn}",
        "stop.updates=25",
        "topology.environments_per_actor=4",
        "rounds.on_loss=drop",
        text=GAME,
        deaths={size - 1: 5},
    )
    assert summary(tmp_path)["updates"] == 25


@pytest.mark.parametrize("respawn", ["false", "true"])
def test_round_closes_without_a_dead_actor(tmp_path, respawn):
    changes = (
        "rounds.rule=rennala",
        TWO_GROUPS,
        "rounds.admission=all_begun",
        "rounds.batch=12",
        "topology.environments_per_actor=4",
    )
    for at in (3, 5):
        run_world(
            7,
            tmp_path / str(at),
            *changes,
            f"topology.respawn={respawn}",
            "stop.updates=12",
            text=GAME,
            deaths={6: at, 4: at + 2},
            order=at,
        )
        assert summary(tmp_path / str(at))["updates"] == 12


def test_round_closes_without_a_dead_group(tmp_path):
    changes = (
        "rounds.rule=rennala",
        "topology.groups=3",
        "rounds.admission=all_begun",
        "rounds.batch=12",
        "topology.actors_per_learner=0",
    )
    run_world(
        4,
        tmp_path,
        *changes,
        "topology.server=dedicated",
        "stop.updates=20",
        "rounds.on_loss=drop",
        text=GAME,
        deaths={3: 4, 2: 9},
    )
    assert summary(tmp_path)["updates"] == 20


def test_deterministic_runs_resume_to_the_bit(tmp_path):
    exact = ("deterministic=true", "rounds.batch=7", "topology.environments_per_actor=4", "eval.episodes=0")
    run_world(3, tmp_path / "whole", *exact, "stop.updates=12", text=GAME)
    run_world(3, tmp_path / "half", *exact, "stop.updates=6", text=GAME)
    run_world(
        3, tmp_path / "half", *exact, "stop.updates=12", text=GAME, resume=str(tmp_path / "half"), order=5
    )
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "half"))


@pytest.mark.parametrize(
    "changes", [("rounds.batch=13",), ("rounds.rule=malenia", TWO_GROUPS, "rounds.batch=20")]
)
@pytest.mark.parametrize("restarts", [0, 1000])
def test_broken_episodes_are_played_again(tmp_path, changes, restarts):
    fragile = (
        "env.kwargs={breaks_every: 30}",
        f"env.restarts={restarts}",
        "env.on_restart_limit=quarantine",
        "topology.environments_per_actor=8",
    )
    run_world(3, tmp_path, *changes, *fragile, "stop.updates=8", "eval.episodes=0", text=GAME)
    told = summary(tmp_path)
    assert told["updates"] == 8
    assert (told["environment_quarantined"] > 0) is (restarts == 0)
    assert (told["environment_restarts"] > 0) is (restarts > 0)


@pytest.mark.parametrize("changes", [(), ("topology.groups=2",)])
def test_first_episodes_to_finish_do_not_stop_a_run(tmp_path, changes):
    """Check that the return of the first episodes to finish does not end a run.

    Half of the episodes earn 1 at once, the others 0 after 100 steps. The first hundred to finish earn 1.
    """
    game = (
        "env.kwargs={steps: 100, reward: 0.0}",
        "topology.environments_per_actor=150",
        "eval.episodes=0",
        "logging.every_seconds=0.001",
    )
    still = (
        "algo={name: ma_trace, unroll: 10}",
        "optimizer={name: sgd, step_size: 1.0e-9}",
        "rounds.batch=150",
    )
    run_world(2, tmp_path, *game, *still, *changes, "stop={return_mean: 0.9, updates: 25}", text=GAME)
    told = summary(tmp_path)
    assert told["updates"] == 25
    assert told["best_return_mean"] < 0.9


@pytest.mark.parametrize(
    "changes", [("rounds.batch=5",), ("rounds.rule=malenia", TWO_GROUPS, "rounds.batch=8")]
)
def test_refused_trajectories_do_not_stop_a_round(tmp_path, monkeypatch, changes):
    calls = itertools.count()
    monkeypatch.setattr(NonFiniteGradientFilter, "accepts", lambda *_: next(calls) % 3 != 0)
    run_world(
        3,
        tmp_path,
        *changes,
        "stop.updates=12",
        "eval.episodes=0",
        "topology.environments_per_actor=4",
        text=GAME,
    )
    assert summary(tmp_path)["updates"] == 12
