"""A term of a member on one of the ranks of its team: the roles of an ordinary run, in a world of their own,
against frozen opponents.

Made by league/runtime/client.py. The team's first rank leads: it has the run's server and learner, keeps the
member's checkpoints and metrics in the member's own directory, and freezes a snapshot when the term is over.
Knows nothing of how opponents are chosen.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.comm.team import TeamTransport
from hpcmarl.comm.topology import Group, Topology
from hpcmarl.comm.transport import PeerFailure
from hpcmarl.config import Config, StopConfig
from hpcmarl.config.file import dump_config
from hpcmarl.errors import ConfigError, StorageError
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.io.pool import write_snapshot
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.io.run_lock import RunLock, acquire, read_owner
from hpcmarl.io.starts import Start, write_start
from hpcmarl.launch.ownership import this_owner
from hpcmarl.league.runtime.opponent_env import OpponentEnv, side_of
from hpcmarl.league.runtime.opponents import Opponents
from hpcmarl.league.runtime.payloads import AssignmentResult, TrainingAssignment
from hpcmarl.league.runtime.sides import GameSides, score_of
from hpcmarl.roles.base import Context
from hpcmarl.roles.server.server import Server
from hpcmarl.roles.state_checks import check_state
from hpcmarl.runtime.rank import Rank

logger = logging.getLogger(__name__)
# each term is a start of its member's run: its number counts on from one start of the league to the next
TERMS_OF_A_START = 1_000_000
MOST_NAMED = 100  # opponents in a snapshot's attributes, which have little room


def assignment_config(config: Config, assignment: TrainingAssignment) -> Config:
    """The configuration of a term as a run of its own."""
    group = config.topology.group_list[assignment.group]
    return config.model_copy(
        update={
            "league": None,
            "seed": assignment.seed,
            "name": assignment.member,
            "stop": StopConfig(updates=assignment.until, seconds_before_limit=None),
            "topology": config.topology.model_copy(
                update={"groups": (group,), "heartbeat_timeout_seconds": None}
            ),  # the job's ranks look after that
            "eval": config.eval.model_copy(
                update={"episodes": 0, "every_updates": None, "every_seconds": None}
            ),
            "logging": config.logging.model_copy(update={"progress": False}),
        }
    )


def lock_member(directory: Path, start: int) -> RunLock:
    """Lock a member's directory for a term.

    The league's server gives a member to one team at a time: whoever had it before has been given up. A
    leader that was frozen finds out when it wakes, before it writes over the next team's files.

    Args:
        directory: the member's; it exists.
        start: the number of the term among the starts of the member.

    Raises:
        PeerFailure: a later term has the member.
        ConfigError: the directory cannot be locked.
    """
    try:
        return acquire(
            directory,
            {**this_owner(os.environ), "start": start},
            lambda owner: True if owner.get("start", 0) < start else None,
        )
    except ConfigError as error:
        if (read_owner(directory) or {}).get("start", 0) > start:
            raise PeerFailure(f"the others went on without this rank: {error}") from error
        raise


class Team:
    """`done`: the term is over on this rank; `step` until then."""

    def __init__(
        self, context: Context, game: GameSides, assignment: TrainingAssignment, opponents: Opponents
    ) -> None:
        """context: the job's."""
        self.assignment, self.opponents, self.context = assignment, opponents, context
        self.transport = TeamTransport(context.transport, assignment.ranks, assignment.team)
        self.leads = self.transport.rank == 0
        self.kept: bool | None = None  # whether the term was frozen; None: it goes on
        opponents.change(assignment.names.split(), assignment.shares, assignment.own_share)
        own = game.from_side(assignment.side)
        config = assignment_config(context.config, assignment)
        league = context.config.league
        assert league is not None
        generator = np.random.default_rng([assignment.seed, assignment.team, self.transport.rank])
        path = context.run_directory / assignment.directory
        hosts = tuple(context.topology.hosts[rank] for rank in assignment.ranks)
        actors = tuple(
            assignment.ranks.index(rank)
            for rank in context.topology.groups[assignment.group].actors
            if rank in assignment.ranks
        )
        self.inner = Context(
            config,
            Topology(len(hosts), hosts, (Group(0, 0, actors),)),
            self.transport,
            path,
            side_of(context.spec, own.own),
            whole=context.spec,
            game=lambda environment: OpponentEnv(
                environment, own, opponents, score_of(league), generator, league.evaluation.greedy
            ),
            start_number=context.start_number * TERMS_OF_A_START + assignment.team,
            run_id=context.run_id,
        )
        (path / "trajectories").mkdir(parents=True, exist_ok=True)
        if self.leads:
            self.inner = replace(self.inner, lock=lock_member(path, self.inner.start_number))
            RunDirectory(path).create(dump_config(config))
            self.inner = replace(self.inner, resume=self._resumed())
            self._record_start()
            if self.inner.resume is None and assignment.start is not None:
                self.inner = replace(
                    self.inner,
                    start=opponents.pool.parameters(assignment.start, self.inner.model(drawn=False).size),
                )
        self.rank = Rank(self.inner)

    def _resumed(self) -> dict[str, Any] | None:
        """Where the member stands, from its newest checkpoint that verifies."""
        found = find_checkpoint(self.inner.run_directory)
        if found is None:
            return None
        state, _ = load_checkpoint(found)
        check_state(self.inner.config, state, self.inner.model(drawn=False).size, found)
        return {**state, "path": str(found)}

    def _record_start(self) -> None:
        """On the leader: record that this term goes on from the member's checkpoint, so that what is played
        again is superseded.
        """
        resume, number = self.inner.resume or {}, self.inner.start_number
        facts = {"member": self.assignment.member, "ranks": list(self.assignment.ranks)}
        start = Start(number, facts=facts, run=self.context.run_id)
        origin = resume.get("start")
        if isinstance(origin, dict) and origin.get("run") == start.run and 0 < int(origin["number"]) < number:
            rollouts = {int(rank): int(count) for rank, count in origin["rollouts"].items()}
            version = int(resume["engine"]["rule"]["round"])
            start = replace(
                start,
                parent=int(origin["number"]),
                version=version,
                rollouts=rollouts,
                checkpoint=str(resume["path"]),
            )
        write_start(self.inner.run_directory, start)

    @property
    def done(self) -> bool:
        return self.rank.exit_code is not None

    def step(self) -> bool:
        """One pass over messages and roles."""
        with self._in_charge():
            return self.rank.step()

    @contextlib.contextmanager
    def _in_charge(self) -> Iterator[None]:
        """Where the member is another team's by now, leave alone: this rank was frozen and given up, and the
        others are well.
        """
        try:
            yield
        except StorageError as error:
            lock = self.inner.lock
            if lock is None or lock.lost is None:
                raise
            raise PeerFailure(f"the others went on without rank {self.context.rank}: {error}") from error

    @property
    def server(self) -> Server:
        """On the leader."""
        server = self.rank.roles["server"]
        assert isinstance(server, Server)
        return server

    def stop(self, status: str) -> None:
        """On the leader: end the term at its next version. finished: and freeze it; interrupted: to be gone
        on with later.
        """
        self.server.ask_to_stop(status)

    def freeze(self) -> AssignmentResult:
        """On the leader, when the term is done: write the snapshot. What there is to tell the league's server
        about the term.
        """
        server, assignment = self.server, self.assignment
        totals = server.recorder.totals
        result = AssignmentResult(
            team=assignment.team,
            group=assignment.group,
            snapshot=None,
            version=server.engine.version,
            env_steps=int(totals["env_steps"]),
            agent_steps=int(totals["agent_steps"]),
            episodes=int(totals["episodes"]),
            seconds=server.recorder.seconds,
        )
        if server.status != "finished":
            return result
        with self._in_charge():
            if self.inner.lock is not None:
                self.inner.lock.check()
        attributes = {
            **self.inner.attributes("learner"),
            "member": assignment.member,
            "version": result.version,
            "env_steps": result.env_steps,
            "side": assignment.side,
            "generation": assignment.generation,
            "opponents": self._met_most(),
        }
        try:
            write_snapshot(
                self.context.run_directory / "pool",
                assignment.snapshot,
                server.engine.optimizer.parameters,
                attributes,
            )
        except StorageError as error:
            if self.context.config.checkpoint.on_error == "stop":
                raise
            logger.error("%s; %s goes on without having been frozen", error, assignment.member)
            return result
        return replace(result, snapshot=assignment.snapshot)

    def _met_most(self) -> list[str]:
        """Those with the largest shares when the term began."""
        order = np.argsort(-np.asarray(self.assignment.shares), kind="stable")[:MOST_NAMED]
        names = self.assignment.names.split()
        return [names[place] for place in order.tolist()]

    def close(self) -> None:
        """Give back files, environments and messages."""
        self.rank.close()
        self.transport.close()
