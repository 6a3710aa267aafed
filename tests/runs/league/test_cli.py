"""`hpcmarl league`: output, JSON and errors for small leagues trained here.

Some players of the matches are not snapshots.
"""

import csv
import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from hpcmarl.config.file import load_config
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from hpcmarl.io.pool import list_snapshots, read_snapshot, snapshot_path
from hpcmarl.league.commands.exploitability import exploitability
from hpcmarl.league.commands.match import play_match
from hpcmarl.league.commands.reader import read_league
from hpcmarl.league.core.registry import KINDS, MATCHMAKERS, STRATEGIES
from hpcmarl.league.core.summary import summarise
from hpcmarl.training import train
from tests.support.leagues import COMMON, NAMED_RPS, PENNIES

ROOT = Path(__file__).parents[3]
HUNT = NAMED_RPS.replace("matrix:rps", "matrix:stag_hunt").replace(
    "league:", "league:\n  cooperative: true\n  score: return\n  return_range: [0, 4]"
)
TICTACTOE = f"""
name: tictactoe
env: {{id: pettingzoo.classic.tictactoe_v3}}
algo: {{name: ma_trace, unroll: 4, critic: independent, network: {{hidden: [8]}}}}
stop: {{updates: 1}}
league:
  evaluation: {{episodes: 4, environments: 4, final_seconds: 0.0}}
  freeze: {{most_updates: 1, winning: 1.0}}
{COMMON}"""
CONTRACT = {
    "members",
    "ratings",
    "payoff",
    "games",
    "exploitability",
    "snapshots",
    "alpha_rank",
    "openskill",
    "trained_against",
}


def trained(text, directory):
    assert train(load_config(text), str(directory), None) == 0
    return directory


@pytest.fixture(scope="module")
def rps(tmp_path_factory):
    return trained(NAMED_RPS, tmp_path_factory.mktemp("leagues") / "rps")


@pytest.fixture(scope="module")
def pennies(tmp_path_factory):
    return trained(PENNIES, tmp_path_factory.mktemp("leagues") / "pennies")


@pytest.fixture(scope="module")
def tictactoe(tmp_path_factory):
    return trained(TICTACTOE, tmp_path_factory.mktemp("leagues") / "tictactoe")


# ---- show


def test_league_show_matches_the_checkpoint(rps, run_json):
    shown = run_json("league", "show", rps)
    assert set(shown) >= CONTRACT
    state, _ = load_checkpoint(find_checkpoint(rps))
    league = state["league"]
    assert " ".join(each["name"] for each in shown["snapshots"]) == league["snapshots"]["names"]
    assert len(shown["snapshots"]) == 8
    assert shown["games"] == league["payoff"]["games"].tolist()
    for row, scores in enumerate(shown["payoff"]):
        for column, score in enumerate(scores):
            games = league["payoff"]["games"][row, column]
            assert score == (
                None if games == 0 else pytest.approx(league["payoff"]["score"][row, column] / games)
            )
    main, other = shown["members"]
    assert (main["name"], main["matchmaking"], main["updates"], main["newest"]) == (
        "main",
        "pfsp",
        6,
        "main-000003",
    )
    assert other["training_games"] == 0  # its only opponent was itself
    assert sum(met["games"] for met in shown["trained_against"]["main"]) == main["training_games"] > 0
    assert set(shown["reasons"]) <= {"openskill"}


def test_ratings_lie_within_their_intervals(rps, run_json):
    shown = run_json("league", "show", rps)
    assert sum(each["rating_elo"] for each in shown["ratings"]) == pytest.approx(0, abs=1e-6)
    for number, each in enumerate(shown["ratings"]):
        assert each["rating_elo_low"] < each["rating_elo"] < each["rating_elo_high"]
        met = [
            score
            for column, score in enumerate(shown["payoff"][number])
            if score is not None and column != number
        ]
        assert each["mean_score"] == pytest.approx(np.mean(met))
    newest = next(each for each in shown["ratings"] if each["snapshot"] == "main-000003")
    assert shown["members"][0]["rating_elo"] == newest["rating_elo"]


def test_snapshot_exploitability_matches_its_action_table(rps, run_json):
    shown = run_json("league", "show", rps)["exploitability"]
    league = read_league(str(rps))
    payoff = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    for member in shown["members"]:
        (name,) = member["snapshots"]
        algorithm = league.algorithm("player")
        algorithm.load_parameters(read_snapshot(snapshot_path(rps / "pool", name))[0])
        action_probs = algorithm.action_probs("player", np.ones((1, 1), np.float32), None)[0]
        assert member["exploitability"] == pytest.approx((payoff @ action_probs).max(), abs=1e-6)
        assert member["share_of_range"] == pytest.approx(member["exploitability"] / 2)
    assert shown["game_range"] == 2
    assert shown["nash"]["exploitability"] >= 0


def test_uniform_mixture_averages_the_snapshot_policies(rps):
    league = read_league(str(rps))
    found, reason = exploitability(league, None)
    assert (reason, found["nash"]) == ("", None)
    assert found["reasons"] == {"nash": "the payoffs were not solved"}
    algorithm = league.algorithm("player")
    every = []
    for name in list_snapshots(rps / "pool"):
        algorithm.load_parameters(league.pool.parameters(name, algorithm.size))
        every.append(algorithm.action_probs("player", np.ones((1, 1), np.float32), None)[0])
    payoff = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    assert found["uniform"]["exploitability"] == pytest.approx((payoff @ np.mean(every, 0)).max(), abs=1e-6)


def test_only_opposite_sides_have_payoffs(pennies, run_json, run):
    shown = run_json("league", "show", pennies)
    side = [each["side"] for each in shown["snapshots"]]
    for row, scores in enumerate(shown["payoff"]):
        assert all(score is None for column, score in enumerate(scores) if side[row] == side[column])
    assert any(score is not None for scores in shown["payoff"] for score in scores)
    for name in ("nash", "alpha_rank"):
        for own in ("row", "column"):
            assert sum(
                share for share, of in zip(shown[name], side, strict=True) if of == own
            ) == pytest.approx(1)
    (pair,) = shown["exploitability"]["members"]
    assert pair["snapshots"] == ["row-000002", "column-000002"]
    code, out, _ = run("league", "show", pennies)
    assert code == 0
    heading = next(line for line in out.splitlines() if line.split()[:1] == ["column-000000"])
    assert heading.split() == ["column-000000", "column-000001", "column-000002"]


def test_league_show_prints_every_section(rps, run):
    code, out, err = run("league", "show", rps)
    assert (code, err) == (0, "")
    for part in (
        "members, by their newest",
        "payoff: mean score",
        "trained against",
        "exploitability, exact",
        "itself only",
        "main-000003",
    ):
        assert part in out
    assert "showing" not in out


def test_large_pools_print_newest_and_highest_rated_snapshots(rps, run, monkeypatch):
    monkeypatch.setattr("hpcmarl.cli.league_show.MOST_SHOWN", 3)
    _, out, _ = run("league", "show", rps)
    assert (
        "showing 3 of 8 rows and 3 of 8 columns, the newest of each member and the highest rated; --json "
        "has all"
    ) in out
    rows = [
        line.split()[1] for line in out.splitlines() if line.startswith(("1 ", "2 ", "3 ")) and "-0" in line
    ]
    assert len(rows) == 3
    assert {"main-000003", "other-000003"} < set(rows)


def test_bad_newest_checkpoint_is_skipped_and_not_moved(rps, tmp_path, run_json):
    copy = shutil.copytree(rps, tmp_path / "copy")
    newest = find_checkpoint(copy)
    save_checkpoint(
        copy / "checkpoints",
        load_checkpoint(newest)[0],
        version=999999,
        attributes=load_checkpoint(newest)[1],
    )
    broken = copy / "checkpoints" / "checkpoint-0000999999.h5"
    broken.write_bytes(broken.read_bytes()[:-100])
    snapshot = snapshot_path(copy / "pool", "main-000003")
    snapshot.write_bytes(b"nothing")
    shown = run_json("league", "show", copy)
    assert shown["checkpoint"] == str(newest)
    assert shown["exploitability"]["left_out"] == ["main-000003"]
    assert shown["exploitability"]["reasons"]["main"] == "its newest snapshot cannot be read"
    assert snapshot.exists()


def test_large_games_and_recurrent_nets_lack_exploitability(tictactoe, rps, run_json, tmp_path, run):
    shown = run_json("league", "show", tictactoe)
    assert shown["exploitability"] is None
    assert "neither a matrix game" in shown["reasons"]["exploitability"]
    recurrent = trained(
        NAMED_RPS.replace("hidden: [8]", "hidden: [8], body: gru, memory: 4").replace(
            "updates: 6", "updates: 2"
        ),
        tmp_path / "gru",
    )
    code, out, _ = run("league", "show", recurrent)
    assert code == 0
    assert "no exploitability: policy player: a recurrent policy acts by its memory" in out


def test_a_cooperative_league_has_payoffs_and_no_ratings(tmp_path, run_json):
    shown = run_json("league", "show", trained(HUNT, tmp_path / "hunt"))
    assert shown["ratings"] is None
    assert {"ratings", "nash", "alpha_rank", "exploitability"} <= set(shown["reasons"])
    assert any(score is not None for scores in shown["payoff"] for score in scores)


# ---- match


def test_match_score_counts_draws_as_half_a_win(rps, run_json):
    found = run_json("league", "match", rps, "main", "other-000000", "--episodes", 50, "--seed", 3)
    assert (found["row"], found["column"], found["episodes"], found["seed"]) == (
        "main-000003",
        "other-000000",
        50,
        3,
    )
    assert found["wins"] + found["draws"] + found["losses"] == 50
    assert found["score"] == pytest.approx((found["wins"] + found["draws"] / 2) / 50)
    assert found["score_low"] < found["score"] < found["score_high"]
    assert found["row_return_mean"] == pytest.approx((found["wins"] - found["losses"]) / 50)
    assert found["column_return_mean"] == pytest.approx(-found["row_return_mean"])
    assert run_json("league", "match", rps, "main", "other-000000", "--episodes", 50, "--seed", 3) == found


def test_greedy_match_has_one_repeated_outcome(rps, run_json):
    found = run_json("league", "match", rps, "main", "other", "--episodes", 12, "--greedy")
    assert 12 in (found["wins"], found["draws"], found["losses"])
    assert found["greedy"] is True


def test_random_players_choose_actions_uniformly(rps, run_json):
    found = run_json("league", "match", rps, "random", "random", "--episodes", 3000)
    assert abs(found["score"] - 0.5) < 4 * np.sqrt(1 / 6 / 3000)  # the variance of a score is 1/6
    assert abs(found["draws"] / 3000 - 1 / 3) < 4 * np.sqrt(2 / 9 / 3000)


def test_random_player_takes_the_remaining_side(pennies):
    league = read_league(str(pennies))
    assert play_match(league, "random", "row", 4)["side"] == "column"
    assert play_match(league, "row", "random", 4)["side"] == "row"
    assert play_match(league, "column-000001", "row", 4)["side"] == "column"


@pytest.mark.timeout(60)
def test_searching_opponents_beat_random_ones(tictactoe, run_json, run):
    found = run_json("league", "match", tictactoe, "search:3", "random", "--episodes", 40)
    assert found["score"] > 0.8
    assert run_json("league", "match", tictactoe, "player", "search:1", "--episodes", 8)["episodes"] == 8
    code, _, err = run("league", "match", tictactoe, "search:x", "random")
    assert code == 2
    assert (
        err.splitlines()[-1] == "error: search:x: the depth of a search is a number of plies, as in search:3"
    )


def test_snapshot_addressed_by_league_plays_identically(rps, run_json, tmp_path):
    home = run_json("league", "match", rps, "main", "other", "--episodes", 40)
    away = run_json("league", "match", rps, "main", f"other@{rps}", "--episodes", 40)
    assert away["column"] == f"other-000003@{rps}"
    assert {**away, "column": home["column"]} == home
    wider = trained(NAMED_RPS.replace("[8]", "[5, 5]"), tmp_path / "wider")  # another network
    assert (
        run_json("league", "match", rps, f"main@{wider}", f"main-000000@{wider}", "--episodes", 4)["episodes"]
        == 4
    )


def test_tournament_plays_every_pair_of_entrants(rps, run_json, run):
    names = ["main", "other-000000", f"other@{rps}", "random"]
    found = run_json("league", "tournament", rps, *names, "--episodes", 30, "--seed", 3)
    assert [each["entrant"] for each in found["entrants"]] == [
        "main-000003",
        "other-000000",
        f"other-000003@{rps}",
        "random",
    ]
    score, games = np.array(found["score"], float), np.array(found["games"])
    off = ~np.eye(4, dtype=bool)
    assert (games == 30 * off).all()
    np.testing.assert_allclose((score + score.T)[off], 1.0)
    assert (
        score[0, 1]
        == run_json("league", "match", rps, "main", "other-000000", "--episodes", 30, "--seed", 3)["score"]
    )
    for each, own in zip(found["entrants"], score, strict=True):
        assert each["mean_score"] == pytest.approx(np.nanmean(own))
        assert each["rating_elo_low"] < each["rating_elo"] < each["rating_elo_high"]
        assert each["games"] == 90
    np.testing.assert_allclose(np.array(found["mean_return"], float)[off], 2 * score[off] - 1, atol=1e-12)
    code, out, _ = run("league", "tournament", rps, *names, "--episodes", 4)
    assert code == 0
    assert sorted(line.split()[1] for line in out.splitlines()[1:5]) == sorted(
        each["entrant"] for each in found["entrants"]
    )


def test_two_sided_tournament_pairs_opposite_sides_only(pennies, run_json):
    found = run_json(
        "league", "tournament", pennies, "row", "column", "column-000000", "random", "--episodes", 4
    )
    assert (np.array(found["games"]) > 0).tolist() == [
        [False, True, True, True],
        [True, False, False, True],
        [True, False, False, True],
        [True, True, True, False],
    ]


def test_cooperative_tournament_has_no_ratings(tmp_path, run_json):
    found = run_json(
        "league", "tournament", trained(HUNT, tmp_path / "hunt"), "main", "other", "--episodes", 4
    )
    assert found["score"][0][1] == found["score"][1][0] is not None
    assert [each["rating_elo"] for each in found["entrants"]] == [None, None]


def test_match_output_names_players_and_episodes(rps, run):
    code, out, _ = run("league", "match", rps, "main", "random", "--episodes", 8)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "main-000003 against random, 8 episodes, seed 1000003, sampled"
    assert lines[1].startswith("score of main-000003: 0.")
    assert [line.split()[0] for line in lines[4:]] == ["main-000003", "random"]


# ---- export


def test_exported_parameters_reproduce_the_policy(rps, run_json, tmp_path):
    out = tmp_path / "main.npz"
    result = run_json("league", "export", rps, "--member", "main", "--out", out)
    assert result["parameters"]["path"] == str(out)
    about = json.loads((tmp_path / "main.json").read_text())
    policy = about["policies"]["player"]
    assert (about["format"], about["snapshot"], policy["outputs"]) == (
        "hpcmarl-policy",
        "main-000003",
        "logits",
    )
    with np.load(out) as arrays:
        assert {name: list(arrays[name].shape) for name in arrays.files} == about["parameters"]
        hidden = np.ones((1, 1), np.float32)
        for stage in policy["stages"]:
            hidden = hidden @ arrays[stage["weight"]].T + arrays[stage["bias"]]
            hidden = np.tanh(hidden) if stage["activation"] == "tanh" else hidden
        whole = np.concatenate([arrays[name].ravel() for name in about["parameters"]])
    action_probs = np.exp(hidden) / np.exp(hidden).sum()
    league = read_league(str(rps))
    algorithm = league.algorithm("player")
    vector = read_snapshot(snapshot_path(rps / "pool", "main-000003"))[0]
    algorithm.load_parameters(vector)
    np.testing.assert_array_equal(whole, vector)
    np.testing.assert_allclose(
        action_probs, algorithm.action_probs("player", np.ones((1, 1), np.float32), None), rtol=1e-5
    )


def test_the_payoff_table_has_every_pair_that_played(rps, run_json, tmp_path):
    out = tmp_path / "payoff.csv"
    result = run_json("league", "export", rps, "--table", out)
    shown = run_json("league", "show", rps)
    names = [each["name"] for each in shown["snapshots"]]
    with out.open() as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == ["row", "column", "games", "mean_score", "mean_return"]
    assert (
        len(lines)
        == result["table"]["pairs"]
        == sum(count > 0 for counts in shown["games"] for count in counts)
    )
    for line in lines:
        row, column = names.index(line["row"]), names.index(line["column"])
        assert int(line["games"]) == shown["games"][row][column]
        assert float(line["mean_score"]) == pytest.approx(shown["payoff"][row][column])
        assert float(line["mean_return"]) == pytest.approx(2 * float(line["mean_score"]) - 1)


# ---- help and lists


@pytest.mark.parametrize("command", ["show", "match", "tournament", "export"])
def test_every_command_has_help_with_an_example(command, run):
    code, out, _ = run("league", command, "--help")
    assert code == 0
    assert f"hpcmarl league {command} runs/" in out


def test_list_names_all_matchmakers_and_evaluations(run_json):
    listed = run_json("list", "matchmakers")["matchmakers"]
    assert [each["name"] for each in listed] == [*MATCHMAKERS, *KINDS]
    assert [each["name"] for each in run_json("list", "evaluations")["evaluations"]] == list(STRATEGIES)


def test_league_show_writes_plots(rps, run_json, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra analysis)")
    written = run_json("league", "show", rps, "--plots", tmp_path / "pictures")["plots"]
    assert sorted(written) == sorted(map(str, (tmp_path / "pictures").iterdir()))
    assert len(written) == 3


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("show", "NOWHERE"), 2, "no such file or directory; allowed: a league's run directory"),
        (("show", "EMPTY"), 1, "no checkpoint in it verifies"),
        (("show", "SINGLE"), 2, "a run without a league; evaluate its policies with `hpcmarl eval"),
        (("match", "RPS", "mian", "other"), 2, "mian: RPS has no such snapshot or member; nearest: main"),
        (
            ("match", "RPS", "main", "xyz"),
            2,
            (
                "xyz: RPS has no such snapshot or member; allowed: main, other, random, and snapshots of "
                "these members"
            ),
        ),
        (("match", "RPS", "main", "search:1"), 2, "env.id matrix:rps has no searching opponent; allowed: "),
        (("match", "RPS", "main-00003", "other"), 2, "nearest: main-000003"),
        (
            ("match", "PENNIES", "row", "row-000000"),
            2,
            "row and row-000000 both play side row of matrix:matching_pennies; for one of them name a",
        ),
        (
            ("match", "RPS", "main", "row@PENNIES"),
            2,
            "row@PENNIES plays matrix:matching_pennies with row (player_0; observations 1, discrete",
        ),
        (("match", "RPS", "main", "main@NOWHERE"), 2, "NOWHERE: no such file or directory"),
        (("tournament", "RPS", "main"), 2, "a tournament needs two or more players; given: main"),
        (
            ("tournament", "RPS", "main", "main-000003", "other"),
            2,
            "main and main-000003 are the same player; name each once",
        ),
        (
            ("tournament", "PENNIES", "row", "row-000000"),
            2,
            "all of row, row-000000 play side row of matrix:matching_pennies; name players of both",
        ),
        (("export", "RPS"), 2, "league export needs --member NAME or --snapshot NAME with --out FILE.npz"),
        (("export", "RPS", "--member", "main"), 2, "league export needs"),
        (
            ("export", "RPS", "--member", "main", "--snapshot", "main-000001", "--out", "a.npz"),
            2,
            "league export needs",
        ),
        (
            ("export", "RPS", "--member", "main-000001", "--out", "a.npz"),
            2,
            "--member main-000001: RPS has no such member; allowed: main, other",
        ),
        (("export", "RPS", "--snapshot", "main-000009", "--out", "a.npz"), 2, "nearest: "),
        (("export", "RPS", "--member", "main", "--out", "a.csv"), 2, "let the name end in .npz"),
        (
            ("export", "RPS", "--member", "main", "--out", "no/a.npz"),
            2,
            "directory no does not exist; create it first",
        ),
        (
            ("export", "RPS", "--table", "there.csv"),
            2,
            "there.csv: exists; choose another name or delete it first",
        ),
        pytest.param(
            ("show", "RPS", "--plots", "there.csv"), 2, "--plots there.csv: ", id="plots"
        ),  # the directory or matplotlib is missing
    ],
)
def test_league_command_errors_are_one_line(rps, pennies, tmp_path, monkeypatch, run, arguments, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").write_text("")
    (tmp_path / "EMPTY").mkdir()
    config = "name: single\nenv: {id: a.b}\nstop: {updates: 1}\n"
    (tmp_path / "SINGLE" / "checkpoints").mkdir(parents=True)
    save_checkpoint(
        tmp_path / "SINGLE" / "checkpoints",
        {"engine": {"round": 1}},
        version=1,
        attributes={"config": config},
    )
    (tmp_path / "RPS").symlink_to(rps)
    (tmp_path / "PENNIES").symlink_to(pennies)
    ended, out, err = run("league", *arguments)
    assert (ended, out) == (code, "")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert text in err


def test_unverifiable_snapshot_is_named_and_not_moved(rps, tmp_path, run):
    copy = shutil.copytree(rps, tmp_path / "copy")
    path = snapshot_path(copy / "pool", "main-000001")
    path.write_bytes(path.read_bytes()[:500])
    code, _, err = run("league", "match", copy, "main-000001", "other")
    assert code == 1
    assert str(path) in err
    assert path.exists()
    code, _, err = run("league", "export", copy, "--snapshot", "main-000001", "--out", tmp_path / "a.npz")
    assert (code, (tmp_path / "a.npz").exists()) == (1, False)
    assert str(path) in err


def test_a_checkpoint_of_other_members_is_refused(rps, tmp_path, run):
    state, attributes = load_checkpoint(find_checkpoint(rps))
    del state["league"]["members"]["main"]
    (tmp_path / "run").mkdir()
    save_checkpoint(tmp_path / "run" / "checkpoints", state, version=1, attributes=attributes)
    code, _, err = run("league", "show", tmp_path / "run")
    assert code == 1
    assert "its state is not that of this league (KeyError: 'main'); use another checkpoint" in err


# ---- what a league state records for these commands


def test_snapshots_record_their_most_met_opponents(rps):
    league = read_league(str(rps))
    league_state, told = league.state, summarise(league.state)
    main = league_state.member("main")
    frozen = [each for each in told["snapshots"] if each["member"] == "main"]
    assert frozen[0]["met_most"] == []
    for each in frozen[1:]:
        games = [met["games"] for met in each["met_most"]]
        assert games == sorted(games, reverse=True)
        assert games
    met = sum(met["games"] for each in frozen for met in each["met_most"])
    assert 0 < met <= sum(main.against.values())


# ---- tools/league.yaml


def test_league_figures_exist_in_command_output(rps, run_json):
    """Check that the path of each figure exists in the output of its command.

    One match of the small league stands in for the matches between the players that the table names.
    """
    take = runpy.run_path(str(ROOT / "tools" / "learning"))["take"]
    figures = yaml.safe_load((ROOT / "tools" / "league.yaml").read_text())["figures"]
    played = run_json("league", "match", rps, "main", "other", "--episodes", 8)
    shown = run_json("league", "show", rps)
    for column, figure in figures.items():
        command, path = figure.get("command", "train"), figure.get("path", column)
        if command.startswith("league match RUN "):
            assert isinstance(take(played, path), float), column
        elif command == "league show RUN --json":
            assert isinstance(take(shown, path), float), column
        else:
            assert command == "train", column
            assert path in json.loads((rps / "summary.json").read_text())
