"""Whole runs on virtual ranks with every topology, rule and optimizer.

Tests of repeatability, resumption and counters of lost work.
"""

import numpy as np
import pytest

from tests.support.worlds import final_parameters, final_state, run_world, summary

REINFORCE = ("algo.name=reinforce", "rounds.batch=4", "optimizer.name=nigt")
GROUPS = "topology.groups=2"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("reduce", ["server", "mpi"])
def test_every_world_size_trains(tmp_path, size, reduce):
    run_world(size, tmp_path, f"rounds.reduce={reduce}")
    told = summary(tmp_path)
    assert (told["status"], told["updates"], told["ranks"]) == ("finished", 6, size)
    assert told["env_steps"] >= 6 * 2 * 6
    assert not np.array_equal(final_parameters(tmp_path), np.zeros(1))


@pytest.mark.long("every combination; tests/runs/runtime/test_all_together.py has every pair")
@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia"])
@pytest.mark.parametrize("optimizer", ["nigt", "adam", "sgd"])
@pytest.mark.parametrize("reduce", ["server", "mpi"])
def test_every_rule_optimizer_and_reduction_trains(tmp_path, rule, optimizer, reduce):
    run_world(
        5,
        tmp_path,
        GROUPS,
        f"rounds.rule={rule}",
        f"optimizer.name={optimizer}",
        f"rounds.reduce={reduce}",
        "rounds.batch=4",
    )
    assert summary(tmp_path)["updates"] == 6


@pytest.mark.parametrize("rule", ["sync", "rennala", "malenia"])
@pytest.mark.parametrize("late", ["cancel", "ignore"])
def test_reinforce_counts_whole_episodes(tmp_path, rule, late):
    run_world(5, tmp_path, *REINFORCE, GROUPS, f"rounds.rule={rule}", f"rounds.late={late}", order=3)
    told = summary(tmp_path)
    assert told["updates"] == 6
    assert told["used_trajectories"] >= 6 * 4


@pytest.mark.parametrize("optimizer", ["nigt", "adam", "sgd"])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_afedpg_steps_with_every_gradient(tmp_path, size, optimizer):
    changes = (
        "rounds.rule=afedpg",
        f"topology.groups={min(3, size)}",
        f"optimizer.name={optimizer}",
        "stop.updates=30",
        "rounds.max_staleness=0",
    )
    ranks = run_world(size, tmp_path, *changes, "checkpoint.every_updates=10", order=4)
    told = summary(tmp_path)
    assert (told["updates"], told["wasted_gradients"]) == (30, 0)
    assert told["used_trajectories"] >= 30 * 2
    assert len(ranks[0].roles["server"].links) == min(3, size)
    assert min(told["trajectories_by_group"]) > 0
    run_world(size, tmp_path, *changes, "stop.updates=40", resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 40


def test_afedpg_reports_staleness_of_slow_groups(tmp_path):
    slow = "topology.groups=[{}, {delay: {trajectory: 0.05}}]"
    changes = (
        "topology.actors_per_learner=0",
        "rounds.rule=afedpg",
        "rounds.batch=2",
        "stop.updates=60",
        "topology.server=dedicated",
    )
    run_world(3, tmp_path, slow, *changes)
    told = summary(tmp_path)
    fast_count, slow_count = told["trajectories_by_group"]
    assert fast_count > slow_count
    assert told["staleness_mean"] > 0
    assert told["wasted_gradients"] == 0


@pytest.mark.parametrize("late", ["cancel", "ignore"])
def test_afedpg_uses_one_whole_episode_per_update(tmp_path, late):
    changes = (
        "algo.name=reinforce",
        "optimizer.name=nigt",
        GROUPS,
        "rounds.rule=afedpg",
        f"rounds.late={late}",
        "rounds.batch=1",
        "stop.updates=30",
    )
    ranks = run_world(5, tmp_path, *changes, order=3)
    told = summary(tmp_path)
    assert told["updates"] == told["used_trajectories"] == 30  # a gradient uses one episode
    assert sum(rank.roles["learner"].version > 0 for rank in ranks if "learner" in rank.roles) == 2


def test_cancelled_actor_abandons_unfinished_work(tmp_path):
    ranks = run_world(5, tmp_path, *REINFORCE, GROUPS, "rounds.rule=rennala", "rounds.batch=3", order=1)
    actors = [rank.roles["actor"] for rank in ranks if "actor" in rank.roles]
    assert sum(actor.counters["cancelled_steps"] for actor in actors) > 0


def test_late_work_is_counted_as_wasted_when_ignored(tmp_path):
    run_world(
        5,
        tmp_path,
        *REINFORCE,
        GROUPS,
        "rounds.rule=rennala",
        "rounds.batch=3",
        "rounds.late=ignore",
        order=1,
    )
    assert summary(tmp_path)["wasted_gradients"] > 0


def test_off_policy_work_that_came_late_is_learned_from_again(tmp_path):
    changes = (
        "topology.groups=3",
        "topology.actors_per_learner=0",
        "topology.server=dedicated",
        "rounds.rule=rennala",
        "rounds.batch=4",
    )
    run_world(4, tmp_path, *changes, "stop.updates=20", order=1)
    told = summary(tmp_path)
    assert told["wasted_gradients"] >= told["repeated_gradients"] > 0
    assert told["used_trajectories"] * 6 <= told["env_steps"]  # a trajectory has six steps and is used once


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("algo.reuse=2",),
        ("algo.network.body=gru",),
        ("rounds.reduce=mpi",),
        REINFORCE,
        (
            "algo.reuse=2",
            "algo.value_loss=huber",
            "algo.critic_network={hidden: [8], body: gru, memory: 5}",
        ),
    ],
)
def test_resumed_run_equals_uninterrupted_run(tmp_path, extra):
    extra = (*extra, "deterministic=true", "env.kwargs.max_cycles=9")
    run_world(4, tmp_path / "whole", *extra, "stop.updates=10")
    run_world(4, tmp_path / "half", *extra, "stop.updates=5", order=7)
    run_world(4, tmp_path / "half", *extra, "stop.updates=10", resume=str(tmp_path / "half"), order=8)
    whole, half = final_state(tmp_path / "whole"), final_state(tmp_path / "half")
    assert whole["engine"]["rule"]["round"] == half["engine"]["rule"]["round"] == 10
    for name, value in whole["engine"]["optimizer"].items():
        np.testing.assert_array_equal(value, half["engine"]["optimizer"][name], err_msg=name)
    assert summary(tmp_path / "half")["resumed_from"] is not None


def test_deterministic_run_is_independent_of_rank_order(tmp_path):
    for order in (1, 2):
        run_world(4, tmp_path / str(order), "deterministic=true", order=order)
    np.testing.assert_array_equal(final_parameters(tmp_path / "1"), final_parameters(tmp_path / "2"))


def test_checkpoints_do_not_change_a_run(tmp_path):
    run_world(4, tmp_path / "a", "deterministic=true", "stop.updates=9")
    run_world(
        4, tmp_path / "b", "deterministic=true", "stop.updates=9", "checkpoint.every_updates=2", order=5
    )
    np.testing.assert_array_equal(final_parameters(tmp_path / "a"), final_parameters(tmp_path / "b"))
    # A checkpoint that is due while the last one is being written is left out; three are kept.
    assert 2 <= len(list((tmp_path / "b" / "checkpoints").glob("*.h5"))) <= 3


def test_a_checkpoint_of_many_ranks_resumes_on_few(tmp_path):
    run_world(4, tmp_path)
    run_world(2, tmp_path, "stop.updates=9", resume=str(tmp_path))
    told = summary(tmp_path)
    assert (told["updates"], told["ranks"]) == (9, 2)


def test_run_stopped_inside_a_round_resumes(tmp_path):
    run_world(3, tmp_path, "stop={seconds: 0.3}", "rounds.batch=2000")
    assert summary(tmp_path)["updates"] == 0
    run_world(3, tmp_path, "stop.updates=2", resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 2


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(
    "changes", [("rounds.batch=30", "algo.reuse=3"), (*REINFORCE, "rounds.batch=200", "rounds.queue=40")]
)
def test_round_may_exceed_the_trajectories_in_flight(tmp_path, size, changes):
    run_world(size, tmp_path, *changes, "stop.updates=3")
    assert summary(tmp_path)["updates"] == 3


def test_different_seeds_give_different_parameters(tmp_path):
    for seed in (0, 1):
        run_world(1, tmp_path / str(seed), f"seed={seed}", "stop.updates=1")
    assert not np.array_equal(final_parameters(tmp_path / "0"), final_parameters(tmp_path / "1"))


def test_the_two_reductions_agree_on_the_same_data(tmp_path):
    for reduce in ("server", "mpi"):
        run_world(4, tmp_path / reduce, "deterministic=true", f"rounds.reduce={reduce}")
    np.testing.assert_allclose(
        final_parameters(tmp_path / "server"), final_parameters(tmp_path / "mpi"), rtol=1e-4, atol=1e-6
    )


def test_malenia_uses_every_group_despite_a_slow_one(tmp_path):
    groups = "topology.groups=[{}, {delay: {trajectory: 0.05}}]"
    run_world(
        3,
        tmp_path,
        groups,
        "topology.actors_per_learner=0",
        "rounds.rule=malenia",
        "rounds.batch=8",
        "stop.updates=4",
    )
    fast, slow = summary(tmp_path)["trajectories_by_group"]
    assert slow >= 4 * 2
    assert fast > slow


def test_evaluation_runs_during_and_after_training(tmp_path):
    run_world(2, tmp_path, "eval.episodes=3", "eval.every_updates=2")
    told = summary(tmp_path)
    assert told["evaluation"]["episodes"] == 3
    assert told["eval_return_mean"] == pytest.approx(told["evaluation"]["return_mean"])


def test_every_group_environment_is_evaluated(tmp_path):
    groups = "topology.groups=[{}, {env: {kwargs: {local_ratio: 0.0}}}]"
    run_world(
        3,
        tmp_path,
        groups,
        "topology.actors_per_learner=0",
        "rounds.rule=malenia",
        "rounds.batch=4",
        "eval.episodes=2",
    )
    assert len(summary(tmp_path)["evaluation"]["return_by_environment"]) == 2
