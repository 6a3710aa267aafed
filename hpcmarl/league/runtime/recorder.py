"""Records of a league besides checkpoints: time, totals over members, metrics, summary and progress lines.

They are kept by the league's server. Metrics of the members are written by their teams, in members/NAME/.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.io.metrics_writer import MetricsWriter
from hpcmarl.league.core.state import LeagueState, Member
from hpcmarl.roles.base import Context, Interval, Paced
from hpcmarl.roles.server.summary_file import keep_summary
from hpcmarl.roles.server.tracking import begin_tracking
from hpcmarl.tracking import Trackers

logger = logging.getLogger(__name__)
FIRST_LINE, LONGEST_PAUSE = 5.0, 60.0  # seconds between progress lines; the pause doubles after each line


class LeagueRecords:
    """Times, totals and losses of a league, and their output.

    Attributes:
        seconds: Training time over all starts of the run, seconds.
        busy_seconds: Processor time of the league's server, seconds.
        match_seconds: Time that all ranks together spent in matches, seconds.
        actor_seconds: Time that actors spent while their teams trained, seconds, shape [2]: in matches, in
            training.
        lost: Lost ranks, for the summary.
    """

    def __init__(self, context: Context, league_state: LeagueState) -> None:
        self.context, self.state = context, league_state
        self.config = context.config
        self.metrics = MetricsWriter(context.run_directory)
        self.trackers = Trackers()
        self.seconds_before = 0.0
        self.busy_seconds = self.match_seconds = 0.0
        self.actor_seconds = np.zeros(2)
        self.lost: list[dict[str, Any]] = []
        self.line_due = Interval(FIRST_LINE)
        self.row_due = Paced(self.config.logging.every_seconds)
        self._began: float | None = None
        self._ended: float | None = None

    # ---- time and limits

    def begin(self) -> None:
        """Start the training time. Remove rows of metrics that the present checkpoint supersedes."""
        self._began = time.monotonic()
        version = None if self.context.resume is None else self.state.changes
        self.trackers = begin_tracking(self.context, version, self.env_steps)
        if version is not None:
            self.metrics.truncate(version)
        else:  # an earlier start left no checkpoint, so its rows are superseded
            earlier = f"start-{self.context.start_number - 1:04d}-metrics.csv"
            self.metrics.truncate(None, self.context.run_directory / "starts" / earlier)

    def end(self) -> None:
        """End the training time; the final matches do not count."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Training time over all starts of the run, seconds."""
        if self._began is None:
            return self.seconds_before
        return self.seconds_before + (self._ended or time.monotonic()) - self._began

    @property
    def env_steps(self) -> int:
        """Environment steps of all members in all their generations."""
        return sum(member.all_env_steps for member in self.state.members)

    def wants(self, member: Member) -> bool:
        """Return whether a member needs more training."""
        limit = self.config.stop.updates
        return member.config.trains and (limit is None or member.updates < limit)

    def stop_reason(self) -> str | None:
        """Return which limit of `stop` is reached, as a text; None if none is."""
        stop = self.config.stop
        if stop.seconds is not None and self.seconds >= stop.seconds:
            return f"stop.seconds {stop.seconds:g} reached"
        if stop.env_steps is not None and self.env_steps >= stop.env_steps:
            return f"stop.env_steps {stop.env_steps} reached"
        if stop.updates is not None and not any(
            self.wants(member) or member.team is not None for member in self.state.members
        ):
            return f"stop.updates {stop.updates} reached by every member"
        return None

    # ---- reports

    def on_lost(self, rank: int) -> None:
        """Record that a rank has died or was declared dead."""
        roles = "+".join(self.context.topology.roles_of(rank))
        self.lost.append({"rank": rank, "roles": roles, "seconds": round(self.seconds, 3), "replaced": False})

    def on_seconds(self, matches: float = 0.0, training: float = 0.0) -> None:
        """Add the time that an actor spent while its team trained.

        Args:
            matches: Time in matches, seconds.
            training: Time in training, seconds.
        """
        self.actor_seconds += matches, training

    @property
    def match_share(self) -> float | None:
        """Share of matches in the actors' time while their teams trained; None without any time."""
        matches, total = float(self.actor_seconds[0]), float(self.actor_seconds.sum())
        return matches / total if total else None

    def tick(self, trained: Callable[[], Sequence[Member]], matches: int) -> None:
        """Write a row of metrics and log a progress line when they are due. Called repeatedly.

        Args:
            trained: Function that returns the members in training.
            matches: Number of matches in progress.
        """
        if self.row_due.due():
            began = time.perf_counter()
            self._row()
            self.row_due.took(time.perf_counter() - began)
        if not self.config.logging.progress or not self.line_due.due():
            return
        self.line_due = Interval(min(LONGEST_PAUSE, 2 * self.line_due.seconds))
        names = ", ".join(f"{member.name} ({member.updates:,} updates)" for member in trained()) or "none"
        line = f"{self._share()} {self._text()}; in training: {names}; {matches} matches in progress"
        logger.info("%s", line.strip())

    def _share(self) -> str:
        stop = self.config.stop
        least = min(member.updates for member in self.state.members if member.config.trains)
        parts = [(stop.updates, least), (stop.env_steps, self.env_steps), (stop.seconds, self.seconds)]
        shares = [value / limit for limit, value in parts if limit]
        return f"{100 * min(1.0, max(shares)):.0f} %," if shares else ""

    def _text(self) -> str:
        figures = self._figures()
        return (
            f"{figures['seconds']:.0f} s, {figures['snapshots']} snapshots, {figures['env_steps']:,} "
            f"environment steps, {figures['evaluation_games']:,} games in {figures['matches']:,} matches"
        )

    # ---- output

    def _figures(self) -> dict[str, Any]:
        return {
            "version": self.state.changes,
            "seconds": self.seconds,
            "env_steps": self.env_steps,
            "updates": sum(member.updates for member in self.state.members),
            "snapshots": len(self.state.snapshots),
            "matches": self.state.matches,
            "evaluation_games": self.state.payoff.recorded,
            "league_seconds": self.busy_seconds,
            "match_seconds": self.match_seconds,
            "lost_ranks": len(self.lost),
        }

    def _row(self) -> None:
        row = self._figures()
        for member in self.state.members:
            row |= {
                f"{member.name}/updates": member.updates,
                f"{member.name}/env_steps": member.all_env_steps,
            }
        self.metrics.append(row)
        self.trackers.row(row)

    def finish(self, status: str, error: str | None) -> None:
        """Write the last row of metrics and summary.json.

        Args:
            status: Status of the run.
            error: Error of the last checkpoint; None: it was written.
        """
        if self._began is not None:
            self._row()
        figures, topology = self._figures(), self.context.topology
        del figures["version"]
        summary = {
            "status": status,
            **figures,
            "env_steps_per_second": figures["env_steps"] / max(1e-9, figures["seconds"]),
            "match_share": self.match_share,
            "members": {member.name: self._member(member) for member in self.state.members},
            "resumed_from": (self.context.resume or {}).get("path"),
            "ranks": topology.size,
            "roles": [row["roles"] for row in topology.table()],
            "lost_ranks": self.lost,
            "quarantined": [snapshot.name for snapshot in self.state.snapshots if snapshot.bad],
            "checkpoint_error": error,
            "versions": self.context.versions(),
        }
        self.metrics.close()
        keep_summary(self.context, summary)
        self.trackers.close(summary)  # waits for slow trackers, so summary.json comes first
        logger.info("%s after %s", status, self._text())
        logger.info(
            "results in %s; ratings: hpcmarl league show %s",
            self.context.run_directory,
            self.context.run_directory,
        )

    def _member(self, member: Member) -> dict[str, Any]:
        met: Collection[int] = member.against.values()
        facts = {
            "side": member.side,
            "terms": member.terms,
            "generations": member.generation,
            "updates": member.updates,
            "env_steps": member.all_env_steps,
        }
        return {**facts, "training_games": sum(met), "opponents_met": len(met)}

    def close(self) -> None:
        self.metrics.close()
        self.trackers.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the times, so that a resumed run continues to count them."""
        return {name: getattr(self, name) for name in ("seconds", "busy_seconds", "match_seconds")} | {
            "actor_seconds": self.actor_seconds.copy()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seconds_before, self.busy_seconds = float(state["seconds"]), float(state["busy_seconds"])
        self.match_seconds, self.actor_seconds = (
            float(state["match_seconds"]),
            np.array(state["actor_seconds"], np.float64),
        )
