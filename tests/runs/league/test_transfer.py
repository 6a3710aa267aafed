"""Snapshots transferred to changed observations, and members that start from them."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hpcmarl.cli.league import league_app
from hpcmarl.errors import ConfigError, UsageError
from hpcmarl.io.pool import read_snapshot, snapshot_path
from tests.support.leagues import RPS
from tests.support.worlds import final_state, run_world

# Seven features instead of one.
ROUNDS = RPS.replace('{id: "matrix:rps"}', '{id: "matrix:rps", kwargs: {rounds: 2}}')
FEATURES = "player=0,new*6"


@pytest.fixture(scope="module")
def league(tmp_path_factory):
    directory = tmp_path_factory.mktemp("transfer")
    run_world(1, directory / "run", "league.members={a: {}}", text=RPS)
    (directory / "rounds.yaml").write_text(ROUNDS)
    (directory / "single.yaml").write_text(ROUNDS.partition("league:")[0])
    return directory


def invoke(league, *arguments):
    """Return the exit code, the standard output and the error."""
    result = CliRunner().invoke(league_app, ["transfer", str(league / "run"), *map(str, arguments)])
    return result.exit_code, result.stdout, result.exception


def test_carried_snapshot_starts_a_member_of_a_new_league(league, tmp_path):
    out = tmp_path / "a.h5"
    code, told, _ = invoke(
        league, "a", league / "rounds.yaml", "--features", FEATURES, "--out", out, "--json"
    )
    assert code == 0
    result = json.loads(told)
    assert result["snapshot"] == "a-000003"
    assert result["difference"] < 1e-5
    assert result["begun"] == []
    assert "player.actor.outputs.layers.0.weight" in result["widened"]
    parameters, attributes = read_snapshot(out)
    assert parameters.size == result["parameters"]
    assert attributes["carried_from"].endswith("/a-000003")
    kind = "{name: main_exploiter, freeze: {least_updates: 1, most_updates: 2}}"  # reset after each term
    changes = (
        f"league.members={{main: {{kind: {{name: main}}}}, a: {{start: {out}, kind: {kind}}}}}",
        "optimizer={name: sgd, step_size: 1.0e-12}",
    )
    run_world(1, tmp_path / "run", *changes, text=ROUNDS)
    assert final_state(tmp_path / "run")["league"]["members"]["a"]["generation"] > 2
    # Step sizes are near zero, so that each generation stays at the snapshot.
    for term in (0, 1, 2):
        np.testing.assert_allclose(
            read_snapshot(snapshot_path(tmp_path / "run" / "pool", f"a-{term:06d}"))[0], parameters, atol=1e-6
        )
    main, _ = read_snapshot(snapshot_path(tmp_path / "run" / "pool", "main-000000"))
    assert not np.allclose(main, parameters)


def test_mismatched_start_is_rejected_before_writing(league, tmp_path):
    start = snapshot_path(league / "run" / "pool", "a-000003")
    with pytest.raises(
        ConfigError,
        match=(
            r"league\.members\.a\.start: .*a-000003\.h5 holds \d+ parameters, but the configuration needs "
            r"\d+"
        ),
    ):
        run_world(1, tmp_path / "run", f"league.members={{a: {{start: {start}}}}}", text=ROUNDS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "rounds.yaml"), "policy player sees 7 features, but 1 in the snapshot; assign them"),
        (("a", "single.yaml"), "the configuration has no league to transfer the snapshot to"),
        (("b", "rounds.yaml"), "b: .* has no such snapshot or member"),
        (("a", "rounds.yaml", "--features", "player"), "allowed: POLICY=LIST"),
    ],
)
def test_invalid_carry_arguments_raise_usage_errors(league, tmp_path, arguments, message):
    name, config, *rest = arguments
    code, _, error = invoke(league, name, league / config, *rest, "--out", tmp_path / "x.h5")
    assert code != 0
    assert isinstance(error, UsageError)
    with pytest.raises(UsageError, match=message):
        raise error
    assert not (tmp_path / "x.h5").exists()


def test_a_file_that_exists_is_not_overwritten(league, tmp_path):
    (tmp_path / "x.h5").write_text("mine")
    _, _, error = invoke(
        league, "a", league / "rounds.yaml", "--features", FEATURES, "--out", tmp_path / "x.h5"
    )
    with pytest.raises(UsageError, match="exists; name another file"):
        raise error
    assert (tmp_path / "x.h5").read_text() == "mine"
