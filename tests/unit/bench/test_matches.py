"""`hpcmarl bench matches`: its counts and the configurations that it refuses."""

import pytest

from hpcmarl.bench import matches
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from tests.support.leagues import RPS, TAG


@pytest.mark.parametrize(
    ("text", "slots", "episodes", "length"), [(RPS, 4, 8, 1), (TAG, 4, 4, 5)], ids=["rps", "tag"]
)
def test_matches_are_played_and_counted(text, slots, episodes, length, monkeypatch):
    monkeypatch.setattr(matches, "WINDOW", 0.3)
    told = matches.run(load_config(text), 0.6)
    assert told["slots"] == slots
    assert told["matches_per_second"] > 0
    assert told["games_per_second"] == pytest.approx(episodes * told["matches_per_second"])
    assert (
        0
        < told["ratio"]
        == pytest.approx(told["match_env_steps_per_second"] / told["bare_env_steps_per_second"])
    )
    # All episodes have the same length. Every step counts, except those of the match cut off at the end.
    whole = told["matches_per_second"] * episodes * length / told["match_env_steps_per_second"]
    assert told["counted_share_of_steps"] == pytest.approx(whole, rel=0.2)


def test_bench_matches_requires_a_league():
    with pytest.raises(UsageError, match="needs the configuration of a league"):
        matches.run(load_config(RPS.partition("league:")[0]), 1.0)
