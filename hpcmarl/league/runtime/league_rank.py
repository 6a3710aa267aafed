"""A rank of a league: the league's server on rank 0, a client wherever somebody learns, acts or plays
matches. Built by train.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.transport import Message
from hpcmarl.league.runtime.client import Client
from hpcmarl.runtime.rank import FOR_THE_RANK, Rank

TO_LEAGUE = (Kind.FREE, Kind.PLAYED, Kind.FROZEN, Kind.RESULT, Kind.INTERRUPT)


class LeagueRank(Rank):
    """Messages of a team's world go to the client, which hands them to the roles of its team."""

    kinds_of_roles: ClassVar[Mapping[str, str]] = {
        "league": "hpcmarl.league.runtime.league_server:League",
        "client": "hpcmarl.league.runtime.client:Client",
    }

    def names_of_roles(self) -> Collection[str]:
        topology, rank = self.context.topology, self.context.rank
        learns_or_acts = any(rank == group.learner or rank in group.actors for group in topology.groups)
        names = ["league"] if rank == topology.server else []
        return [*names, "client"] if learns_or_acts or rank != topology.server else names

    def _take(self, message: Message) -> None:
        if message.header.team:
            self.present = "client"
            client = self.roles["client"]
            assert isinstance(client, Client)
            client.deliver(message)
        elif message.kind in FOR_THE_RANK:
            super()._take(message)
        else:
            self.present = "league" if message.kind in TO_LEAGUE else "client"
            self.roles[self.present].on_message(message)
