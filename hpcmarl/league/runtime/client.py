"""Client of a league, on each rank: trains members with its team and plays evaluation matches.

    FREE -> ASSIGNMENT -> the roles of a run, in a team of their own (league/runtime/team.py) -> FROZEN
    MATCH -> RESULT

While a team trains, its actors spend `league.evaluation.share` of their time on matches. A rank that waits
for an assignment plays matches only.
"""

from __future__ import annotations

import gc
import logging
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.transport import Message, PeerFailure
from hpcmarl.io.pool import Pool
from hpcmarl.league.runtime.matches import Matches
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.league.runtime.opponents import Opponents
from hpcmarl.league.runtime.payloads import (
    FreeRank,
    MatchTask,
    OpponentMixture,
    StopAssignment,
    TrainingAssignment,
    TrainingProgress,
)
from hpcmarl.league.runtime.sides import game_of
from hpcmarl.league.runtime.team import Team
from hpcmarl.roles import ROLES, load_role
from hpcmarl.roles.base import Context, Interval, Role
from hpcmarl.runtime.heartbeat import RunLost
from hpcmarl.tracing.spans import Span

logger = logging.getLogger(__name__)
MIN_REPORT_SECONDS = 0.5  # shortest interval between reports of a rank
# From all ranks together, so that a thousand ranks do not overload the league's server.
MAX_REPORTS_PER_SECOND = 25.0


def report_seconds(ranks: int) -> float:
    """Return the interval between progress reports of each rank, in seconds.

    Args:
        ranks: Number of ranks of the run.
    """
    return max(MIN_REPORT_SECONDS, ranks / MAX_REPORTS_PER_SECOND)


class Client(Role):
    """Trains members with its team and plays evaluation matches.

    A client runs on every rank that learns, acts or belongs to no group. A rank without a group only plays
    matches.

    Attributes:
        group: Number of the rank's group; None: no group.
        leads: Whether the rank is the learner of its group.
        plays: Whether the rank plays evaluation matches.
        team: The running assignment on this rank; None: no assignment.
        terms: Assignments that were received and have not begun.
        begun: Number of the newest assignment that has begun on this rank.
        waited_before: `waited` when the present sleep began.
        must_collect: Whether to free the memory of the assignment that has ended.
    """

    name = "client"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        league = context.config.league
        assert league is not None
        self.league, self.game = league, game_of(context.config, context.spec)
        self.pool = Pool(context.run_directory / "pool", league.pool_memory)
        groups = [group for group in context.topology.groups if context.rank in group.ranks]
        self.group = groups[0].index if groups else None
        self.leads = bool(groups) and groups[0].learner == context.rank
        if groups:
            self._load_roles()
        self.plays = not groups or context.rank in groups[0].actors
        self.matches = Matches(context.config, context.spec, self.game, self.pool, self._match_seed())
        self.team: Team | None = None
        self.terms: deque[TrainingAssignment] = deque()
        self.lost: set[int] = set()
        self.early: list[Message] = []  # messages of assignments that have not begun on this rank
        self.begun = 0
        self.training_seconds = self.match_seconds = 0.0  # in this assignment
        self.reported_seconds = (0.0, 0.0)  # match and training seconds of this assignment, as last reported
        self.this_match_seconds = 0.0
        self.has_reported = False
        self.waited_before = 0.0
        self.must_collect = False
        self.report_due = Interval(report_seconds(context.topology.size))

    def _load_roles(self) -> None:
        """Import the roles of this rank's teams now, and not at the start of an assignment.

        The import of torch takes seconds, or much longer if many ranks read it from shared storage. The rank
        sends no heartbeat meanwhile, and none is expected before its first one (runtime/heartbeat.py).
        """
        for name in (*self.context.topology.roles_of(self.context.rank), *(["server"] if self.leads else [])):
            load_role(ROLES[name])

    def _match_seed(self) -> int:
        return int(
            np.random.SeedSequence([self.context.config.eval.seed, self.context.rank]).generate_state(1)[0]
            & 0x7FFFFFFF
        )

    # ---- messages

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.ASSIGNMENT:
            self.terms.append(TrainingAssignment.unpack(message.payload))
        elif message.kind is Kind.MATCH:
            self.matches.begin(MatchTask.unpack(message.payload))
        elif message.kind is Kind.OPPONENTS:
            self._change_opponents(OpponentMixture.unpack(message.payload))
        elif message.kind is Kind.STOP:
            self._stop(StopAssignment.unpack(message.payload))
        message.release()

    def _change_opponents(self, mixture: OpponentMixture) -> None:
        if self.team is not None and self.team.assignment.team == mixture.team:
            self.team.opponents.change(mixture.names.split(), mixture.shares, mixture.own_share)

    def _stop(self, stop: StopAssignment) -> None:
        """End an assignment, unless it has ended already."""
        for assignment in list(self.terms):
            if assignment.team == stop.team:
                # Its actors may have begun already. They end in order only if this rank begins too.
                self._begin(assignment)
                self.terms.remove(assignment)
        if self.team is not None and self.team.leads and self.team.assignment.team == stop.team:
            self.team.stop(stop.status)

    def deliver(self, message: Message) -> None:
        """Pass a message of a team to its roles.

        A message of an assignment that has not begun here waits. A message of an assignment that has ended is
        dropped.
        """
        number = message.header.team
        if self.team is not None and number == self.team.assignment.team:
            self.team.transport.deliver(message)
        elif number > self.begun:
            self.early.append(message)
        else:
            message.release()

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        self.lost.add(rank)
        if self.team is not None and rank in self.team.assignment.ranks:
            self.team.transport.lose(rank)

    # ---- work

    def work(self) -> bool:
        if not self.has_reported:
            self.has_reported = True
            self._report_free()
        if self.must_collect:
            self.must_collect = False
            gc.collect()
        if self.team is None and self.terms:
            self._begin(self.terms.popleft())
            return True
        if self.matches.busy and self._match_is_due():
            began = time.perf_counter()
            outcome = self.matches.step()
            took = (ended := time.perf_counter()) - began
            if self.trace is not None:
                self.trace.add(Span.MATCH, began, ended)
            self.match_seconds += took
            self.this_match_seconds += took
            if outcome is not None:
                result = replace(outcome, seconds=self.this_match_seconds)
                self.send(self.context.topology.server, Kind.RESULT, result)
                self.this_match_seconds = 0.0
            return True
        return self.team is not None and self._train(self.team)

    def may_rest(self) -> bool:
        """Prepare the roles of the team for the sleep of the rank."""
        self.wake_at, self.waited_before = math.inf, self.waited
        if self.team is None:
            return True
        self.wake_at = self.team.rank.wake_at
        return self.team.rank.may_rest()

    def on_rested(self) -> None:
        if self.team is not None:
            self.team.rank.on_rested(self.waited - self.waited_before)

    def _report_free(self) -> None:
        self.send(
            self.context.topology.server,
            Kind.FREE,
            FreeRank(self.group if self.leads else None, self.plays),
        )

    def _match_is_due(self) -> bool:
        """Return whether to play a step of a match now.

        While the team trains, matches take their share of the time. Without a team they take all of it.
        """
        share = self.league.evaluation.share
        return self.team is None or self.match_seconds * (1.0 - share) < share * self.training_seconds

    def _begin(self, assignment: TrainingAssignment) -> None:
        own = self.game.from_side(assignment.side)
        other, config = side_of(self.context.spec, own.other), self.context.config
        generator = np.random.default_rng([assignment.seed, assignment.team, self.context.rank])
        opponents = Opponents(
            self.pool,
            lambda: make_model(other, config.algo, config.seed),
            generator,
            self.league.opponents_at_once,
            self.league.episodes_per_draw,
        )
        self.begun = assignment.team
        self.training_seconds = self.match_seconds = 0.0
        self.reported_seconds = (0.0, 0.0)
        self.team = Team(self.context, self.game, assignment, opponents)
        # These ranks died while the assignment was in transit.
        for rank in self.lost.intersection(assignment.ranks):
            self.team.transport.lose(rank)
        early, self.early = self.early, []
        for message in early:
            self.deliver(message)

    def _train(self, team: Team) -> bool:
        began = time.perf_counter()
        try:
            busy = team.step()
        except RunLost as error:
            logger.warning("%s; the team of member %s ends on this rank", error, team.assignment.member)
            self._leave(team)
            return True
        if busy:
            self.training_seconds += time.perf_counter() - began
        if self.report_due.due() or team.done:
            self._report_progress(team)
        if team.done:
            report = team.freeze() if team.leads else None
            self._leave(team)
            if report is not None:
                self.send(self.context.topology.server, Kind.FROZEN, report)
        return busy

    def _report_progress(self, team: Team) -> None:
        """Report results of this rank's episodes to the league's server.

        The leader also reports the member's progress.
        """
        progress = None
        if team.leads:
            totals = team.server.recorder.totals
            progress = [team.server.engine.version, int(totals["env_steps"]), int(totals["episodes"])]
        played = {name: list(own.row()[:2]) for name, own in team.opponents.take_played().items()}
        bad, spent = sorted(team.opponents.bad), (0.0, 0.0)
        if self.plays:
            now = self.match_seconds, self.training_seconds
            spent = now[0] - self.reported_seconds[0], now[1] - self.reported_seconds[1]
            self.reported_seconds = now
        if progress is not None or played or bad or self.plays:
            report = TrainingProgress(team.assignment.team, progress, played, bad, *spent)
            self.send(self.context.topology.server, Kind.PLAYED, report)

    def _leave(self, team: Team) -> None:
        self.team = None
        team.close()
        # Objects of the team refer to each other. They hold the memory that an actor shares with its workers.
        self.must_collect = bool(self.context.topology.workers_of(self.context.rank))

    def close(self) -> None:
        if self.team is not None:
            try:
                self.team.close()
            except PeerFailure as error:
                logger.warning(
                    "error while closing the team of member %s: %s", self.team.assignment.member, error
                )
        self.matches.close()
