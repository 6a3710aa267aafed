"""A training assignment on one rank of its team: the roles of an ordinary run, against frozen opponents.

The roles communicate within the team only. The team's first rank leads: it has the run's server and learner.
It keeps the member's checkpoints and metrics in the member's own directory. It freezes a snapshot when the
assignment ends.
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
# An assignment is a start of its member's run. The start's number is the assignment's number plus this factor
# times the number of the league's start. So numbers rise from one start of the league to the next.
TERMS_OF_A_START = 1_000_000
MOST_NAMED = 100  # most opponents in a snapshot's attributes, which have little room


def assignment_config(config: Config, assignment: TrainingAssignment) -> Config:
    """Return the configuration of an assignment, as for a run without a league."""
    group = config.topology.group_list[assignment.group]
    return config.model_copy(
        update={
            "league": None,
            "seed": assignment.seed,
            "name": assignment.member,
            "stop": StopConfig(updates=assignment.until, seconds_before_limit=None),
            # The ranks of the whole run check heartbeats already.
            "topology": config.topology.model_copy(
                update={"groups": (group,), "heartbeat_timeout_seconds": None}
            ),
            "eval": config.eval.model_copy(
                update={"episodes": 0, "every_updates": None, "every_seconds": None}
            ),
            # wandb and trackers outside hpcmarl show one run, that of the league's server.
            "logging": config.logging.model_copy(update={"progress": False, "wandb": None, "trackers": ()}),
        }
    )


def lock_member(directory: Path, start: int) -> RunLock:
    """Lock a member's directory for an assignment.

    The league's server gives a member to one team at a time, so any earlier owner has been declared dead. A
    leader that was suspended and then continues finds this lock before it overwrites files of the next team.

    Args:
        directory: Existing directory of the member.
        start: Number of the assignment among the starts of the member.

    Raises:
        PeerFailure: If a later assignment has locked the directory.
        ConfigError: If the directory cannot be locked.
    """
    try:
        return acquire(
            directory,
            {**this_owner(os.environ), "start": start},
            lambda owner: True if owner.get("start", 0) < start else None,
        )
    except ConfigError as error:
        if (read_owner(directory) or {}).get("start", 0) > start:
            raise PeerFailure(f"the other ranks continued without this rank: {error}") from error
        raise


def _inner_group(topology: Topology, assignment: TrainingAssignment) -> Group:
    """Return the group of an assignment's ranks, as ranks of the team."""
    place = {rank: number for number, rank in enumerate(assignment.ranks)}
    actors = [rank for rank in topology.groups[assignment.group].actors if rank in place]
    teams = [
        tuple(place[worker] for worker in topology.workers_of(actor) if worker in place) for actor in actors
    ]
    return Group(0, 0, tuple(place[actor] for actor in actors), tuple(teams) if any(teams) else ())


class Team:
    """An assignment on one rank of its team. Call `step` until `done`.

    Args:
        context: Context of the league's run.
        game: Sides of the game.
        assignment: The assignment.
        opponents: Source of opponents; their distribution is set here.

    Attributes:
        transport: Transport between the ranks of the team.
        leads: Whether this rank leads the team.
        inner: Context of the team's roles.
        rank: The roles of this rank in the team.
    """

    def __init__(
        self, context: Context, game: GameSides, assignment: TrainingAssignment, opponents: Opponents
    ) -> None:
        self.assignment, self.opponents, self.context = assignment, opponents, context
        self.transport = TeamTransport(context.transport, assignment.ranks, assignment.team)
        self.leads = self.transport.rank == 0
        opponents.change(assignment.names.split(), assignment.shares, assignment.own_share)
        own = game.from_side(assignment.side)
        config = assignment_config(context.config, assignment)
        league = context.config.league
        assert league is not None
        generator = np.random.default_rng([assignment.seed, assignment.team, self.transport.rank])
        path = context.run_directory / assignment.directory
        hosts = tuple(context.topology.hosts[rank] for rank in assignment.ranks)
        self.inner = Context(
            config,
            Topology(len(hosts), hosts, (_inner_group(context.topology, assignment),)),
            self.transport,
            path,
            side_of(context.spec, own.own),
            whole=context.spec,
            game=lambda environment: OpponentEnv(
                environment, own, opponents, score_of(league), generator, league.evaluation.greedy
            ),
            start_number=context.start_number * TERMS_OF_A_START + assignment.team,
            run_id=context.run_id,
            trace=context.trace,
            place=context.place,
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
        """Return the member's state from its newest checkpoint that verifies; None if there is none."""
        found = find_checkpoint(self.inner.run_directory)
        if found is None:
            return None
        state, _ = load_checkpoint(found)
        check_state(self.inner.config, state, self.inner.model(drawn=False).size, found)
        return {**state, "path": str(found)}

    def _record_start(self) -> None:
        """Record that this assignment continues from the member's checkpoint. Called on the leader.

        Trajectories that are played again supersede the earlier ones.
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
        """Whether the assignment is over on this rank."""
        return self.rank.exit_code is not None

    def step(self) -> bool:
        """Process messages and let each role work once; return whether there was work."""
        with self._in_charge():
            return self.rank.step()

    @contextlib.contextmanager
    def _in_charge(self) -> Iterator[None]:
        """Turn a lost lock into a PeerFailure.

        If another team has the member, this rank was suspended and declared dead, and the other ranks
        continued without it. It must leave alone.
        """
        try:
            yield
        except StorageError as error:
            lock = self.inner.lock
            if lock is None or lock.lost is None:
                raise
            raise PeerFailure(
                f"the other ranks continued without rank {self.context.rank}: {error}"
            ) from error

    @property
    def server(self) -> Server:
        """Server of the member's run. Exists on the leader only."""
        server = self.rank.roles["server"]
        assert isinstance(server, Server)
        return server

    def stop(self, status: str) -> None:
        """End the assignment at its next version. Called on the leader.

        Args:
            status: "finished": freeze the member; "interrupted": continue it later.
        """
        self.server.ask_to_stop(status)

    def freeze(self) -> AssignmentResult:
        """Write the snapshot of an assignment that is done. Called on the leader.

        Returns:
            Report for the league's server. Its `snapshot` is None if the assignment was interrupted or the
            snapshot could not be written.

        Raises:
            PeerFailure: If another team has the member.
            StorageError: If the snapshot cannot be written and `checkpoint.on_error` is "stop".
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
            logger.error("%s; member %s continues without a new snapshot", error, assignment.member)
            return result
        return replace(result, snapshot=assignment.snapshot)

    def _met_most(self) -> list[str]:
        """Return the opponents with the largest shares when the assignment began."""
        order = np.argsort(-np.asarray(self.assignment.shares), kind="stable")[:MOST_NAMED]
        names = self.assignment.names.split()
        return [names[place] for place in order.tolist()]

    def close(self) -> None:
        """Release files, environments and messages."""
        self.rank.close()
        self.transport.close()
