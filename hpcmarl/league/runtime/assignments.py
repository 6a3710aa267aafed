"""Training assignments: which team trains which member, and which messages its ranks receive.

A team is a group of the topology. Any team may train any member, one at a time. So a slow or dead team delays
its own member only. The league's server keeps the assignments and sends the messages (league_server.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hpcmarl.io.pool import snapshot_name
from hpcmarl.league.core.state import LeagueState, Member
from hpcmarl.league.runtime.payloads import OpponentMixture, TrainingAssignment
from hpcmarl.roles.base import Context


class Assignments:
    """Running assignments and free groups.

    Attributes:
        groups: Groups of the topology.
        state: State of the league.
        limit: Updates after which a member is finished (stop.updates); None: no limit.
        free_groups: Groups that wait for an assignment.
        running: Member and group of each running assignment, by the assignment's number.
        number: Number of the newest assignment. Messages of assignments that have ended are dropped.
    """

    def __init__(self, context: Context, league_state: LeagueState) -> None:
        self.groups, self.state, self.limit = (
            context.topology.groups,
            league_state,
            context.config.stop.updates,
        )
        self.free_groups: list[int] = []
        self.running: dict[int, tuple[Member, int]] = {}
        self.number = 0
        self._sent: dict[int, bytes] = {}  # mixture last sent, by the assignment's number
        self._dead_groups: set[int] = set()
        self._lost: set[int] = set()

    @property
    def nobody_is_left(self) -> bool:
        """Whether all groups are dead."""
        return len(self._dead_groups) == len(self.groups)

    def trained(self) -> list[Member]:
        """Return the members that are in training."""
        return [member for member, _ in self.running.values()]

    def give(self, waiting: Sequence[Member]) -> Iterator[tuple[int, TrainingAssignment]]:
        """Assign waiting members to free groups; members with the fewest updates come first.

        Args:
            waiting: Members that have no team and need training.

        Yields:
            A rank and the assignment to send to it, for each rank of each new team.
        """
        behind = sorted(waiting, key=lambda member: (member.updates, member.index))
        while behind and self.free_groups:
            member, group = behind.pop(0), self.free_groups.pop(0)
            self.number += 1
            member.team = group
            self.running[self.number] = (member, group)
            assignment = self._assignment(member, group)
            for rank in assignment.ranks:
                yield rank, assignment

    def news(self) -> Iterator[tuple[int, OpponentMixture]]:
        """Find mixtures of opponents that have changed since they were last sent.

        Yields:
            A rank and the mixture to send to it, for each rank of the teams concerned.
        """
        for number, (member, group) in self.running.items():
            if not self.state.is_ready(member):
                continue  # psro: its mixture would rest on pairs that were not played yet
            mixture = self._mixture(number, member)
            mixture_bytes = mixture.names.encode() + mixture.shares.tobytes()
            if self._sent.get(number) != mixture_bytes:
                self._sent[number] = mixture_bytes
                for rank in self._ranks(group):
                    yield rank, mixture

    def over(self, number: int, group: int) -> Member | None:
        """End an assignment and free its group.

        Args:
            number: Number of the assignment.
            group: Group that ended it.

        Returns:
            The member; None if the assignment is not running any more.
        """
        if number not in self.running:
            return None
        member, _ = self.running.pop(number)
        self._sent.pop(number, None)
        member.team = None
        if group not in self._dead_groups:
            self.free_groups.append(group)
        return member

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """Remove a lost rank and its groups.

        If the rank led a team, the assignment ends. Another team continues the member from its checkpoint.

        Args:
            rank: Rank that is lost.
            groups: Groups that are dead because of it; may be empty.
        """
        self._lost.add(rank)
        self._dead_groups.update(groups)
        self.free_groups = [group for group in self.free_groups if group not in self._dead_groups]
        for number, (_, group) in list(self.running.items()):
            if self.groups[group].learner == rank:
                self.over(number, group)

    def _ranks(self, group: int) -> list[int]:
        """Return the group's remaining ranks, the leader first."""
        team = self.groups[group]
        workers = team.workers or ((),) * len(team.actors)
        members = [
            rank
            for actor, own in zip(team.actors, workers, strict=True)
            if actor not in self._lost
            for rank in (actor, *own)
        ]
        return [
            team.learner,
            *(rank for rank in members if rank != team.learner and rank not in self._lost),
        ]

    def _assignment(self, member: Member, group: int) -> TrainingAssignment:
        mixture = self._mixture(self.number, member)
        return TrainingAssignment(
            team=self.number,
            member=member.name,
            side=member.side,
            group=group,
            ranks=self._ranks(group),
            until=self._until(member),
            directory=member.directory,
            snapshot=snapshot_name(member.name, member.terms + 1),
            seed=self.state.seed_of(member),
            generation=member.generation,
            start=None if member.config.start is None else snapshot_name(member.name, 0),
            names=mixture.names,
            shares=mixture.shares,
            own_share=mixture.own_share,
        )

    def _until(self, member: Member) -> int:
        """Return the version at which the assignment ends.

        That is the version at which the member is frozen, or at which it reaches `stop.updates`.
        """
        end = self.state.term_end(member)
        return end if self.limit is None else min(end, self.limit - member.updates_before)

    def _mixture(self, number: int, member: Member) -> OpponentMixture:
        mixture = self.state.mixture(member)
        chosen = np.flatnonzero(mixture.weights > 0.0)
        names = " ".join(self.state.snapshots[number].name for number in mixture.snapshots[chosen].tolist())
        return OpponentMixture(
            team=number,
            names=names,
            shares=mixture.weights[chosen].astype(np.float64),
            own_share=float(mixture.self_share),
        )
