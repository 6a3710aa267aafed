"""What each rank of the present start has spent its time on, from the reports of actors and learners."""

from __future__ import annotations

import numpy as np

from hpcmarl.comm.topology import Topology
from hpcmarl.io.activity import (
    ACTIVITIES,
    EVALUATING,
    HELD,
    INFERRING,
    LEARNING,
    RECORDING,
    SENDING,
    SERVING,
    STEPPING,
    WAITING,
    ActivityFile,
    activity_path,
)
from hpcmarl.roles.base import Context
from hpcmarl.roles.reports import ActorReport, LearnerReport
from hpcmarl.types import Array

OF_ACTORS = {
    "environment_seconds": STEPPING,
    "acting_seconds": INFERRING,
    "sending_seconds": SENDING,
    "recording_seconds": RECORDING,
    "held_seconds": HELD,
    "waiting_seconds": WAITING,
}
COLUMN = {name: column for column, name in enumerate(ACTIVITIES)}


class RankTimes:
    """Cumulative seconds of each rank by activity.

    A rank with several roles has the sum of their work. Its sleep is that of one role, since all of them
    sleep together. A worker's sleep is not reported.

    Args:
        topology: Ranks and groups.

    Attributes:
        evaluating: Seconds of the evaluator.
        serving_before: Seconds that the server had spent on gradients before this start.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.evaluating = self.serving_before = 0.0
        self._actors: Array = np.zeros((topology.size, len(ACTIVITIES)))
        self._learners: Array = np.zeros((topology.size, len(ACTIVITIES)))
        self._reported: Array = np.zeros(
            (topology.size, len(ACTIVITIES))
        )  # newest counters, in _actors already

    def on_actor(self, report: ActorReport) -> None:
        """Add the progress of an actor's counters, and of its workers', since the last report."""
        rank = self.topology.actors[report.actor]
        workers = self.topology.workers_of(rank)
        own = np.zeros(len(ACTIVITIES))
        for name, activity in OF_ACTORS.items():
            own[COLUMN[activity]] = report.counters.get(name, 0.0)
        if report.stepping:  # the workers step, not the actor
            own[COLUMN[STEPPING]] = 0.0
        self._add(rank, own)
        for worker, seconds in zip(workers, report.stepping, strict=False):
            stepping = np.zeros(len(ACTIVITIES))
            stepping[COLUMN[STEPPING]] = seconds
            self._add(worker, stepping)

    def _add(self, rank: int, newest: Array) -> None:
        """Add the difference to the counters before; a new process in the place of a lost one began at 0."""
        before = self._reported[rank]
        self._actors[rank] += newest - before if (newest >= before).all() else newest
        self._reported[rank] = newest

    def on_learner(self, report: LearnerReport) -> None:
        """Add the seconds of a learner's report, which are those since its last report."""
        own = self._learners[self.topology.groups[report.group].learner]
        own[COLUMN[LEARNING]] += report.learning_seconds
        own[COLUMN[WAITING]] += report.waiting_seconds

    def spent(self, serving: float) -> Array:
        """Return the cumulative seconds, [rank, activity].

        Args:
            serving: Seconds that the server has spent on gradients, in all starts.
        """
        spent: Array = self._actors + self._learners
        spent[:, COLUMN[WAITING]] = np.maximum(
            self._actors[:, COLUMN[WAITING]], self._learners[:, COLUMN[WAITING]]
        )
        spent[self.topology.server, COLUMN[SERVING]] += serving - self.serving_before
        spent[self.topology.server, COLUMN[EVALUATING]] += self.evaluating
        return spent


def activity_file(context: Context, times: RankTimes) -> ActivityFile:
    """Return the file of a run's present start."""
    names = [f"{row['roles']} ({row['host']})" for row in times.topology.table()]
    attributes = {"env": context.config.env.id, "role": "server", "start": context.start_number}
    return ActivityFile(activity_path(context.run_directory, context.start_number), names, attributes)
