"""Checkpoints of a whole run: collect the state of every role and write it in the background.

A checkpoint waits at most STATE_TIMEOUT seconds for the state of a slow or dead rank. The state of such a
rank is left out and listed under `missing`. When the run is resumed, that rank begins with new random
numbers.

Two kinds of state are waited for as long as a living rank can send them. Under AllReduce, that is a learner's
optimizer of exactly the checkpoint's version, since the server has none. In a deterministic run, it is every
state.

States are stored by the number of the actor or group, not by rank.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Kind, control
from hpcmarl.errors import StorageError
from hpcmarl.io.checkpoint import CheckpointWriter
from hpcmarl.roles.base import Context
from hpcmarl.tracing.spans import Span

logger = logging.getLogger(__name__)
STATE_TIMEOUT = 10.0  # seconds


class CheckpointCoordinator:
    """Collect and write checkpoints, one at a time. A request during a collection is refused.

    Attributes:
        expected: (role, rank) of every learner and actor whose rank has not been lost.
        pending: The checkpoint that is being collected; None: none is.
        waiting: (role, rank) whose states the pending checkpoint still lacks.
        final: Last states received so far by (role, rank); None before `expect_final`.
        when_complete: Called once with the state of the pending checkpoint when it is written.
        reported: The storage error that was handled last.
        resumed_version: Version of the checkpoint that the run resumed from, which lies in this run directory
            as well; None: it did not resume.
        not_written: Why the newest checkpoint was not attempted; None: it was.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        topology = context.topology
        self.names = {("learner", group.learner): f"{group.index}" for group in topology.groups}
        self.names |= {("actor", rank): f"{index}" for index, rank in enumerate(topology.actors)}
        self.expected = set(self.names)
        self.lock = context.lock
        guard = (lambda: None) if self.lock is None else self.lock.check
        self.writer = CheckpointWriter(
            context.run_directory / "checkpoints", keep=context.config.checkpoint.keep, guard=guard
        )
        if context.trace is not None:
            self.writer.on_written = context.trace.later(Span.CHECKPOINT_FILE)
        self.pending: dict[str, Any] | None = None
        self.version = 0
        self.deadline = 0.0
        self.waiting: set[tuple[str, int]] = set()
        self.final: dict[tuple[str, int], Any] | None = None
        self.when_complete: Callable[[dict[str, Any]], None] | None = None
        self.reported: StorageError | None = None
        self.collective, self.deterministic = context.config.rounds.collective, context.config.deterministic
        self.names_by_role = {(role, name) for (role, _), name in self.names.items()}
        self.resumed_version = (
            None if context.resume is None else int(context.resume["engine"]["rule"]["round"])
        )
        self.not_written: str | None = None

    def forget(self, rank: int) -> None:
        """Stop waiting for the states of a lost rank."""
        self.expected = {name for name in self.expected if name[1] != rank}
        self.waiting &= self.expected

    def expect_again(self, rank: int) -> None:
        """Expect states from a lost rank again, because a new process replaces it."""
        self.expected |= {name for name in self.names if name[1] == rank}

    def request(self, version: int, state: dict[str, Any]) -> bool:
        """Begin to collect a checkpoint.

        Args:
            version: Version of the checkpoint.
            state: The server's own state.

        Returns:
            False if another checkpoint is being collected, so that this one is refused.
        """
        if self.pending is not None:
            return False
        self.pending = self._begun(state)
        self.version, self.deadline = version, time.monotonic() + STATE_TIMEOUT
        self.waiting = set(self.expected)
        word = control(
            Kind.CHECKPOINT_REQUEST,
            source=self.context.rank,
            role="server",
            version=version,
        )
        for group in self.context.topology.groups:
            self.context.transport.send(group.learner, word)
        return True

    def on_state(self, role: str, rank: int, state: Any, *, final: bool) -> None:
        """Store the state of a role in the pending checkpoint, or as the role's last state.

        Args:
            role: "learner" or "actor".
            rank: Rank of the sender.
            state: Its state.
            final: Whether the role has stopped and this is its last state.
        """
        if final and self.final is not None:
            self.final[role, rank] = state
        if self.pending is not None and (role, rank) in self.waiting and not final:
            self.waiting.discard((role, rank))
            self._place(self.pending, role, rank, state, self.version)

    def poll(self) -> bool:
        """Write the pending checkpoint if it is complete or has timed out.

        Also checks the lock of the run directory and the errors of the writer.

        Returns:
            Whether a checkpoint was handed to the writer.
        """
        if self.lock is not None:
            self.lock.watch()
        if (error := self.writer.poll()) is not None:
            self._on_error(error)
        if self.pending is None or (self.waiting and (time.monotonic() < self.deadline or self._must_wait())):
            return False
        state, self.pending = self.pending, None
        complete, self.when_complete = self.when_complete, None
        if not self._write(self.version, state):
            return False
        if complete is not None:
            complete(state)
        return True

    def _must_wait(self) -> bool:
        """Return whether the pending checkpoint cannot be written without the missing states."""
        if self.deterministic:
            return True
        learners = any(role == "learner" for role, _ in self.waiting)
        return (
            self.collective
            and learners
            and self.pending is not None
            and "optimizer" not in self.pending["engine"]
        )

    def expect_final(self) -> None:
        """Begin to collect the last states of all roles; discard the pending checkpoint."""
        self.final = {}
        self.pending = None

    def all_final(self) -> bool:
        """Return whether every living rank has sent its last state."""
        return self.final is not None and not self.expected - self.final.keys()

    def needs_more_final(self, version: int) -> bool:
        """Return whether the final checkpoint requires a state that a living rank has not sent yet.

        Args:
            version: Version of the final checkpoint.
        """
        missing = self.expected - (self.final or {}).keys()
        if self.deterministic or not self.collective:
            return self.deterministic and bool(missing)
        there = [state for (role, _), state in (self.final or {}).items() if role == "learner"]
        return any(role == "learner" for role, _ in missing) and not any(
            state["optimizer"]["updates"] == version for state in there
        )

    def missing_final(self) -> list[str]:
        """Return the roles that have not sent their last state, as text."""
        return [self._text([name]) for name in sorted(self.expected - (self.final or {}).keys())]

    def write_final(self, version: int, state: dict[str, Any]) -> dict[str, Any] | None:
        """Write the final checkpoint.

        Args:
            version: Version of the checkpoint.
            state: The server's own state.

        Returns:
            The whole state, or None if the checkpoint was not written because it lacks a required part.
        """
        whole = self._begun(state)
        for (role, rank), own in (self.final or {}).items():
            self._place(whole, role, rank, own, version)
        return whole if self._write(version, whole) else None

    def _begun(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return the server's part of a checkpoint, to which the states of the other roles are added."""
        engine = {
            name: own
            for name, own in state["engine"].items()
            if not (self.collective and name == "optimizer")
        }
        start = {"run": self.context.run_id, "number": self.context.start_number, "rollouts": {}}
        return {**state, "engine": engine, "roles": {"learner": {}, "actor": {}}, "start": start}

    def _place(self, whole: dict[str, Any], role: str, rank: int, state: Any, version: int) -> None:
        """Add the state of a role to a checkpoint.

        Under AllReduce all replicas of the optimizer are identical, so any of them is used if its version
        matches.
        """
        if role == "learner" and "optimizer" in state:
            state = dict(state)
            optimizer = state.pop("optimizer")
            if int(optimizer["updates"]) == version:
                whole["engine"]["optimizer"] = optimizer
        if "rollouts" in state:
            whole["start"]["rollouts"][str(rank)] = int(state["rollouts"])
        whole["roles"][role][self.names[role, rank]] = state

    def _write(self, version: int, state: dict[str, Any]) -> bool:
        """Hand a checkpoint to the writer.

        Returns:
            False if a required part is missing (see the module docstring).

        Raises:
            FloatingPointError: A parameter or an optimizer state is not finite.
        """
        there = {(role, name) for role, own in state["roles"].items() for name in own}
        state["missing"] = [f"{role} {name}" for role, name in sorted(self.names_by_role - there)]
        if self.deterministic and state["missing"]:
            self.writer.wait()  # the writer may still be writing a complete checkpoint
        last = self.writer.last_version if self.writer.last_version is not None else self.resumed_version
        lack = "no learner's parameters" if "optimizer" not in state["engine"] else ""
        # An incomplete checkpoint is better than none, so it is refused only if an earlier one exists.
        if not lack and self.deterministic and state["missing"] and last is not None:
            lack = f"no state of {', '.join(state['missing'])}"
        if lack:
            kept = "no earlier one exists" if last is None else f"the last good one is of version {last}"
            self.not_written = f"checkpoint {version} is not written, because {lack} arrived; {kept}"
            logger.warning("%s", self.not_written)
            return False
        for name, value in state["engine"]["optimizer"].items():
            if isinstance(value, np.ndarray) and not np.all(np.isfinite(value)):
                raise FloatingPointError(
                    f"{name} of the optimizer is not finite at version {version}; lower optimizer.step_size"
                )
        if state["missing"]:
            logger.warning(
                "checkpoint %d is written without the state of %s", version, ", ".join(state["missing"])
            )
        self.not_written = None
        began = time.perf_counter()
        self.writer.submit(state, version=version, attributes=self.context.attributes("server"))
        if self.context.trace is not None:
            self.context.trace.add(Span.CHECKPOINT, began, time.perf_counter(), version)
        return True

    def distribute(self, resume: dict[str, Any] | None) -> list[tuple[str, int, dict[str, Any]]]:
        """Return the initial state of every learner and actor.

        Args:
            resume: State of the checkpoint to resume from; None: a new run.

        Returns:
            (role, rank, state) of each role: the saved state, or the data with which it starts afresh.
        """
        states = []
        slots = self.context.config.topology.environments_per_actor
        saved = resume["roles"] if resume is not None else {"learner": {}, "actor": {}}
        absent = {
            name.removeprefix("actor ")
            for name in (resume or {}).get("missing", ())
            if name.startswith("actor ")
        }
        same = set(saved["actor"]) | absent == {
            name for (role, _), name in self.names.items() if role == "actor"
        }
        for (role, rank), name in self.names.items():
            state: dict[str, Any] = {}
            if resume is not None and role == "learner":
                state = {
                    **saved["learner"].get(name, {}),
                    "optimizer": resume["engine"]["optimizer"],
                    "path": resume.get("path", ""),
                }
                if not same:
                    state.pop("queue", None)
            elif resume is not None:
                own = saved["actor"].get(name)
                state = (
                    own if same and own is not None and own["slots"] == slots else self._fresh_actor(resume)
                )
            states.append((role, rank, state))
        return states

    @staticmethod
    def _fresh_actor(resume: dict[str, Any]) -> dict[str, Any]:
        """Return the initial state of an actor without a usable state in the checkpoint.

        It must not repeat random numbers or episodes that the run has already used.
        """
        version = int(resume["engine"]["rule"]["round"])
        last = [
            int(max(state["environment"]["episode"], default=0))
            for state in resume["roles"]["actor"].values()
        ]
        return {"version": version, "first_episode": max(last, default=version) + 1}

    def close(self) -> str | None:
        """Wait for the writer.

        Returns:
            Why the last checkpoint was not written; None: it was.

        Raises:
            StorageError: The last checkpoint could not be written, and errors are to stop the run.
        """
        self.writer.close()
        error = self.writer.last_error
        if error is None:
            return self.not_written
        self._on_error(error)
        return str(error)

    @property
    def resumable(self) -> bool:
        """Whether a good checkpoint exists to resume from. Valid once the writer is closed."""
        return self.writer.last_version is not None or self.resumed_version is not None

    def _on_error(self, error: StorageError) -> None:
        """Log a storage error once, or raise it if `checkpoint.on_error` is "stop" or the lock is lost.

        The last good checkpoint stays untouched in both cases.
        """
        if error is self.reported:
            return
        self.reported = error
        if self.context.config.checkpoint.on_error == "stop" or (
            self.lock is not None and self.lock.lost is not None
        ):
            raise error
        logger.error("%s; training continues, the last good checkpoint is untouched", error)

    def _text(self, names: Any) -> str:
        return ", ".join(f"{role} on rank {rank}" for role, rank in names)
