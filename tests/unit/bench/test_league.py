"""`hpcmarl bench league`: the command on a small pool, and the values in its rows."""

import json

import pytest

from hpcmarl.bench import league
from hpcmarl.league.core.registry import KINDS, MATCHMAKERS, STRATEGIES

pytest.importorskip("scipy")


def test_bench_league_has_a_row_per_decision(run):
    pytest.importorskip("openskill.models", reason="openskill is not installed (extra league)")
    code, out, _ = run("bench", "league", "--snapshots", "12", "--seconds", "0.2", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    expected = {f"matchmaking {name}" for name in MATCHMAKERS} - {"matchmaking psro"}
    expected |= {f"matchmaking psro, {name}" for name in league.META_STRATEGIES}
    expected |= {f"member kind {name}" for name in KINDS} | {f"evaluation {name}" for name in STRATEGIES}
    assert {row["what"] for row in rows} == expected | {"rating elo, all games", "rating skill, one game"}
    assert all(row["times"] > 0 and 0 < row["median_ms"] <= row["late_ms"] for row in rows)
