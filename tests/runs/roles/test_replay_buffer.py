"""Replays in whole runs: they learn, resume and repeat to the bit."""

import numpy as np
import pytest

from hpcmarl.io.checkpoint import list_checkpoints, load_checkpoint
from tests.support.worlds import ECHO, final_state, run_world, summary

# ---- whole runs


@pytest.mark.parametrize("name", ["vdn", "wqmix"])
@pytest.mark.parametrize(
    "changes",
    [(), ("rounds.reduce=mpi",), ("rounds.rule=rennala",), ("rounds.rule=malenia",), ("rounds.rule=afedpg",)],
)
def test_replay_ranks_train_and_resume(tmp_path, name, changes):
    changes = (f"algo.name={name}", "topology.groups=2", *changes)
    run_world(5, tmp_path, *changes, text=ECHO)
    assert (summary(tmp_path)["status"], summary(tmp_path)["updates"]) == ("finished", 6)
    held = [
        load_checkpoint(list_checkpoints(tmp_path / "replay" / f"group-000{group}")[0])[0]
        for group in range(2)
    ]
    assert max(state["collected"] for state in held) >= 16
    ranks = run_world(5, tmp_path, *changes, "stop.updates=9", text=ECHO, resume="auto")
    assert summary(tmp_path)["updates"] == 9
    learners = [rank.roles["learner"] for rank in ranks if "learner" in rank.roles]
    assert all(
        learner.rollouts.collected >= state["collected"]
        for learner, state in zip(learners, held, strict=True)
    )


def test_exploration_follows_environment_steps_of_all_actors(tmp_path):
    for updates, resume in ((5, None), (10, "auto")):
        ranks = run_world(
            3, tmp_path, f"stop.updates={updates}", "algo.epsilon_steps=1000", text=ECHO, resume=resume
        )
        actors = [rank.roles["actor"] for rank in ranks if "actor" in rank.roles]
        assert len(actors) == 2
        done = [
            (1.0 - next(iter(actor.algorithm.choosers.values())).epsilon) / 0.95 * 1000 for actor in actors
        ]
        steps = summary(tmp_path)["env_steps"]
        assert max(done) <= steps
        assert min(done) > 0.4 * steps


EXACT = (
    "deterministic=true",
    "algo.network.body=gru",
    "algo.network.memory=8",
    "algo.replay={learning_starts: 6, samples_per_insert: 3, recent: 4}",
)
PRIORITY = (
    "algo.replay.priority={beta_steps: 300}",
    "algo.trace_lambda=0",
    "algo.n_step=2",
    "rounds.reduce=mpi",
)
MORE = (
    "algo.target_every=3",
    "algo.epsilon_steps=150",
    "algo.trace_lambda=0.5",
    "algo.trace_from=60",
    "topology.environments_per_actor=3",
)


@pytest.mark.parametrize(
    "extra",
    [
        (),
        ("rounds.reduce=mpi",),
        ("algo.name=qmix", "algo.target_rate=0.1"),
        ("algo.obs_last_action=true", "algo.network.dueling=true"),
        PRIORITY,
    ],
)
def test_replay_resume_equals_uninterrupted_run(tmp_path, extra):
    extra = (*EXACT, *MORE, *extra)
    run_world(4, tmp_path / "whole", *extra, "stop.updates=12", text=ECHO)
    run_world(4, tmp_path / "half", *extra, "stop.updates=6", text=ECHO, order=7)
    run_world(
        4, tmp_path / "half", *extra, "stop.updates=12", text=ECHO, resume=str(tmp_path / "half"), order=8
    )
    whole, half = final_state(tmp_path / "whole"), final_state(tmp_path / "half")
    for name, value in whole["engine"]["optimizer"].items():
        np.testing.assert_array_equal(value, half["engine"]["optimizer"][name], err_msg=name)
    replays = [
        load_checkpoint(list_checkpoints(tmp_path / run / "replay" / "group-0000")[0])[0]
        for run in ("whole", "half")
    ]
    for name in ("episodes", *(["errors"] if extra[-len(PRIORITY) :] == PRIORITY else [])):
        np.testing.assert_array_equal(replays[0][name], replays[1][name], err_msg=name)


@pytest.mark.parametrize("extra", [("algo.name=maddpg", "algo.n_step=2"), ("algo.name=masac",)])
def test_replay_of_steps_resumes_as_if_uninterrupted(tmp_path, extra):
    extra = (*extra, "deterministic=true", "algo.replay={learning_starts: 6, samples_per_insert: 3}")
    run_world(4, tmp_path / "whole", *extra, "stop.updates=12", text=ECHO)
    run_world(4, tmp_path / "half", *extra, "stop.updates=6", text=ECHO, order=7)
    run_world(4, tmp_path / "half", *extra, "stop.updates=12", text=ECHO, resume=str(tmp_path / "half"))
    whole, half = (final_state(tmp_path / run)["engine"]["optimizer"] for run in ("whole", "half"))
    np.testing.assert_array_equal(whole["parameters"], half["parameters"])


@pytest.mark.parametrize("changes", [(), ("rounds.reduce=mpi",), ("rounds.rule=rennala",)])
def test_groups_learn_from_steps_of_their_replays(tmp_path, changes):
    ranks = run_world(5, tmp_path, "algo.name=maddpg", "topology.groups=2", *changes, text=ECHO)
    assert (summary(tmp_path)["status"], summary(tmp_path)["updates"]) == ("finished", 6)
    learners = [rank.roles["learner"].rollouts for rank in ranks if "learner" in rank.roles]
    assert all(replay.inserted >= 2 * replay.collected > 0 for replay in learners)


def test_checkpoints_do_not_change_a_replay_run(tmp_path):
    for run, extra in (("a", ()), ("b", ("checkpoint.every_updates=3",))):
        run_world(3, tmp_path / run, *EXACT, *MORE, *extra, "stop.updates=8", text=ECHO, order=len(extra))
    first, second = (final_state(tmp_path / run)["engine"]["optimizer"]["parameters"] for run in "ab")
    np.testing.assert_array_equal(first, second)
    versions = [
        [path.name for path in list_checkpoints(tmp_path / "b" / place)]
        for place in ("replay/group-0000", "checkpoints")
    ]
    # Of several states that wait to be written, only the newest is. Older files may differ.
    assert versions[0][0] == versions[1][0]


def test_checkpoint_resumes_without_its_replay(tmp_path, caplog):
    run_world(4, tmp_path, "algo.replay.save=never", text=ECHO)
    assert not (tmp_path / "replay").exists()
    run_world(2, tmp_path, "stop.updates=9", text=ECHO, resume="auto")
    assert (summary(tmp_path)["updates"], summary(tmp_path)["ranks"]) == (9, 2)
    assert "the buffer starts empty" in caplog.text
