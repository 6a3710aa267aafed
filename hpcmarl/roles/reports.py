"""Reports of actors and learners to the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpcmarl.comm.payload import Payload


@dataclass(frozen=True)
class ActorReport(Payload):
    """Counters of one actor since the start of its process.

    Attributes:
        actor: Number of the actor.
        counters: Name -> value, filled by actor.py and the trajectory writer.
        times: Sums of its trajectory timer (roles/timing.py): count, seconds and squared seconds.
        stepping: Seconds that each of its workers has spent in environments; empty without workers.
        bare: Environment steps per second of bare stepping; None: not measured.
    """

    actor: int
    counters: dict[str, float]
    times: list[float]
    stepping: list[float]
    bare: float | None


@dataclass(frozen=True)
class SharedPlace(Payload):
    """Where a worker finds the memory of its actor, and how it wakes the actor.

    Attributes:
        address: The fields of the memory's SegmentAddress.
        doorbell: Token of the doorbells of the world; empty: there are none.
    """

    address: dict[str, int]
    doorbell: str


@dataclass(frozen=True)
class WorkerReport(Payload):
    """A worker's answer when it shares the memory of its actor.

    Attributes:
        bare: Environment steps per second of bare stepping; None: not measured.
    """

    bare: float | None


@dataclass(frozen=True)
class LearnerReport(Payload):
    """Counters and statistics of one learner since its last report.

    Attributes:
        group: Number of its group.
        statistics: Metric -> mean, weighted by trajectories.
        episodes: Arrays of the finished episodes (roles/statistics.py, EpisodeLog); empty for none.
        late: Trajectories that were too old to be used.
        overflow: Trajectories dropped from a full queue.
        repeated: Trajectories whose gradient came too late and that made another one.
        bad_gradients: Gradients with non-finite entries that were left out.
        learned_steps: Environment steps in gradients.
        dense_gradient_steps: The part of learned_steps with dense gradients of a sparse network.
        unused_steps: Environment steps dropped because the learner was behind.
        learning_seconds: Time spent in gradients, seconds.
        waiting_seconds: Time asleep, seconds.
        warnings: Lines to log once.
    """

    group: int
    statistics: dict[str, float]
    episodes: dict[str, Any]
    late: int
    overflow: int
    repeated: int
    bad_gradients: int
    learned_steps: int
    dense_gradient_steps: int
    unused_steps: int
    learning_seconds: float
    waiting_seconds: float
    warnings: list[str]
