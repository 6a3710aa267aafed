"""Leagues whose teams have workers."""

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.algos import make_model
from hpcmarl.comm.protocol import Kind
from hpcmarl.io.pool import Pool, list_snapshots, write_snapshot
from hpcmarl.league.runtime.client import Client
from hpcmarl.league.runtime.opponent_env import OpponentEnv, Sides, side_of
from hpcmarl.league.runtime.opponents import Opponents
from hpcmarl.training import prepare
from tests.support import worlds
from tests.support.leagues import NAMES, RPS, TAG
from tests.support.worlds import final_parameters, final_state, run_world, summary


def workers(number):
    return f"topology.workers_per_actor={number}"


@pytest.mark.parametrize(("size", "groups", "number"), [(4, 1, 3), (6, 1, 2), (7, 2, 2), (9, 2, 3)])
def test_teams_with_workers_freeze_every_term(tmp_path, size, groups, number):
    changes = (f"topology.groups={groups}", workers(number))
    ranks = run_world(size, tmp_path, *changes, "topology.environments_per_actor=6", text=RPS)
    assert {rank.exit_code for rank in ranks} == {0}
    assert list_snapshots(tmp_path / "pool") == NAMES
    told = summary(tmp_path)
    assert told["snapshots"] == 8
    assert {name: (row["updates"], row["terms"]) for name, row in told["members"].items()} == {
        "a": (6, 3),
        "b": (6, 3),
    }
    assert all(row["training_games"] > 0 for row in told["members"].values())


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[3] / "configs" / "league").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_shipped_leagues_run_with_workers(tmp_path, path):
    short = ("stop={updates: 2}", "league.evaluation.final_seconds=0.5", "logging.progress=false")
    ranks = run_world(5, tmp_path, *short, workers(2), text=path.read_text())
    assert {rank.exit_code for rank in ranks} == {0}
    told = summary(tmp_path)
    assert {row["updates"] for row in told["members"].values()} == {2}


def test_sides_with_different_policies_train_with_workers(tmp_path):
    ranks = run_world(6, tmp_path, workers(2), text=TAG)
    assert {rank.exit_code for rank in ranks} == {0}
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize("victim", [2, 4])
def test_team_continues_without_a_dead_worker(tmp_path, victim):
    changes = (workers(3), "topology.environments_per_actor=6")
    run_world(6, tmp_path, *changes, text=RPS, deaths={victim + 1: 6})
    told = summary(tmp_path)
    assert told["status"] == "finished"
    assert [entry["rank"] for entry in told["lost_ranks"]] == [victim + 1]
    assert {row["updates"] for row in told["members"].values()} == {6}


@pytest.mark.parametrize("victim", [2, 5], ids=["first actor", "second actor"])
def test_dead_actor_of_a_team_ends_its_workers(tmp_path, victim):
    changes = (workers(2), "topology.environments_per_actor=4", "stop.updates=12", "league.members={a: {}}")
    ranks = run_world(8, tmp_path, *changes, text=RPS, deaths={victim: 3})
    told = summary(tmp_path)
    assert told["roles"][2:] == ["actor", "worker", "worker"] * 2
    assert [entry["rank"] for entry in told["lost_ranks"]] == [victim]
    assert told["members"]["a"]["updates"] == 12
    assert {rank.exit_code for rank in ranks if rank.context.rank != victim} == {0}


def test_actor_without_workers_steps_itself_in_its_next_team(tmp_path):
    changes = (workers(2), "topology.environments_per_actor=4", "stop.updates=12", "league.members={a: {}}")
    ranks = run_world(8, tmp_path, *changes, text=RPS, deaths={3: 3, 4: 3})
    told = summary(tmp_path)
    assert sorted(entry["rank"] for entry in told["lost_ranks"]) == [3, 4]
    assert told["members"]["a"]["updates"] == 12
    assert {rank.exit_code for rank in ranks if rank.context.rank not in (3, 4)} == {0}


def test_group_stops_with_all_workers_of_its_only_actor(tmp_path):
    deaths = {rank: 4 for rank in (3, 4)}
    ranks = run_world(5, tmp_path, workers(2), "stop.updates=2000", text=RPS, deaths=deaths)
    assert ranks[0].exit_code == 75
    assert summary(tmp_path)["status"] == "interrupted"


def test_league_resumes_with_another_number_of_workers(tmp_path):
    changes = ("stop.updates=40", "league.freeze.most_updates=20", "topology.environments_per_actor=6")
    run_world(5, tmp_path, *changes, workers(2), text=RPS, interrupt=5)
    assert summary(tmp_path)["status"] == "interrupted"
    run_world(7, tmp_path, *changes, workers(4), text=RPS, resume=str(tmp_path))
    assert {row["updates"] for row in summary(tmp_path)["members"].values()} == {40}


# ---- ends of assignments


def test_worker_that_begins_after_the_end_of_its_team_leaves(tmp_path, monkeypatch):
    """Hold one of two workers back until the other ranks have ended the assignment and its memory."""
    true_work, late = Client.work, []

    def work(client):
        held = client.context.rank == 3 and not late and client.team is None
        if held and not any(message.kind is Kind.EXIT for message in client.early):
            return False
        if held:
            late.append(client.terms[0].team)
        return true_work(client)

    monkeypatch.setattr(Client, "work", work)
    ranks = run_world(4, tmp_path, workers(2), "stop.updates=4", text=RPS)
    assert late == [1]
    assert {rank.exit_code for rank in ranks} == {0}
    assert {row["updates"] for row in summary(tmp_path)["members"].values()} == {4}


def mapped():
    """Return the shared segments that this process maps, by inode."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "/dev/shm" in line}


def test_memory_of_an_assignment_is_freed_before_the_next(tmp_path, monkeypatch):
    true_begin, found = Client._begin, []

    def begin(client, assignment):
        if client.context.topology.workers_of(client.context.rank):
            found.append(len(mapped()))
        true_begin(client, assignment)

    monkeypatch.setattr(Client, "_begin", begin)
    gc.collect()  # memory of earlier tests that only a cycle of references holds
    before = len(mapped())
    run_world(5, tmp_path, workers(2), "stop.updates=8", text=RPS)
    assert len(found) == 8
    assert set(found) == {before}


# ---- sleep


def test_actor_of_a_team_that_sleeps_is_woken_by_its_workers(tmp_path, monkeypatch):
    seen = []
    true_step = Client.work

    def work(client):
        busy = true_step(client)
        role = client.team.rank.roles.get("actor") if client.team is not None else None
        if role is not None and any(lane.in_flight for lane in role.lanes):
            exchange, waited = role.environments._exchange, role.waited
            if client.may_rest():
                asleep = bool(exchange._values[exchange._actor_at])
                client.waited += 0.5
                client.on_rested()
                awake = not exchange._values[exchange._actor_at]
                seen.append((asleep, awake, role.waited - waited))
        return busy

    monkeypatch.setattr(Client, "work", work)
    run_world(4, tmp_path, workers(2), "league.members={a: {}}", text=RPS)
    assert set(seen) == {(True, True, 0.5)}


# ---- the same actions with and without workers, for a fixed mixture of opponents

GAMES = {
    "turns": ({"id": "pettingzoo.classic.tictactoe_v3"}, {}, Sides(("player",), ("player",))),
    "seats": (
        {"id": "mpe2.simple_spread_v3", "kwargs": {"max_cycles": 5}},
        {},
        Sides(("agent",), ("agent",), own_seats=2),
    ),
    "predators": (
        {"id": "mpe2.simple_tag_v3", "kwargs": {"max_cycles": 5}},
        {"predators": {"agents": ["adversary_*"]}, "prey": {"agents": ["agent_*"]}},
        Sides(("predators",), ("prey",)),
    ),
    "prey": (
        {"id": "mpe2.simple_tag_v3", "kwargs": {"max_cycles": 5}},
        {"predators": {"agents": ["adversary_*"]}, "prey": {"agents": ["agent_*"]}},
        Sides(("prey",), ("predators",)),
    ),
}
ALGORITHMS = {
    "unrolls": ("algo={name: ma_trace, critic: independent, unroll: 6, network: {hidden: [8]}}",),
    "recurrent": (
        "algo={name: ma_trace, critic: independent, unroll: 6, network: {hidden: [8], body: gru}}",
    ),
    "episodes": ("algo={name: reinforce, network: {hidden: [8]}}", "rounds.batch=4"),
    "replay": (
        "algo={name: iql, replay: {learning_starts: 8}, network: {hidden: [8], body: mlp}}",
        "rounds.batch=8",
    ),
}
PLAIN = """
deterministic: true
topology: {environments_per_actor: 5, actors_per_learner: 1}
trajectories: {enabled: false}
eval: {episodes: 0}
stop: {updates: 6}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""


def with_opponents(pool, sides, record):
    """Return a `prepare` whose runs play one side of the game against snapshots of a pool."""

    def prepared(*arguments):
        context = prepare(*arguments)
        config, whole = context.config, context.spec
        theirs = side_of(whole, sides.other)
        opponents = Opponents(
            Pool(pool, 4), lambda: make_model(theirs, config.algo, 0), np.random.default_rng(0), 2, 2
        )
        names = ["other-000001", "other-000002"]
        for seed, name in enumerate(names, 1):
            if name not in list_snapshots(pool):
                write_snapshot(pool, name, make_model(theirs, config.algo, seed).initial_parameters(), {})
        share = 0.25 if sides.symmetric else 0.0
        opponents.change(names, np.full(2, (1.0 - share) / 2), share)
        generator = np.random.default_rng(1)
        record.append(opponents)
        return replace(
            context,
            spec=side_of(whole, sides.own),
            whole=whole,
            game=lambda environment: OpponentEnv(
                environment, sides, opponents, lambda own, other: float(own > other), generator
            ),
        )

    return prepared


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("game", GAMES)
def test_opponents_play_the_same_with_and_without_workers(tmp_path, monkeypatch, game, algorithm):
    env, policies, sides = GAMES[game]
    keys = (f"env={env}", f"policies={policies}", *ALGORITHMS[algorithm])
    (tmp_path / "pool").mkdir()
    played = {}
    for name, size, number in (("fused", 2, 0), ("workers", 5, 3)):
        record = []
        monkeypatch.setattr(worlds, "prepare", with_opponents(tmp_path / "pool", sides, record))
        run_world(size, tmp_path / name, *keys, workers(number), text=PLAIN)
        played[name] = {who: own.row() for who, own in record[1].played.items()}
    assert len(played["fused"]) == 2
    assert played["fused"] == played["workers"]
    np.testing.assert_array_equal(
        final_parameters(tmp_path / "fused"), final_parameters(tmp_path / "workers")
    )


@pytest.mark.parametrize("game", ["turns", "seats"])
def test_runs_against_opponents_resume_with_other_workers(tmp_path, monkeypatch, game):
    env, policies, sides = GAMES[game]
    keys = (f"env={env}", f"policies={policies}", *ALGORITHMS["recurrent"])
    (tmp_path / "pool").mkdir()
    found = []
    for name, first, then in (("fused", 0, 0), ("workers", 3, 2), ("fewer", 0, 5)):
        for number, updates in ((first, 4), (then, 8)):
            monkeypatch.setattr(worlds, "prepare", with_opponents(tmp_path / "pool", sides, []))
            resume = str(tmp_path / name) if updates == 8 else None
            until = f"stop.updates={updates}"
            run_world(2 + number, tmp_path / name, *keys, workers(number), until, text=PLAIN, resume=resume)
        assert final_state(tmp_path / name)["engine"]["rule"]["round"] == 8
        found.append(final_parameters(tmp_path / name))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
