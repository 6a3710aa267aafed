"""A league on real ranks."""

from hpcmarl.io.pool import list_snapshots
from tests.mpi.checks import Ranks, on_ranks
from tests.support.leagues import NAMES, RPS
from tests.support.worlds import summary


@on_ranks(5)
def two_teams_train_two_members(ranks: Ranks) -> None:
    ranks.train(RPS, "topology.groups=2")
    if ranks.rank == 0:
        told = summary(ranks.directory / "run")
        assert {name: row["updates"] for name, row in told["members"].items()} == {"a": 6, "b": 6}
        assert list_snapshots(ranks.directory / "run" / "pool") == NAMES
        assert told["evaluation_games"] > 0
