"""A rank of a league: trains what the league's server gives to its team, and plays evaluation matches
meanwhile.

FREE ──► TERM ──► the roles of a run, in a world of their own (league/runtime/team.py) ──► FROZEN;   MATCH ──►
    RESULT
While a team trains, its actors give a set share of their time to matches; a rank that waits for a term has
nothing else to do.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.transport import Message, PeerFailure
from hpcmarl.io.pool import Pool
from hpcmarl.league.runtime.matches import Matches
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.league.runtime.opponents import Opponents
from hpcmarl.league.runtime.sides import game_of
from hpcmarl.league.runtime.team import Team, TrainingAssignment
from hpcmarl.packing import unpack
from hpcmarl.roles.base import Context, Interval, Role
from hpcmarl.runtime.heartbeat import RunLost

logger = logging.getLogger(__name__)
TELL_SECONDS = 0.5
MAX_REPORTS_PER_SECOND = (
    25.0  # of all ranks together: the league's server must not drown in what a thousand of them tell
)


def report_seconds(ranks: int) -> float:
    """How often each of so many ranks says what its episodes came to."""
    return max(TELL_SECONDS, ranks / MAX_REPORTS_PER_SECOND)


class Client(Role):
    """On every rank that learns, acts, or belongs to no group (such a rank only plays matches)."""

    name = "client"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        league = context.config.league
        assert league is not None
        self.league, self.game = league, game_of(context.config, context.spec)
        self.pool = Pool(context.run_directory / "pool", league.pool_memory)
        groups = [
            group
            for group in context.topology.groups
            if context.rank == group.learner or context.rank in group.actors
        ]
        self.group = groups[0].index if groups else None
        self.leads = bool(groups) and groups[0].learner == context.rank
        self.plays = not groups or context.rank in groups[0].actors
        self.matches = Matches(context.config, context.spec, self.game, self.pool, self._match_seed())
        self.team: Team | None = None
        self.terms: deque[TrainingAssignment] = deque()
        self.lost: set[int] = set()
        self.early: list[Message] = []  # of terms that this rank has not begun
        self.begun = 0  # the newest term's number
        self.training_seconds = self.match_seconds = 0.0  # in this term
        self.reported_seconds = (0.0, 0.0)  # matches and training of this term, as the server was told
        self.this_match_seconds = 0.0
        self.told_free = False
        self.tell_due = Interval(report_seconds(context.topology.size))

    def _match_seed(self) -> int:
        return int(
            np.random.SeedSequence([self.context.config.eval.seed, self.context.rank]).generate_state(1)[0]
            & 0x7FFFFFFF
        )

    # ---- messages

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.TERM:
            self.terms.append(TrainingAssignment(**unpack(message.payload)))
        elif message.kind is Kind.MATCH:
            self.matches.begin(unpack(message.payload))
        elif message.kind is Kind.OPPONENTS:
            self._change_opponents(**unpack(message.payload))
        elif message.kind is Kind.STOP:
            self._stop(**unpack(message.payload))
        message.release()

    def _change_opponents(self, world: int, names: str, shares: Any, own_share: float) -> None:
        if self.team is not None and self.team.term.world == world:
            self.team.opponents.change(names.split(), shares, own_share)

    def _stop(self, world: int, status: str) -> None:
        """The league's server ends a term; it may be over already."""
        for term in list(self.terms):
            if term.world == world:
                self._begin(term)  # its actors may have begun: it ends in order
                self.terms.remove(term)
        if self.team is not None and self.team.leads and self.team.term.world == world:
            self.team.stop(status)

    def deliver(self, message: Message) -> None:
        """A message of a team's world has come."""
        world = message.header.team
        if self.team is not None and world == self.team.term.world:
            self.team.transport.deliver(message)
        elif world > self.begun:
            self.early.append(message)
        else:
            message.release()

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        self.lost.add(rank)
        if self.team is not None and rank in self.team.term.ranks:
            self.team.transport.lose(rank)

    # ---- work

    def work(self) -> bool:
        if not self.told_free:
            self.told_free = True
            self._report_free()
        if self.team is None and self.terms:
            self._begin(self.terms.popleft())
            return True
        if self.matches.busy and self._match_is_due():
            began = time.perf_counter()
            outcome = self.matches.step()
            took = time.perf_counter() - began
            self.match_seconds += took
            self.this_match_seconds += took
            if outcome is not None:
                self.send(
                    self.context.topology.server, Kind.RESULT, {**outcome, "seconds": self.this_match_seconds}
                )
                self.this_match_seconds = 0.0
            return True
        return self.team is not None and self._train(self.team)

    def _report_free(self) -> None:
        self.send(
            self.context.topology.server,
            Kind.FREE,
            {"group": self.group if self.leads else None, "plays": self.plays},
        )

    def _match_is_due(self) -> bool:
        """Matches have their share of the time while the team trains, and all of it while there is none."""
        share = self.league.evaluation.share
        return self.team is None or self.match_seconds * (1.0 - share) < share * self.training_seconds

    def _begin(self, term: TrainingAssignment) -> None:
        own = self.game.from_side(term.side)
        other, config = side_of(self.context.spec, own.other), self.context.config
        generator = np.random.default_rng([term.seed, term.world, self.context.rank])
        opponents = Opponents(
            self.pool,
            lambda: make_model(other, config.algo, config.seed),
            generator,
            self.league.opponents_at_once,
            self.league.episodes_per_draw,
        )
        self.begun = term.world
        self.training_seconds = self.match_seconds = 0.0
        self.reported_seconds = (0.0, 0.0)
        self.team = Team(self.context, self.game, term, opponents)
        for rank in self.lost.intersection(term.ranks):  # they died while the term was on its way
            self.team.transport.lose(rank)
        early, self.early = self.early, []
        for message in early:
            self.deliver(message)

    def _train(self, team: Team) -> bool:
        began = time.perf_counter()
        try:
            busy = team.step()
        except RunLost as error:
            logger.warning("%s of %s; its team is dissolved", error, team.term.member)
            self._leave(team)
            return True
        if busy:
            self.training_seconds += time.perf_counter() - began
        if self.tell_due.due() or team.done:
            self._report_progress(team)
        if team.done:
            report = team.freeze() if team.leads else None
            self._leave(team)
            if report is not None:
                self.send(self.context.topology.server, Kind.FROZEN, {**report, "group": self.group})
        return busy

    def _report_progress(self, team: Team) -> None:
        """How far the member is (the leader tells), and what this rank's episodes came to."""
        report: dict[str, Any] = {"member": team.term.member, "world": team.term.world}
        if team.leads:
            totals = team.server.recorder.totals
            report["progress"] = [
                team.server.engine.version,
                int(totals["env_steps"]),
                int(totals["episodes"]),
            ]
        if played := team.opponents.take_played():
            report["played"] = {name: own.row()[:2] for name, own in played.items()}
        if team.opponents.bad:
            report["bad"] = sorted(team.opponents.bad)
        if self.plays:
            spent = self.match_seconds, self.training_seconds
            report["seconds"] = [
                now - before for now, before in zip(spent, self.reported_seconds, strict=True)
            ]
            self.reported_seconds = spent
        if len(report) > 2:
            self.send(self.context.topology.server, Kind.PLAYED, report)

    def _leave(self, team: Team) -> None:
        self.team = None
        team.close()

    def close(self) -> None:
        if self.team is not None:
            try:
                self.team.close()
            except PeerFailure as error:
                logger.warning("closing the team of %s: %s", self.team.term.member, error)
        self.matches.close()
