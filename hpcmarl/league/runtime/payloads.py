"""Payloads of messages between the league's server and the client on each rank."""

from __future__ import annotations

from dataclasses import dataclass

from hpcmarl.comm.payload import Payload
from hpcmarl.types import Array


@dataclass(frozen=True)
class FreeRank(Payload):
    """Report that a rank can take work (FREE).

    Attributes:
        group: Number of the group that the rank leads and that needs an assignment; None: it leads no group.
        plays: Whether the rank plays evaluation matches.
    """

    group: int | None
    plays: bool


@dataclass(frozen=True)
class OpponentMixture(Payload):
    """A new mixture of opponents for a member in training (OPPONENTS).

    Attributes:
        team: Number of the training assignment.
        names: Names of snapshots in one text, separated by spaces.
        shares: Share of the episodes against each snapshot, float64 [snapshots].
        own_share: Share of the episodes against the member's own present weights.
    """

    team: int
    names: str
    shares: Array
    own_share: float


@dataclass(frozen=True)
class TrainingAssignment(Payload):
    """Training of one member by one team, up to a version (ASSIGNMENT).

    Attributes:
        team: Number of the assignment, from 1; messages of the team carry it.
        member: Name of the member.
        side: Side that the member plays.
        group: Group of the topology that forms the team.
        ranks: Ranks of the team, the leader first.
        until: Version of the member at which the assignment ends.
        directory: Directory of the member, relative to the run directory.
        snapshot: Name of the snapshot that is frozen at the end.
        seed: Seed of the member's present generation.
        generation: Number of the member's present generation.
        start: Snapshot that a generation starts from; None: initial weights.
        names: Names of the opponents (OpponentMixture).
        shares: Shares of the opponents (OpponentMixture).
        own_share: Share of the member itself (OpponentMixture).
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
    """Order to end an assignment early (STOP).

    Attributes:
        team: Number of the assignment.
        status: "finished": freeze the member; "interrupted": continue it later.
    """

    team: int
    status: str


@dataclass(frozen=True)
class TrainingProgress(Payload):
    """Progress of one rank of a team since its last report (PLAYED).

    Attributes:
        team: Number of the assignment.
        progress: Version, environment steps and episodes of the member; None from ranks that do not lead.
        played: For each opponent, the number of games and the summed score of this rank's episodes against
            it.
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
    """End of an assignment (FROZEN).

    Attributes:
        team: Number of the assignment.
        group: Group that formed the team and is free again.
        snapshot: Name of the snapshot that was written; None: no snapshot.
        version: Version of the member.
        env_steps: Environment steps of the member in this generation.
        agent_steps: Agent steps of the member in this generation.
        episodes: Episodes of the member in this generation.
        seconds: Training time of the member, seconds.
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
    """End of an evaluation match (RESULT).

    Attributes:
        row: Name of the row's player.
        column: Name of the column's player.
        played: Sums over the games (Played.row in league/runtime/opponents.py); None: the match was not
            played.
        bad: Name of a snapshot whose file does not verify; None: both verify.
        seconds: Duration of the match, seconds.
    """

    row: str
    column: str
    played: list[float] | None
    bad: str | None
    seconds: float
