"""Matches between snapshots of a pool."""

import pytest

from hpcmarl.bench.matches import Playing
from hpcmarl.config.file import load_config
from hpcmarl.io.pool import snapshot_path
from tests.support.leagues import RPS


@pytest.fixture
def playing(tmp_path):
    """Yield two snapshots in a pool, and the matches between them."""
    playing = Playing(load_config(RPS), tmp_path / "pool")
    yield playing
    playing.matches.close()


def result_of(playing):
    playing.matches.begin(playing.task)
    while (result := playing.matches.step()) is None:
        pass
    return result


@pytest.mark.parametrize("side", ["row", "column"])
def test_damaged_snapshot_ends_the_match_and_is_named(tmp_path, playing, side):
    name = vars(playing.task)[side]
    path = snapshot_path(tmp_path / "pool", name)
    path.write_bytes(path.read_bytes()[:-100])
    result = result_of(playing)
    assert (result.bad, result.played) == (name, None)


def test_match_after_a_damaged_one_is_played(tmp_path, playing):
    path = snapshot_path(tmp_path / "pool", playing.task.row)
    good = path.read_bytes()
    path.write_bytes(good[:-100])
    assert result_of(playing).played is None
    path.write_bytes(good)
    result = result_of(playing)
    assert result.bad is None
    assert int(result.played[0]) == 8  # the value of league.evaluation.episodes
