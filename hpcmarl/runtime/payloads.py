"""Payloads about the ranks of a run: losses and respawned processes."""

from __future__ import annotations

from dataclasses import dataclass

from hpcmarl.comm.payload import Payload


@dataclass(frozen=True)
class LostRank(Payload):
    """A rank that the run continues without; from the server to every rank.

    Attributes:
        rank: The lost rank.
        why: How it was lost, to follow its name in a sentence.
        groups: All groups that are lost by now.
        processes: Process number and start time of its frozen process, to be killed on its host; else empty.
    """

    rank: int
    why: str
    groups: list[int]
    processes: list[list[int]]


@dataclass(frozen=True)
class ReplacedRank(Payload):
    """Outcome of starting a process in a dead actor's place; from its learner to the server.

    Attributes:
        rank: The dead actor's rank.
        process: Process number and start time of the new one; None if there is none, or it has died.
        relay: Rank that passes messages on to the new process.
    """

    rank: int
    process: list[int] | None
    relay: int


@dataclass(frozen=True)
class RespawnedStart(Payload):
    """What a process that is started in a dead actor's place needs to build its role.

    Attributes:
        config: Text of the run's configuration.
        run_directory: The run directory.
        hosts: Host of each rank.
        job_end: End of the Slurm job, seconds since 1970; None: unknown.
        start_number: Number of this start of the run.
        start_version: Version of the checkpoint that this start continues; None: unknown.
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
