"""The league's server: assigns members to free teams and matches to free ranks.

It keeps the league's state, and it ends the run.

    FREE -> ASSIGNMENT
    PLAYED -> live records -> OPPONENTS
    FROZEN -> the pool -> missing payoffs -> MATCH -> RESULT -> payoffs

A slow or dead team delays its own member only. Decisions are made in league/core/state.py; this module
handles messages and time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from hpcmarl.comm.protocol import Kind
from hpcmarl.comm.transport import Message
from hpcmarl.errors import EXIT_FAILURE, EXIT_SUCCESS, EXIT_TRY_AGAIN, StorageError
from hpcmarl.io.checkpoint import CheckpointWriter
from hpcmarl.league.runtime.assignments import Assignments
from hpcmarl.league.runtime.payloads import (
    AssignmentResult,
    FreeRank,
    MatchResult,
    MatchTask,
    StopAssignment,
    TrainingProgress,
)
from hpcmarl.league.runtime.recorder import LeagueRecords
from hpcmarl.league.runtime.sides import game_of
from hpcmarl.league.runtime.startup import adopt_snapshots, freeze_beginnings, new_book
from hpcmarl.roles.base import Context, Interval, Paced, Role

logger = logging.getLogger(__name__)
OPPONENTS_SECONDS = 1.0
STOP_TIMEOUT = 60.0


class League(Role):
    """Server of a league, on rank 0.

    Attributes:
        phase: Phase of the run: start, train, stop (assignments end), judge (last matches) or done.
        status: Status at the end: finished or interrupted.
        terms: The training assignments.
        matches: Match in progress on each rank.
    """

    name = "league"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config = context.config
        assert config.league is not None
        self.league, self.game = config.league, game_of(config, context.spec)
        self.state = new_book(config, self.game)
        self.pool = context.run_directory / "pool"
        self.records = LeagueRecords(context, self.state)
        self.writer = CheckpointWriter(context.run_directory / "checkpoints", keep=config.checkpoint.keep)
        self.written = -1
        self.terms = Assignments(context, self.state)
        self.free_ranks: list[int] = []
        self.matches: dict[int, MatchTask] = {}
        self.phase, self.status = "start", "finished"
        self.heard = True  # whether a message or a loss has come since work was last handed out
        self.opponents_due = Paced(OPPONENTS_SECONDS)
        self.save_due, self.save_requested = Paced(0.0), False
        self.checkpoint_due = (
            Interval(config.checkpoint.every_seconds) if config.checkpoint.every_seconds else None
        )
        self.until = 0.0  # end of the phase stop or judge, by time.monotonic()

    # ---- messages

    def on_message(self, message: Message) -> None:
        began = time.thread_time()
        self.heard = True
        if message.kind is Kind.INTERRUPT:
            self._begin_stop("interrupted")
        else:
            self._on_report(message)
        message.release()
        self.records.busy_seconds += time.thread_time() - began

    def _on_report(self, message: Message) -> None:
        if message.kind is Kind.FREE:
            self._on_free(message.source, FreeRank.unpack(message.payload))
        elif message.kind is Kind.PLAYED:
            self._on_played(TrainingProgress.unpack(message.payload))
        elif message.kind is Kind.FROZEN:
            self._on_frozen(AssignmentResult.unpack(message.payload))
        elif message.kind is Kind.RESULT:
            self._on_result(message.source, MatchResult.unpack(message.payload))

    def _on_free(self, rank: int, free: FreeRank) -> None:
        if free.group is not None:
            self.terms.free_groups.append(free.group)
        if free.plays:
            self.free_ranks.append(rank)

    def _on_played(self, report: TrainingProgress) -> None:
        self.records.on_seconds(report.match_seconds, report.training_seconds)
        if report.team not in self.terms.running:
            return
        member, group = self.terms.running[report.team]
        if report.progress is not None:
            self.state.on_progress(member, *report.progress)
        for name, (games, score) in report.played.items():
            self.state.on_played(member, name, int(games), score)
        for name in report.bad:
            self._quarantine(name)
        if self.phase == "train" and self.state.wins(member):
            self._end_assignment(report.team, group, "finished")

    def _on_frozen(self, result: AssignmentResult) -> None:
        member = self.terms.over(result.team, result.group)
        if member is None:
            return
        self.state.on_progress(member, result.version, result.env_steps, result.episodes)
        if result.snapshot is not None:
            snapshot = self.state.add(member, result.snapshot, member.terms + 1, self.records.seconds)
            logger.info(
                "member %s was frozen after %d updates and %d environment steps: snapshot %s",
                member.name,
                snapshot.updates,
                snapshot.env_steps,
                snapshot.name,
            )
            self.save_requested = True

    def _on_result(self, rank: int, result: MatchResult) -> None:
        if self.matches.pop(rank, None) is None:
            return
        self.free_ranks.append(rank)
        self.records.match_seconds += result.seconds
        if result.bad is not None:
            self._quarantine(result.bad)
        self.state.ended(result.row, result.column, result.played)

    def _quarantine(self, name: str) -> None:
        if not self.state.snapshots[self.state.numbers[name]].bad:
            logger.warning("snapshot %s does not verify; it is excluded from training and matches", name)
            self.state.quarantine(name)

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """Hand the work of a lost rank to others.

        Its match is played by another rank. If it led a team, another team continues the member from its
        checkpoint.
        """
        if (task := self.matches.pop(rank, None)) is not None:
            self.state.ended(task.row, task.column, None)
        self.heard = True
        self.free_ranks = [free for free in self.free_ranks if free != rank]
        self.records.on_lost(rank)
        self.terms.on_lost(rank, groups)
        if self.phase == "train" and self.terms.nobody_is_left:
            logger.warning("all groups are lost: stopping")
            self._begin_stop("interrupted")

    # ---- work

    def work(self) -> bool:
        began = time.thread_time()
        worked = self._work()
        if worked:
            self.records.busy_seconds += time.thread_time() - began
        return worked

    def _work(self) -> bool:
        if self.phase == "start":
            self._start()
            return True
        if (error := self.writer.poll()) is not None:
            self._on_error(error)
        if self.phase == "train":
            if (reason := self.records.stop_reason()) is not None:
                logger.info("stopping: %s", reason)
                self._begin_stop("finished")
                return True
            if self.context.job_end is not None and self._job_ends():
                logger.info("stopping: the Slurm job ends soon (stop.seconds_before_limit)")
                self._begin_stop("interrupted")
                return True
            self.save_requested |= self.checkpoint_due is not None and self.checkpoint_due.due()
            if self.save_requested and self.save_due.due():
                self._keep()
            self.records.tick(self.terms.trained, len(self.matches))
        worked = self._hand_out()
        if self.phase == "stop" and (not self.terms.running or time.monotonic() > self.until):
            self._begin_judging()
            return True
        if self.phase == "judge" and (time.monotonic() > self.until or not self.matches):
            self._finish()
            return True
        return worked

    def _start(self) -> None:
        if self.context.resume is not None:
            self.state.load_state_dict(self.context.resume["league"])
            self.records.load_state_dict(self.context.resume["records"])
        adopt_snapshots(self.state, self.pool, self.records.seconds)
        freeze_beginnings(self.context, self.state, self.game, self.pool)
        self.records.begin()
        self._keep()
        self.phase = "train"

    def _job_ends(self) -> bool:
        end, margin = self.context.job_end, self.context.config.stop.seconds_before_limit
        return end is not None and margin is not None and time.time() > end - margin

    def _hand_out(self) -> bool:
        """Send new mixtures to teams, assignments to free groups and matches to free ranks.

        Assignments and matches are handed out only after a message or a loss. Returns whether they were
        considered.
        """
        if self.phase == "train" and self.opponents_due.due():
            began = time.perf_counter()
            for rank, opponents in self.terms.news():
                self.send(rank, Kind.OPPONENTS, opponents)
            self.opponents_due.took(time.perf_counter() - began)
        if not self.heard:
            return False
        self.heard = False
        if self.phase == "train" and self.terms.free_groups:
            waiting = [
                member
                for member in self.state.members
                if member.team is None and self.records.wants(member) and self.state.is_ready(member)
            ]
            for rank, assignment in self.terms.give(waiting):
                self.send(rank, Kind.ASSIGNMENT, assignment)
        if self.phase in ("train", "judge"):
            while self.free_ranks and (pair := self.state.next_match()) is not None:
                self._give_match(self.free_ranks.pop(0), *pair)
        return True

    def _give_match(self, rank: int, row: str, column: str) -> None:
        side = self.state.snapshots[self.state.numbers[row]].side
        self.matches[rank] = MatchTask(row, column, side, int(self.state.generator.integers(1 << 31)))
        self.send(rank, Kind.MATCH, self.matches[rank])

    # ---- the end

    def _end_assignment(self, team: int, group: int, status: str) -> None:
        self.send(self.context.topology.groups[group].learner, Kind.STOP, StopAssignment(team, status))

    def _begin_stop(self, status: str) -> None:
        if self.phase not in ("start", "train"):
            return
        self.status, self.phase = status, "stop"
        self.records.end()
        # A member with too few updates since its last snapshot is not frozen. A resumed run continues it.
        for team, (member, group) in self.terms.running.items():
            self._end_assignment(team, group, status if self.state.has_trained(member) else "interrupted")
        self.until = time.monotonic() + STOP_TIMEOUT

    def _begin_judging(self) -> None:
        """Let all ranks play matches for a while, unless the run was interrupted."""
        for member, group in self.terms.running.values():
            logger.warning(
                "group %d, which trained member %s, did not report its result within %.0f s",
                group,
                member.name,
                STOP_TIMEOUT,
            )
        self.terms.running.clear()
        self.phase, self.heard = "judge", True
        self.until = time.monotonic() + (
            self.league.evaluation.final_seconds if self.status == "finished" else 0.0
        )
        self._hand_out()

    def _finish(self) -> None:
        for task in self.matches.values():
            self.state.ended(task.row, task.column, None)
        self._keep()
        self.writer.close()
        error = self.writer.last_error
        if error is not None:
            self._on_error(error)
        self.records.finish(self.status, None if error is None else str(error))
        code = EXIT_SUCCESS if self.status == "finished" else EXIT_FAILURE if error else EXIT_TRY_AGAIN
        for rank in range(self.context.topology.size):
            self.send(rank, Kind.EXIT, exit_code=code)
        self.phase, self.finished = "done", True

    def _keep(self) -> None:
        """Write the league's state to a checkpoint if it has changed."""
        self.save_requested = False
        if self.state.changes != self.written:
            began, self.written = time.perf_counter(), self.state.changes
            state = {"league": self.state.state_dict(), "records": self.records.state_dict()}
            self.writer.submit(
                state, version=self.state.changes, attributes=self.context.attributes("server"), copied=True
            )
            self.save_due.took(time.perf_counter() - began)

    def _on_error(self, error: StorageError) -> None:
        if self.context.config.checkpoint.on_error == "stop":
            raise error
        logger.error("%s; the league continues and the last good checkpoint is unchanged", error)

    def close(self) -> None:
        self.records.close()
        self.writer.close()
