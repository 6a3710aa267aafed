"""Payloads about the ranks of a run: losses and respawned processes."""

from __future__ import annotations

from dataclasses import dataclass

from hpcmarl.comm.payload import Payload


@dataclass(frozen=True)
class LostRank(Payload):
    """Loss of a rank, without which the run continues. Sent by the server to every rank.

    Attributes:
        rank: The lost rank.
        why: Cause of the loss; follows the name of the rank in a sentence.
        groups: All groups that are lost so far.
        processes: Process number and start time of a frozen process, which is killed on its host; else empty.
    """

    rank: int
    why: str
    groups: list[int]
    processes: list[list[int]]


@dataclass(frozen=True)
class ReplacedRank(Payload):
    """Outcome of the replacement of a dead actor. Sent by the actor's learner to the server.

    Attributes:
        rank: Rank of the dead actor.
        process: Process number and start time of the new process; None if it could not be started or has
            died.
        relay: Rank that passes messages on to the new process.
    """

    rank: int
    process: list[int] | None
    relay: int


@dataclass(frozen=True)
class RespawnedStart(Payload):
    """Data from which a process that replaces a dead actor builds its role.

    Attributes:
        config: Configuration of the run, as text.
        run_directory: The run directory.
        hosts: Host of each rank.
        job_end: End of the Slurm job, seconds since 1970; None: unknown.
        start_number: Number of this start of the run.
        start_version: Version of the checkpoint from which this start resumes; None: unknown.
        run_id: The run's identifier.
        trusted: Environment modules that may be imported (envs/trust.py).
        server: Process number and start time of the server; empty: unknown.
    """

    config: str
    run_directory: str
    hosts: list[str]
    job_end: float | None
    start_number: int
    start_version: int | None
    run_id: str
    trusted: list[str]
    server: list[int]
