"""Payloads between the league's server and its clients, one on every rank."""

from __future__ import annotations

from dataclasses import dataclass

from hpcmarl.comm.payload import Payload
from hpcmarl.types import Array


@dataclass(frozen=True)
class FreeRank(Payload):
    """A rank can take work (FREE).

    Attributes:
        group: Number of the group whose team it leads and that wants an assignment; None: it leads none.
        plays: Whether it plays evaluation matches.
    """

    group: int | None
    plays: bool


@dataclass(frozen=True)
class OpponentMixture(Payload):
    """A new mixture of opponents for a member in training (OPPONENTS).

    Attributes:
        team: Number of the training assignment.
        names: Names of snapshots, with spaces between (one text, however many).
        shares: Share of the episodes against each, float64 [snapshots].
        own_share: Share of the episodes against the newest version of itself.
    """

    team: int
    names: str
    shares: Array
    own_share: float


@dataclass(frozen=True)
class TrainingAssignment(Payload):
    """Training of one member by one team, up to a version (TERM).

    Attributes:
        team: Number of the assignment, from 1; messages of the team carry it.
        member: Name of the member.
        side: The side that it plays.
        group: The group of the topology that is the team.
        ranks: Its ranks, the leader first.
        until: Version of the member at which the assignment ends.
        directory: Directory of the member, in the run directory.
        snapshot: Name of the snapshot that is frozen at the end.
        seed: Seed of the member's present generation.
        generation: Number of the member's present generation.
        start: Snapshot that a generation starts from; None: initial weights.
        names, shares, own_share: The mixture of opponents (OpponentMixture).
    """

    team: int
    member: str
    side: str
    group: int
    ranks: list[int]
    until: int
    directory: str
    snapshot: str
    seed: int
    generation: int
    start: str | None
    names: str
    shares: Array
    own_share: float


@dataclass(frozen=True)
class StopAssignment(Payload):
    """The league's server ends an assignment early (STOP).

    Attributes:
        team: Number of the assignment.
        status: "finished": freeze the member; "interrupted": continue it later.
    """

    team: int
    status: str


@dataclass(frozen=True)
class TrainingProgress(Payload):
    """What one rank of a team has done since its last report (PLAYED).

    Attributes:
        team: Number of the assignment.
        progress: Version, environment steps and episodes of the member; None from ranks that do not lead.
        played: Opponent -> games and summed score of this rank's episodes against it.
        bad: Names of snapshots whose files do not verify.
        match_seconds: Time in evaluation matches, seconds.
        training_seconds: Time in training, seconds.
    """

    team: int
    progress: list[int] | None
    played: dict[str, list[float]]
    bad: list[str]
    match_seconds: float
    training_seconds: float


@dataclass(frozen=True)
class AssignmentResult(Payload):
    """The end of an assignment (FROZEN).

    Attributes:
        team: Number of the assignment.
        group: The group that was the team; free again.
        snapshot: Name of the snapshot that was written; None for none.
        version: Version of the member.
        env_steps: Its environment steps, in this generation.
        agent_steps: Its agent steps, in this generation.
        episodes: Its episodes, in this generation.
        seconds: Its training time, seconds.
    """

    team: int
    group: int
    snapshot: str | None
    version: int
    env_steps: int
    agent_steps: int
    episodes: int
    seconds: float


@dataclass(frozen=True)
class MatchTask(Payload):
    """An evaluation match to play (MATCH).

    Attributes:
        row: Name of the player on `side`.
        column: Name of its opponent.
        side: Side of the row's player.
        seed: Seed of the match.
    """

    row: str
    column: str
    side: str
    seed: int


@dataclass(frozen=True)
class MatchResult(Payload):
    """The end of an evaluation match (RESULT).

    Attributes:
        row: Name of the row's player.
        column: Name of the column's player.
        played: Sums over its games (Played.row in league/core/payoff.py); None if it could not be played.
        bad: Name of a snapshot whose file does not verify; None: both are fine.
        seconds: Time that it took, seconds.
    """

    row: str
    column: str
    played: list[float] | None
    bad: str | None
    seconds: float
