"""What is written about a league besides checkpoints: time, totals over the members, metrics, the summary,
lines while it goes on.

Lives on the league's server; the members' own metrics are written by their teams, in members/NAME/. Knows no
messages.
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
from hpcmarl.roles.server.recorder import keep_summary

logger = logging.getLogger(__name__)
FIRST_LINE, LONGEST_PAUSE = 5.0, 60.0  # seconds between lines


class LeagueRecords:
    """`seconds` is training time over all resumptions; busy_seconds: the processor time of the league's
    server itself; match_seconds: what all ranks together have spent in matches; actor_seconds: what actors
    have spent, while their teams trained, in matches and in training.
    """

    def __init__(self, context: Context, league_state: LeagueState) -> None:
        self.context, self.state = context, league_state
        self.config = context.config
        self.metrics = MetricsWriter(context.run_directory)
        self.seconds_before = 0.0
        self.busy_seconds = self.match_seconds = 0.0
        self.actor_seconds = np.zeros(2)
        self.lost: list[dict[str, Any]] = []
        self.line_due = Interval(FIRST_LINE)
        self.row_due = Paced(self.config.logging.every_seconds)
        self._began: float | None = None
        self._ended: float | None = None

    # ---- time and ends

    def begin(self) -> None:
        """Training starts."""
        self._began = time.monotonic()
        if self.context.resume is not None:
            self.metrics.truncate(self.state.changes)
        else:  # what an earlier start wrote without a checkpoint is superseded
            earlier = f"start-{self.context.start_number - 1:04d}-metrics.csv"
            self.metrics.truncate(None, self.context.run_directory / "starts" / earlier)

    def end(self) -> None:
        """Training is over; judging does not count as training time."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        if self._began is None:
            return self.seconds_before
        return self.seconds_before + (self._ended or time.monotonic()) - self._began

    @property
    def env_steps(self) -> int:
        """Of all members in all their generations."""
        return sum(member.all_env_steps for member in self.state.members)

    def wants(self, member: Member) -> bool:
        """Whether this member has anything left to do."""
        limit = self.config.stop.updates
        return member.config.trains and (limit is None or member.updates < limit)

    def stop_reason(self) -> str | None:
        """Which of `stop`'s limits is reached, in words."""
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

    # ---- what comes in

    def on_lost(self, rank: int) -> None:
        """A rank has died or was given up."""
        roles = "+".join(self.context.topology.roles_of(rank))
        self.lost.append({"rank": rank, "roles": roles, "seconds": round(self.seconds, 3), "replaced": False})

    def on_seconds(self, matches: float = 0.0, training: float = 0.0) -> None:
        """What an actor has spent while its team trained."""
        self.actor_seconds += matches, training

    @property
    def match_share(self) -> float | None:
        """Of the actors' time while their teams trained."""
        matches, total = float(self.actor_seconds[0]), float(self.actor_seconds.sum())
        return matches / total if total else None

    def tick(self, trained: Callable[[], Sequence[Member]], matches: int) -> None:
        """Called again and again: a line and a row now and then. trained: who is being trained."""
        if self.row_due.due():
            began = time.perf_counter()
            self._row()
            self.row_due.took(time.perf_counter() - began)
        if not self.config.logging.progress or not self.line_due.due():
            return
        self.line_due = Interval(min(LONGEST_PAUSE, 2 * self.line_due.seconds))
        names = ", ".join(f"{member.name} ({member.updates:,} updates)" for member in trained()) or "nobody"
        line = f"{self._share()} {self._text()}; in training: {names}; {matches} matches under way"
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

    # ---- what goes out

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

    def finish(self, status: str, error: str | None) -> None:
        """The last row of metrics and summary.json."""
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

    def state_dict(self) -> dict[str, Any]:
        """Time, so that a resumed run goes on counting."""
        return {name: getattr(self, name) for name in ("seconds", "busy_seconds", "match_seconds")} | {
            "actor_seconds": self.actor_seconds.copy()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seconds_before, self.busy_seconds = float(state["seconds"]), float(state["busy_seconds"])
        self.match_seconds, self.actor_seconds = (
            float(state["match_seconds"]),
            np.array(state["actor_seconds"], np.float64),
        )
