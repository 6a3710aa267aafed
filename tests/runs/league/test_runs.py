"""Whole leagues on virtual ranks.

Tests of team sizes, ends, resumptions, dead ranks, damaged files and refused configurations.
"""

import logging
from pathlib import Path

import numpy as np
import pytest

from hpcmarl.errors import ConfigError, FormatError, HpcmarlError
from hpcmarl.evaluation import evaluate_checkpoint
from hpcmarl.io.checkpoint import list_checkpoints
from hpcmarl.io.pool import list_snapshots, read_snapshot
from hpcmarl.league.core.snapshots import snapshots_from
from hpcmarl.league.runtime.client import Client
from hpcmarl.training import MUTED_IN_LEAGUES
from tests.support.leagues import NAMES, RPS, TAG
from tests.support.worlds import final_state, run_world, summary


def league_state(directory, *sides):
    """Return the league state of the newest checkpoint, with snapshots by name and their names in order."""
    state = final_state(directory)["league"]
    snapshots = {
        snapshot.name: snapshot for snapshot in snapshots_from(state["snapshots"], sides or ("player",))
    }
    return {**state, "snapshots": snapshots, "order": list(snapshots)}


@pytest.mark.parametrize(("size", "groups"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 1), (5, 2), (8, 2)])
def test_every_world_size_freezes_every_term_of_every_member(tmp_path, size, groups):
    ranks = run_world(size, tmp_path, f"topology.groups={groups}", text=RPS)
    assert {rank.exit_code for rank in ranks} == {0}
    assert list_snapshots(tmp_path / "pool") == NAMES
    told = summary(tmp_path)
    assert told["status"] == "finished"
    assert told["snapshots"] == 8
    assert {name: (row["updates"], row["terms"]) for name, row in told["members"].items()} == {
        "a": (6, 3),
        "b": (6, 3),
    }
    state = league_state(tmp_path)
    assert sorted(state["order"]) == NAMES
    assert state["payoff"]["games"].sum() == 2 * told["evaluation_games"] > 0
    assert np.array_equal(state["payoff"]["games"], state["payoff"]["games"].T)
    np.testing.assert_allclose(
        state["payoff"]["score"] + state["payoff"]["score"].T, state["payoff"]["games"]
    )
    for name in "ab":
        assert state["members"][name]["version"] == 6
        assert state["members"][name]["against"][:, 1].sum() == told["members"][name]["training_games"] > 0


@pytest.mark.parametrize(
    "path",
    sorted((Path(__file__).parents[3] / "configs" / "league").glob("*.yaml")),
    ids=lambda path: path.stem,
)
def test_shipped_league_configurations_run(tmp_path, path):
    short = ("stop={updates: 2}", "league.evaluation.final_seconds=0.5", "logging.progress=false")
    ranks = run_world(4, tmp_path, *short, text=path.read_text())
    assert {rank.exit_code for rank in ranks} == {0}
    told = summary(tmp_path)
    assert {row["updates"] for row in told["members"].values()} == {2}
    assert told["snapshots"] == 2 * len(told["members"])


def test_snapshots_differ_and_record_member_and_version(tmp_path):
    run_world(3, tmp_path, "topology.groups=2", text=RPS)
    vectors = {name: read_snapshot(tmp_path / "pool" / f"{name}.h5") for name in NAMES}
    assert len({vector.tobytes() for vector, _ in vectors.values()}) == len(NAMES)
    for name, (_, attributes) in vectors.items():
        assert attributes["member"] == name[0]
        assert attributes["version"] == 2 * int(name[-1])
    assert {opponent[0] for opponent in vectors["a-000003"][1]["opponents"]} == {"a", "b"}


def test_asymmetric_sides_play_only_each_other(tmp_path):
    run_world(3, tmp_path, text=TAG)
    state = league_state(tmp_path, "predators", "prey")
    side = np.array([state["snapshots"][name].side == "prey" for name in state["order"]])
    games = state["payoff"]["games"]
    assert games[np.ix_(side, ~side)].sum() > 0
    assert not games[np.ix_(side, side)].any()
    assert not games[np.ix_(~side, ~side)].any()
    for name, own in (("predators", False), ("prey", True)):
        met = state["members"][name]["against"][:, 0]
        assert (side[met] != own).all()


@pytest.mark.parametrize(("before", "after"), [((4, 2), (4, 2)), ((5, 2), (2, 1)), ((1, 1), (4, 2))])
def test_interrupted_league_resumes_on_any_number_of_ranks(tmp_path, before, after):
    changes = ("stop.updates=40", "league.freeze.most_updates=20")
    ranks = run_world(before[0], tmp_path, f"topology.groups={before[1]}", *changes, text=RPS, interrupt=5)
    assert {rank.exit_code for rank in ranks} == {75}
    assert summary(tmp_path)["status"] == "interrupted"
    stood, spent = league_state(tmp_path), summary(tmp_path)["match_seconds"]
    reached = {name: member["version"] for name, member in stood["members"].items()}
    assert sum(reached.values()) < 80
    ranks = run_world(
        after[0], tmp_path, f"topology.groups={after[1]}", *changes, text=RPS, resume=str(tmp_path)
    )
    assert {rank.exit_code for rank in ranks} == {0}
    state, told = league_state(tmp_path), summary(tmp_path)
    assert told["resumed_from"] is not None
    assert told["match_seconds"] > spent
    assert {name: row["updates"] for name, row in told["members"].items()} == {"a": 40, "b": 40}
    assert (
        sorted(state["order"])
        == list_snapshots(tmp_path / "pool")
        == [f"{m}-{term:06d}" for m in "ab" for term in range(3)]
    )
    assert state["order"][: len(stood["order"])] == stood["order"]
    known = len(stood["order"])
    assert (state["payoff"]["games"][:known, :known] >= stood["payoff"]["games"]).all()  # no game is lost


def test_resume_adopts_snapshots_newer_than_the_checkpoint(tmp_path):
    run_world(1, tmp_path, "checkpoint.keep=50", text=RPS)
    newest = list_checkpoints(tmp_path)
    for path in newest[: len(newest) // 2]:
        path.unlink()
    known = league_state(tmp_path)["order"]
    assert len(known) < len(NAMES)
    run_world(1, tmp_path, text=RPS, resume=str(tmp_path))
    state = league_state(tmp_path)
    assert sorted(state["order"]) == list_snapshots(tmp_path / "pool") == NAMES
    assert {name: member["terms"] for name, member in state["members"].items()} == {"a": 3, "b": 3}


def test_damaged_snapshot_is_quarantined_and_league_continues(tmp_path, caplog):
    run_world(1, tmp_path, text=RPS)
    path = tmp_path / "pool" / "a-000002.h5"
    path.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "pool" / "b-000001.h5").unlink()
    ranks = run_world(
        3,
        tmp_path,
        "stop.updates=30",
        "league.freeze.most_updates=12",
        "topology.groups=2",
        text=RPS,
        resume=str(tmp_path),
    )
    assert {rank.exit_code for rank in ranks} == {0}
    assert sorted(summary(tmp_path)["quarantined"]) == ["a-000002", "b-000001"]
    assert "a-000002" in caplog.text
    assert "b-000001.h5: no such file" in caplog.text
    assert (tmp_path / "pool" / "quarantine" / "a-000002.h5").exists()
    state = league_state(tmp_path)
    assert {name: member["version"] for name, member in state["members"].items()} == {"a": 30, "b": 30}


@pytest.mark.parametrize("rank", [1, 4], ids=["leader", "actor"])
def test_a_dead_rank_costs_no_member_its_terms(tmp_path, rank):
    """Kill the leader of the first team (rank 1) or of the second team (rank 4).

    Ranks 1 to 3 are the first team, ranks 4 to 6 the second.
    """
    ranks = run_world(
        7,
        tmp_path,
        "topology.groups=2",
        "stop.updates=20",
        "league.freeze.most_updates=10",
        text=RPS,
        deaths={rank: 3},
    )
    assert ranks[0].exit_code == 0
    told = summary(tmp_path)
    assert [row["rank"] for row in told["lost_ranks"]] == [rank]
    assert {name: (row["updates"], row["terms"]) for name, row in told["members"].items()} == {
        "a": (20, 2),
        "b": (20, 2),
    }


def test_team_continues_after_an_actor_dies(tmp_path):
    ranks = run_world(
        4,
        tmp_path,
        "stop.updates=20",
        "league.freeze.most_updates=10",
        "league.members={a: {}}",
        text=RPS,
        deaths={3: 2},
    )
    assert ranks[0].exit_code == 0
    assert summary(tmp_path)["members"]["a"]["updates"] == 20


def test_team_does_not_wait_for_a_rank_dead_before_start(tmp_path, monkeypatch):
    """Let an actor die before its leader receives the term: the news of the death arrives first."""
    true_work = Client.work

    def work(client):
        if client.context.rank == 1 and client.terms and not client.lost:
            client.context.transport.world.dead.add(3)
            return False
        return true_work(client)

    monkeypatch.setattr(Client, "work", work)
    ranks = run_world(4, tmp_path, "league.members={a: {}}", text=RPS)
    assert ranks[0].exit_code == 0
    assert summary(tmp_path)["members"]["a"]["updates"] == 6
    assert [row["rank"] for row in summary(tmp_path)["lost_ranks"]] == [3]


def test_evaluators_play_all_matches_when_share_is_zero(tmp_path):
    alone = (
        "league.members={a: {}}",
        "league.evaluation.share=0",
        "league.evaluation.final_seconds=0",
        "league.evaluation.episodes=2",
    )
    run_world(4, tmp_path / "with", *alone, "topology.evaluators=1", text=RPS)
    told = summary(tmp_path / "with")
    assert told["roles"] == ["server+evaluator+learner", "actor", "actor", "evaluator"]
    assert told["matches"] > 0
    assert told["members"]["a"]["updates"] == 6
    assert told["match_share"] == 0 < told["match_seconds"]


def test_reported_match_share_follows_the_configured_share(tmp_path):
    shares = {}
    for share in (0.1, 0.6):
        keys = (
            f"league.evaluation.share={share}",
            "league.evaluation.final_seconds=0",
            "stop.updates=150",
            "league.freeze.most_updates=50",
        )
        run_world(3, tmp_path / str(share), *keys, text=RPS)
        told = summary(tmp_path / str(share))
        shares[share] = told["match_share"]
        # match_seconds sums all ranks, which share one process here.
        assert 0 < told["match_seconds"] <= told["seconds"]
    assert 0 < shares[0.1] < shares[0.6] < 0.75


def test_a_league_leaves_the_levels_of_loggers_alone(tmp_path):
    """Check that loggers keep their levels after a league has run.

    Messages of the roles of a term are muted where the logging of a process is set up. Code that runs later
    in this process must not be muted.
    """
    run_world(1, tmp_path, "league.members={a: {}}", text=RPS)
    for name in MUTED_IN_LEAGUES:
        assert logging.getLogger(name).level == logging.NOTSET


def test_league_without_teams_stops_as_interrupted(tmp_path):
    ranks = run_world(4, tmp_path, "stop.updates=2000", text=RPS, deaths={1: 4})
    assert ranks[0].exit_code == 75
    assert summary(tmp_path)["status"] == "interrupted"


def test_last_term_ends_with_the_run(tmp_path):
    run_world(1, tmp_path, "league.members={a: {}}", "league.freeze.most_updates=4", text=RPS)
    state = league_state(tmp_path)
    assert [state["snapshots"][name].updates for name in state["order"]] == [0, 4, 6]


@pytest.mark.parametrize(("least", "terms"), [(0, [0, 1]), (1000, [0])])
def test_unfinished_term_is_frozen_after_enough_updates(tmp_path, least, terms):
    freeze = f"league.freeze={{least_updates: {least}, most_updates: 1000}}"
    run_world(
        1, tmp_path, freeze, "league.members={a: {}}", "stop.updates=null", "stop.env_steps=400", text=RPS
    )
    state = league_state(tmp_path)
    assert [state["snapshots"][name].term for name in state["order"]] == terms
    reached = state["members"]["a"]["version"]
    assert reached > 0
    run_world(
        1,
        tmp_path,
        freeze,
        "league.members={a: {}}",
        "stop.updates=null",
        "stop.env_steps=8000",
        text=RPS,
        resume=str(tmp_path),
    )
    assert league_state(tmp_path)["members"]["a"]["version"] > reached  # no progress is lost


def test_exploiters_are_reset_and_winners_frozen_early(tmp_path):
    # Any score is enough: such a term ends after one update.
    kind = "{name: main_exploiter, reset: 1, freeze: {least_updates: 1, most_updates: 3, winning: 0}}"
    run_world(
        1,
        tmp_path,
        "stop.updates=12",
        f"league.members={{main: {{kind: {{name: main}}}}, exploiter: {{kind: {kind}}}}}",
        text=RPS,
    )
    state = league_state(tmp_path)
    assert state["members"]["exploiter"]["generation"] == state["members"]["exploiter"]["terms"] + 1 > 4
    assert state["members"]["main"]["generation"] == 1
    owners = {state["snapshots"][name].member for name in state["order"]}
    assert owners == {0, 1}


def test_fresh_members_restart_each_term(tmp_path):
    run_world(1, tmp_path, "league.fresh=true", "league.members={a: {}}", text=RPS)
    state = league_state(tmp_path)
    assert state["members"]["a"]["generation"] == 4
    assert [state["snapshots"][name].updates for name in state["order"]] == [0, 2, 4, 6]
    versions = [read_snapshot(tmp_path / "pool" / f"a-{term:06d}.h5")[1]["version"] for term in range(4)]
    assert versions == [0, 2, 2, 2]
    assert sorted(path.name for path in (tmp_path / "members" / "a").iterdir()) == ["0001", "0002", "0003"]


def test_psro_league_completes_the_payoff_before_each_term(tmp_path):
    run_world(
        3, tmp_path, "league.matchmaking={name: psro}", "league.members={a: {}}", "stop.updates=10", text=RPS
    )
    state = league_state(tmp_path)
    # The last snapshot was added at the end of the run.
    games = state["payoff"]["games"][:-1, :-1]
    assert (games[~np.eye(len(games), dtype=bool)] > 0).all()
    assert len(state["order"]) == 6


@pytest.fixture
def start(tmp_path):
    """Train another league; return the path of one of its snapshots."""
    run_world(1, tmp_path / "before", "stop.updates=2", text=RPS)
    return tmp_path / "before" / "pool" / "b-000001.h5"


def frozen(start):
    """Return an override of the members: b keeps its start, a trains.

    Half of the opponents of a are b, the others are a itself.
    """
    return (
        f"league.members={{a: {{matchmaking: {{name: fixed, against: [b], self_share: 0.5}}}}, b: "
        f"{{start: {start}, trains: false}}}}"
    )


def test_non_training_member_stays_fixed_and_is_evaluated(tmp_path, start):
    ranks = run_world(4, tmp_path / "run", frozen(start), text=RPS)
    assert {rank.exit_code for rank in ranks} == {0}
    pool = tmp_path / "run" / "pool"
    assert list_snapshots(pool) == ["a-000000", "a-000001", "a-000002", "a-000003", "b-000000"]
    np.testing.assert_array_equal(read_snapshot(pool / "b-000000.h5")[0], read_snapshot(start)[0])
    told = summary(tmp_path / "run")
    assert (told["members"]["b"]["updates"], told["members"]["b"]["env_steps"]) == (0, 0)
    assert told["members"]["a"]["updates"] == 6
    state = league_state(tmp_path / "run")
    there = state["order"].index("b-000000")
    assert state["members"]["a"]["against"][:, 0].tolist() == [there]
    assert state["payoff"]["games"][there].sum() > 0
    assert not (tmp_path / "run" / "members" / "b").exists()


def test_league_with_a_non_training_member_resumes(tmp_path, start):
    run = tmp_path / "run"
    ranks = run_world(
        2, run, frozen(start), "stop.updates=40", "league.freeze.most_updates=20", text=RPS, interrupt=4
    )
    assert {rank.exit_code for rank in ranks} == {75}
    written = (run / "pool" / "b-000000.h5").read_bytes()
    ranks = run_world(
        1, run, frozen(start), "stop.updates=40", "league.freeze.most_updates=20", text=RPS, resume=str(run)
    )
    assert {rank.exit_code for rank in ranks} == {0}
    assert {name: row["updates"] for name, row in summary(run)["members"].items()} == {"a": 40, "b": 0}
    assert (run / "pool" / "b-000000.h5").read_bytes() == written


def test_unreadable_sole_fixed_opponent_raises(tmp_path, start):
    """Check that the league does not silently turn to self-play."""
    run = tmp_path / "run"
    run_world(1, run, frozen(start), text=RPS)
    (run / "pool" / "b-000000.h5").write_bytes(b"")
    with pytest.raises(HpcmarlError, match=r"opponents can be read|no snapshot of b verifies"):
        run_world(1, run, frozen(start), "stop.updates=40", text=RPS, resume=str(run))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ("{a: {}, b: {trains: false}}", r"league.members.b: trains is false but start is not set"),
        ("{a: {trains: false, start: a.h5}}", r"trains is false for all members"),
        ("{a: {}, b: {trains: false, start: b.h5}}", r"topology.groups: 2 learners for 1 members that train"),
        (
            "{a: {}, b: {matchmaking: {name: fixed, against: [c]}}}",
            r"matchmaking.against names c, which is not a member; allowed: a, b",
        ),
        ("{a: {matchmaking: {name: fixed}}, b: {}}", None),
    ],
)
def test_non_training_members_require_a_start_and_opponents(tmp_path, members, message):
    arguments = (2, tmp_path, "topology.groups=2", f"league.members={members}")
    if message is None:
        assert {rank.exit_code for rank in run_world(*arguments, text=RPS)} == {0}
        return
    with pytest.raises(ConfigError, match=message) as error:
        run_world(*arguments, text=RPS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["league.members={a: {side: x}}"], r"league.members.a.side is x; allowed: player"),
        (["league.own_seats=2"], r"league.own_seats: 2 of 2 agents"),
        (["deterministic=true"], r"deterministic: true does not work with a league"),
        (["rounds.reduce=mpi"], r"rounds.reduce: mpi does not work with a league"),
        (["league.score=return"], r"league.return_range is null"),
        (["league.cooperative=true"], r"league.cooperative: true does not work with league.score: win"),
        (["stop.return_mean=1"], r"stop.return_mean: 1 does not work with a league"),
        (["env.id=gymnasium:CartPole-v1"], r"has one agent"),
    ],
)
def test_invalid_league_settings_raise_one_line_errors(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        run_world(1, tmp_path, *changes, text=RPS)
    assert "\n" not in str(error.value)


def test_more_teams_than_members_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="2 learners for 1 members"):
        run_world(2, tmp_path, "topology.groups=2", "league.members={}", text=RPS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["league.members={p: {side: predators}}"], "no member plays side prey"),
        (
            [
                (
                    "league.members={p: {side: predators}, q: {side: prey, matchmaking: {name: fixed, "
                    "against: [q]}}}"
                )
            ],
            "q plays side prey and has no opponents",
        ),
        (
            ["league.members={p: {side: predator}, q: {side: prey}}"],
            "league.members.p.side is predator; allowed: predators, prey",
        ),
        (["league.members={p: {side: predators}, q: {}}"], "league.members.q.side is None"),
        (["league.sides={all: [predators]}"], "policy prey of mpe2.simple_tag_v3 is on 0 sides"),
        (["league.sides={all: [predators, prey], others: [foxes]}"], "has no policy foxes"),
        (["league.sides={all: [predators, prey]}"], "has one agent|two or more"),
        (
            [
                (
                    'policies={a: {agents: [adversary_0]}, b: {agents: ["adversary_[12]"]}, c: {agents: '
                    '["agent_*"]}}'
                )
            ],
            "put them on two sides",
        ),
    ],
)
def test_inconsistent_sides_and_members_are_rejected(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_world(1, tmp_path, *changes, text=TAG)


def test_league_and_single_run_checkpoints_are_incompatible(tmp_path):
    run_world(1, tmp_path / "league", text=RPS)
    single = RPS.partition("league:")[0]
    run_world(1, tmp_path / "single", text=single)
    with pytest.raises(ConfigError, match="is of a single run"):
        run_world(1, tmp_path / "league", text=RPS, resume=str(tmp_path / "single"))
    with pytest.raises(ConfigError, match="is of a league"):
        run_world(1, tmp_path / "single", text=single, resume=str(tmp_path / "league"))
    with pytest.raises(ConfigError, match="use hpcmarl league match or show"):
        evaluate_checkpoint(str(tmp_path / "league"))
    with pytest.raises(ConfigError, match="a league is resumed in the directory of its pool"):
        run_world(1, tmp_path / "other", text=RPS, resume=str(tmp_path / "league"))
    with pytest.raises(ConfigError, match=r"member b is not in league\.members"):
        run_world(1, tmp_path / "league", "league.members={a: {}}", text=RPS, resume=str(tmp_path / "league"))


def test_invalid_league_state_is_rejected_on_resume(tmp_path):
    from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint

    run_world(1, tmp_path, text=RPS)
    state, attributes = load_checkpoint(find_checkpoint(tmp_path))
    del state["league"]["payoff"]["games"]
    kept = {name: attributes[name] for name in ("config", "env", "rank", "role", "host", "seeds")}
    save_checkpoint(tmp_path / "checkpoints", state, version=10**6, attributes=kept)
    with pytest.raises(FormatError, match="its state is not that of this league"):
        run_world(1, tmp_path, text=RPS, resume=str(tmp_path))
