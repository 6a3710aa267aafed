"""Which team trains which member: the terms under way, who is told what about them. Kept by the league's
server (league/runtime/league_server.py), which sends it.

A team is a group of the topology; any of them may train any member, one at a time, so that a slow or dead one
holds up nobody but itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hpcmarl.io.pool import snapshot_name
from hpcmarl.league.core.state import LeagueState, Member
from hpcmarl.league.runtime.payloads import OpponentMixture, TrainingAssignment
from hpcmarl.roles.base import Context


class Assignments:
    """running: by the term's number, who is trained by which group."""

    def __init__(self, context: Context, league_state: LeagueState) -> None:
        self.groups, self.state, self.limit = (
            context.topology.groups,
            league_state,
            context.config.stop.updates,
        )
        self.free_groups: list[int] = []
        self.running: dict[int, tuple[Member, int]] = {}
        self.number = 0  # of the newest term: messages of older ones are dropped
        self._told: dict[int, bytes] = {}  # the mixture that a team was told
        self._dead_groups: set[int] = set()
        self._lost: set[int] = set()

    @property
    def nobody_is_left(self) -> bool:
        return len(self._dead_groups) == len(self.groups)

    def trained(self) -> list[Member]:
        """Who is being trained."""
        return [member for member, _ in self.running.values()]

    def give(self, waiting: Sequence[Member]) -> Iterator[tuple[int, TrainingAssignment]]:
        """Terms for free groups: those who wait and are furthest behind come first. What each rank is to be
        told.
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
        """The mixtures of those that train, where they have changed since the last time, for each rank of
        their teams.
        """
        for number, (member, group) in self.running.items():
            if not self.state.is_ready(member):
                continue  # its answer would be to something that nobody has played yet
            mixture = self._mixture(number, member)
            mixture_bytes = mixture.names.encode() + mixture.shares.tobytes()
            if self._told.get(number) != mixture_bytes:
                self._told[number] = mixture_bytes
                for rank in self._ranks(group):
                    yield rank, mixture

    def over(self, number: int, group: int) -> Member | None:
        """A group has ended this term and is free again; the member, or None where another one trains it by
        now.
        """
        if number not in self.running:
            return None
        member, _ = self.running.pop(number)
        self._told.pop(number, None)
        member.team = None
        if group not in self._dead_groups:
            self.free_groups.append(group)
        return member

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """A rank is lost and with it, perhaps, groups; a dead leader's member goes on from its checkpoint in
        another team.
        """
        self._lost.add(rank)
        self._dead_groups.update(groups)
        self.free_groups = [group for group in self.free_groups if group not in self._dead_groups]
        for number, (_, group) in list(self.running.items()):
            if self.groups[group].learner == rank:
                self.over(number, group)

    def _ranks(self, group: int) -> list[int]:
        """The group's ranks that are left, the leader first."""
        found = self.groups[group]
        return [
            found.learner,
            *(rank for rank in found.actors if rank != found.learner and rank not in self._lost),
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
        """The version at which the term ends: when the member is frozen, or has done all that it is to do
        (stop.updates).
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
