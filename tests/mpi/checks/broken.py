"""Checks that test the reports of shared ranks: one fails, the other passes."""

from tests.mpi.checks import Ranks, on_ranks


@on_ranks(2, libraries=())
def rank_1_raises(ranks: Ranks) -> None:
    transport = ranks.transport()
    assert ranks.rank != 1, "this rank is broken"
    transport.broadcast(b"" if ranks.rank == 0 else None)  # rank 0 waits here for rank 1


@on_ranks(2, libraries=())
def nothing_is_wrong(ranks: Ranks) -> None:
    ranks.transport().close()
