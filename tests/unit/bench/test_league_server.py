"""The benchmark of a league's server.

Its simulated teams train, freeze and play as real ones do. Its figures cover the server alone.
"""

import json

from typer.testing import CliRunner

from hpcmarl.cli.main import app


def test_simulated_teams_train_freeze_and_play():
    done = CliRunner().invoke(
        app,
        [
            "bench",
            "league",
            "--members",
            "3",
            "--snapshots",
            "20",
            "--seconds",
            "4",
            "--term-seconds",
            "1.5",
            "--json",
        ],
    )
    assert done.exit_code == 0, done.output
    [row] = json.loads(done.stdout)["rows"]
    assert row["members"] == 3
    assert row["frozen"] >= 3  # every team has ended a term
    assert row["snapshots"] >= 20 + row["frozen"]
    assert row["matches"] >= 3
    assert 0 < row["server_share"] < 1
    assert 0 < row["league_share"] < 1
    assert row["pool_growth_mb"] is None or row["pool_growth_mb"] < 20
