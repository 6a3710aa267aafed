"""Measure the league's server with simulated teams in real time: its share of processor time and its memory.

The server is the one that trains (league/runtime/league_server.py), with its checkpoints and metrics. Teams
only answer. They report progress and results as often as real teams. At the end of a training assignment they
freeze a policy, which is always the same. They return each match after a while with a random result.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.bench.costs import resident_megabytes
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.payload import Payload
from hpcmarl.comm.protocol import Kind, control
from hpcmarl.comm.transport import Transport
from hpcmarl.config.file import load_config
from hpcmarl.io.pool import Pool, snapshot_name, write_snapshot
from hpcmarl.league.runtime.client import report_seconds
from hpcmarl.league.runtime.league_server import League
from hpcmarl.league.runtime.payloads import (
    AssignmentResult,
    FreeRank,
    MatchResult,
    MatchTask,
    OpponentMixture,
    TrainingAssignment,
    TrainingProgress,
)
from hpcmarl.roles.base import Interval
from hpcmarl.runtime.rank import Rank
from hpcmarl.training import make_rank, prepare
from hpcmarl.types import FloatArray

LEAGUE = """
env: {id: "matrix:rps"}
algo: {name: ma_trace, critic: independent, unroll: 1, network: {hidden: [16]}}
topology: {server: dedicated, actors_per_learner: 0, heartbeat_timeout_seconds: null}
trajectories: {enabled: false}
stop: {seconds: 1000000}
logging: {progress: false}
league: {matchmaking: {name: pfsp}, freeze: {least_updates: 100, most_updates: 100}}
"""
UPDATES_A_TERM = 100  # updates of a training assignment, as in LEAGUE
MATCH_SECONDS = 2.0
SETTLING_SECONDS = 0.5  # until every team has an assignment
# Each report names this many opponents, and this many games with each.
OPPONENTS_PER_REPORT, GAMES_PER_REPORT = 8, 4


class SimulatedTeam:
    """A rank that answers the server as a team does.

    Args:
        transport: This rank's place in the world.
        pool: Directory of the snapshots.
        parameters: Parameters of every snapshot that it freezes.
        term_seconds: Seconds of a training assignment; a random part of it for the first one.
    """

    def __init__(self, transport: Transport, pool: Path, parameters: FloatArray, term_seconds: float) -> None:
        self.transport, self.pool, self.parameters, self.term_seconds = (
            transport,
            pool,
            parameters,
            term_seconds,
        )
        self.generator = np.random.default_rng([transport.rank, 1])
        self.assignment: TrainingAssignment | None = None
        self.match: MatchTask | None = None
        self.began = self.match_over = 0.0
        self.seconds = term_seconds * self.generator.random()
        self.report_due = Interval(report_seconds(transport.size) * (0.5 + self.generator.random()))
        self._send(Kind.FREE, FreeRank(transport.rank - 1, plays=True))

    def step(self) -> None:
        """Answer received messages and send reports that are due."""
        now = time.monotonic()
        while (message := self.transport.receive()) is not None:
            if message.kind is Kind.ASSIGNMENT:
                self.assignment, self.began = TrainingAssignment.unpack(message.payload), now
            elif message.kind is Kind.MATCH:
                self.match, self.match_over = MatchTask.unpack(message.payload), now + MATCH_SECONDS
            elif message.kind is Kind.OPPONENTS and self.assignment is not None:
                names = OpponentMixture.unpack(message.payload).names
                self.assignment = replace(self.assignment, names=names)
            message.release()
        if self.match is not None and now >= self.match_over:
            won = float(self.generator.random())
            played = [32, 32 * won, 64 * won - 32, 32.0, 32 - 64 * won, 32.0]
            result = MatchResult(self.match.row, self.match.column, played, None, MATCH_SECONDS)
            self._send(Kind.RESULT, result)
            self.match = None
        if self.assignment is not None and self.report_due.due():
            self._report_progress(self.assignment, min(1.0, (now - self.began) / self.seconds))

    def _report_progress(self, assignment: TrainingAssignment, share: float) -> None:
        version = assignment.until - round((1.0 - share) * UPDATES_A_TERM)
        names = assignment.names.split()
        met = self.generator.choice(len(names), min(OPPONENTS_PER_REPORT, len(names)), replace=False)
        played = {
            names[number]: [GAMES_PER_REPORT, GAMES_PER_REPORT * float(self.generator.random())]
            for number in met.tolist()
        }
        counts = (version, 1000 * version, 500 * version)
        self._send(Kind.PLAYED, TrainingProgress(assignment.team, list(counts), played, [], 0.0, 0.0))
        if share >= 1.0:
            freeze(self.pool, assignment.snapshot, self.parameters, version)
            result = AssignmentResult(
                team=assignment.team,
                group=self.transport.rank - 1,
                snapshot=assignment.snapshot,
                version=version,
                env_steps=1000 * version,
                agent_steps=2000 * version,
                episodes=500 * version,
                seconds=self.seconds,
            )
            self._send(Kind.FROZEN, result)
            self.assignment, self.seconds = None, self.term_seconds

    def _send(self, kind: Kind, payload: Payload) -> None:
        self.transport.send(0, control(kind, payload.pack(), source=self.transport.rank))


def freeze(pool: Path, name: str, parameters: FloatArray, version: int) -> None:
    """Write a snapshot as teams do.

    Args:
        pool: Directory of the snapshots.
        name: Name of the snapshot.
        parameters: Its parameters, shape [P].
        version: Its version; the numbers of steps follow from it.
    """
    facts = {
        "member": name.rpartition("-")[0],
        "version": version,
        "env_steps": 1000 * version,
        "generation": 1,
        "side": "player",
        "opponents": [],
    }
    write_snapshot(pool, name, parameters, facts)


def run(members: int, snapshots: int, seconds: float, term_seconds: float) -> dict[str, Any]:
    """Run a league with simulated teams.

    Args:
        members: Number of members, and of simulated teams.
        snapshots: Snapshots in the pool at the start.
        seconds: Time to measure.
        term_seconds: Seconds of a simulated training assignment.

    Returns:
        Figures of the measured time; all shares are of it.
        server_share: Processor time of the server's rank, polling included.
        league_share: Processor time that runs count as `league_seconds`.
        slowest_ms: Processor time of the server's longest step.
        server_mb, server_growth_mb: Memory of the process at the end, and its growth since the start.
        pool_growth_mb: Memory that reading every snapshot once adds.
        Memory is None if the system does not report it.
    """
    config = load_config(
        LEAGUE, [f"league.members={{m: {{copies: {members}}}}}", f"topology.groups={members}"]
    )
    assert config.league is not None
    with tempfile.TemporaryDirectory(prefix="hpcmarl-bench-") as name:
        world = LocalWorld(members + 1)
        context = prepare(world.transports[0], config, f"{name}/run", None)
        rank = make_rank(context)
        parameters, pool = context.model(drawn=True).initial_parameters(), context.run_directory / "pool"
        try:
            _fill(pool, members, snapshots, parameters)
            rank.step()
            teams = [
                SimulatedTeam(transport, pool, parameters, term_seconds) for transport in world.transports[1:]
            ]
            for _ in _turns(rank, teams, SETTLING_SECONDS):
                pass  # afterwards every team has an assignment
            return _measure(rank, teams, seconds) | {
                "pool_growth_mb": _growth_of_reading(pool, config.league.pool_memory, parameters.size)
            }
        finally:
            rank.close()


def _fill(pool: Path, members: int, snapshots: int, parameters: FloatArray) -> None:
    """Write snapshots that the server will load as frozen after its last checkpoint."""
    pool.mkdir()
    for number in range(members, snapshots):
        member, term = number % members, number // members
        freeze(
            pool,
            snapshot_name(f"m-{member + 1}" if members > 1 else "m", term),
            parameters,
            UPDATES_A_TERM * term,
        )


def _turns(rank: Rank, teams: list[SimulatedTeam], seconds: float) -> Iterator[float]:
    """Step all teams and the server for `seconds`; yield the processor time of each of the server's steps."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for team in teams:
            team.step()
        busy = True
        while busy:
            began = time.thread_time()
            busy = rank.step()
            yield time.thread_time() - began
        time.sleep(0.001)


def _measure(rank: Rank, teams: list[SimulatedTeam], seconds: float) -> dict[str, Any]:
    league = rank.roles["league"]
    assert isinstance(league, League)
    before, memory = league.records.busy_seconds, resident_megabytes()
    frozen, matches, began = len(league.state.snapshots), league.state.matches, time.monotonic()
    turns = list(_turns(rank, teams, seconds))
    elapsed, after = time.monotonic() - began, resident_megabytes()
    return {
        "members": len(teams),
        "snapshots": len(league.state.snapshots),
        "seconds": round(elapsed, 2),
        "frozen": len(league.state.snapshots) - frozen,
        "matches": league.state.matches - matches,
        "server_share": round(sum(turns) / elapsed, 4),
        "league_share": round((league.records.busy_seconds - before) / elapsed, 4),
        "slowest_ms": round(1e3 * max(turns), 1),
        "server_mb": None if after is None else round(after, 1),
        "server_growth_mb": None if after is None or memory is None else round(after - memory, 1),
    }


def _growth_of_reading(directory: Path, keep: int, size: int) -> float | None:
    pool, before = Pool(directory, keep), resident_megabytes()
    for path in sorted(directory.glob("*.h5")):
        pool.parameters(path.stem, size)
    after = resident_megabytes()
    return None if after is None or before is None else round(after - before, 1)
