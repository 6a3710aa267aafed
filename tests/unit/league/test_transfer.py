"""Arguments of `hpcmarl league transfer`."""

import pytest

from hpcmarl.errors import UsageError
from hpcmarl.league.commands.transfer import parse_features


def test_feature_lists_accept_numbers_ranges_and_new():
    assert parse_features(["player=0-2,new*2,7", "prey=new"]) == {
        "player": [0, 1, 2, -1, -1, 7],
        "prey": [-1],
    }


@pytest.mark.parametrize("text", ["player=3-1", "player=new*x", "player=", "=0", "player=0,,1", "player=-1"])
def test_malformed_feature_lists_are_rejected(text):
    with pytest.raises(UsageError, match="--features"):
        parse_features([text])
