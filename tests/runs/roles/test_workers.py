"""Workers step the environments of an actor: the same training, other ranks."""

import h5py
import numpy as np
import pytest

from tests.support.worlds import final_parameters, final_state, run_world, summary

ONE_ACTOR = ("topology.actors_per_learner=1", "topology.environments_per_actor=5")
REINFORCE = ("algo.name=reinforce", "rounds.batch=4", "optimizer.name=nigt")
QMIX = ("algo={name: qmix, replay: {learning_starts: 8}}", "rounds.batch=8")
GAMES = {
    "unrolls": (),
    "episodes": REINFORCE,
    "episodes that are abandoned": (*REINFORCE, "rounds.late=cancel", "env.kwargs.max_cycles=25"),
    "recurrent": ("algo.network.body=gru", "env.kwargs.max_cycles=9"),
    "state": QMIX,
    "unequal spaces": ("env.id=mpe2.simple_speaker_listener_v4",),
    "two policies": (
        "env.id=mpe2.simple_adversary_v3",
        "policies={foe: {agents: [adversary_*]}, friend: {agents: [agent_*]}}",
    ),
    "deaths and masks": ('env={id: "tests.support.environments:MaskedCrowd", kwargs: {}}',),
    "masks": ('env={id: "tests.support.environments:Masked", kwargs: {}}',),
    "turns": ('env={id: "tests.support.environments:Duel", kwargs: {}}', "algo.critic=independent"),
    "one agent": ('env={id: "gymnasium:CartPole-v1", max_steps: 20, kwargs: {}}',),
}


def workers(number):
    return f"topology.workers_per_actor={number}"


@pytest.mark.parametrize("game", GAMES)
def test_deterministic_runs_with_and_without_workers_agree(tmp_path, game):
    changes = (*ONE_ACTOR, "deterministic=true", *GAMES[game])
    run_world(2, tmp_path / "fused", *changes)
    run_world(5, tmp_path / "workers", *changes, workers(3), order=4)
    np.testing.assert_array_equal(
        final_parameters(tmp_path / "fused"), final_parameters(tmp_path / "workers")
    )
    fused, by_workers = (summary(tmp_path / name) for name in ("fused", "workers"))
    for key in ("updates", "env_steps", "episodes", "used_trajectories"):
        assert fused.get(key) == by_workers.get(key), key


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("order", [1, 2])
def test_every_kind_of_game_trains_with_workers(tmp_path, game, order):
    run_world(6, tmp_path, *ONE_ACTOR, *GAMES[game], "topology.actors_per_learner=2", workers(1), order=order)
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 6)


@pytest.mark.parametrize("game", ["recurrent", "episodes", "state", "deaths and masks", "turns"])
@pytest.mark.parametrize("then", [0, 2, 5])
def test_deterministic_run_resumes_with_other_workers(tmp_path, game, then):
    changes = (*ONE_ACTOR, "deterministic=true", *GAMES[game])
    run_world(5, tmp_path / "whole", *changes, workers(3), "stop.updates=10")
    run_world(5, tmp_path / "half", *changes, workers(3), "stop.updates=5", order=7)
    half = str(tmp_path / "half")
    run_world(2 + then, tmp_path / "half", *changes, workers(then), "stop.updates=10", resume=half, order=8)
    whole, half = final_state(tmp_path / "whole"), final_state(tmp_path / "half")
    assert whole["engine"]["rule"]["round"] == half["engine"]["rule"]["round"] == 10
    for name, value in whole["engine"]["optimizer"].items():
        np.testing.assert_array_equal(value, half["engine"]["optimizer"][name], err_msg=name)


@pytest.mark.parametrize("game", ["unrolls", "episodes", "state"])
def test_run_resumes_with_another_number_of_workers(tmp_path, game):
    run_world(4, tmp_path, *ONE_ACTOR, *GAMES[game], workers(2))
    run_world(6, tmp_path, *ONE_ACTOR, *GAMES[game], workers(4), "stop.updates=9", resume=str(tmp_path))
    assert summary(tmp_path)["updates"] == 9


@pytest.mark.parametrize("game", ["unrolls", "episodes", "state"])
def test_dead_worker_costs_its_slots_only(tmp_path, game):
    run_world(5, tmp_path, *ONE_ACTOR, *GAMES[game], workers(3), "stop.updates=12", deaths={3: 4}, order=1)
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 12)
    assert [(entry["rank"], entry["roles"]) for entry in told["lost_ranks"]] == [(3, "worker")]


@pytest.mark.parametrize("game", ["unrolls", "episodes", "state", "recurrent", "deaths and masks"])
def test_dead_worker_is_replaced(tmp_path, game):
    changes = (*ONE_ACTOR, *GAMES[game], workers(3), "topology.respawn=true", "trajectories.enabled=true")
    run_world(5, tmp_path, *changes, "stop.updates=30", deaths={3: 4}, order=1)
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 30)
    assert [(entry["rank"], entry["replaced"]) for entry in told["lost_ranks"]] == [(3, True)]
    last, episodes = {}, []
    for path in tmp_path.glob("trajectories/*/*.h5"):
        with h5py.File(path) as file:
            columns = (
                file[f"segments/{name}"][:].tolist() for name in ("version", "worker", "slot", "episode")
            )
            for version, worker, slot, episode in zip(*columns, strict=True):
                last[worker] = max(version, last.get(worker, 0))
                episodes.append((slot, episode))
    assert min(last.values()) > 12  # the new process plays
    if game == "episodes":
        assert len(set(episodes)) == len(episodes)  # none is played twice


def test_all_workers_of_the_only_actor_are_replaced(tmp_path):
    changes = (*ONE_ACTOR, workers(2), "topology.respawn=true", "stop.updates=30")
    run_world(4, tmp_path, *changes, deaths={2: 3, 3: 3})
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 30)
    assert [entry["replaced"] for entry in told["lost_ranks"]] == [True, True]


def test_successor_of_an_actor_steps_its_environments_itself(tmp_path):
    changes = (
        *ONE_ACTOR,
        workers(2),
        "topology.respawn=true",
        "stop.updates=40",
        "trajectories.enabled=true",
    )
    ranks = run_world(4, tmp_path, *changes, deaths={1: 4})
    told = summary(tmp_path)
    assert (told["status"], told["updates"]) == ("finished", 40)
    assert [(entry["rank"], entry["replaced"]) for entry in told["lost_ranks"]] == [(1, True)]
    assert [rank.exit_code for rank in ranks] == [0] * 4


def test_actor_without_workers_is_lost_like_a_dead_one(tmp_path):
    deaths = {rank: 3 for rank in (2, 3)}
    run_world(4, tmp_path, *ONE_ACTOR, workers(2), "stop.updates=12", deaths=deaths)
    assert summary(tmp_path)["status"] == "interrupted"


def test_dead_actor_ends_its_workers(tmp_path):
    changes = ("topology.actors_per_learner=2", "stop.updates=12", workers(2))
    ranks = run_world(7, tmp_path, *changes, deaths={1: 4})
    assert summary(tmp_path)["updates"] == 12
    assert [rank.exit_code for rank in ranks[2:]] == [0] * 5


def test_trajectories_name_the_worker_of_every_slot(tmp_path):
    run_world(5, tmp_path, *ONE_ACTOR, workers(3), "trajectories.enabled=true")
    found = set()
    for path in tmp_path.glob("trajectories/*/*.h5"):
        with h5py.File(path) as file:
            found |= set(
                zip(file["segments/slot"][:].tolist(), file["segments/worker"][:].tolist(), strict=True)
            )
    assert found == {(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)}
