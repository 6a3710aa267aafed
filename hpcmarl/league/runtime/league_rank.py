"""A rank of a league run.

Rank 0 has the league's server. Every rank that learns, acts or only plays matches has a client.
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
    """Rank of a league run. Messages of a team go to the client, which passes them to the team's roles."""

    kinds_of_roles: ClassVar[Mapping[str, str]] = {
        "league": "hpcmarl.league.runtime.league_server:League",
        "client": "hpcmarl.league.runtime.client:Client",
    }

    def names_of_roles(self) -> Collection[str]:
        topology, rank = self.context.topology, self.context.rank
        learns_or_acts = any(rank in group.ranks for group in topology.groups)
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
