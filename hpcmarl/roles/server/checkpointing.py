"""Checkpoints of a whole run: asks every role for its state, puts the answers together, writes in the
background.

Called by the server. A checkpoint does not wait for ever for the state of a slow or dead rank. It is left out
and listed under `missing`, and that rank begins with fresh random numbers when the run is resumed. Two things
are waited for as long as a living rank can send them: under AllReduce a learner's optimizer of the
checkpoint's very version, since the server has none, and in a deterministic run every state. States are kept
by actor and by group, not by rank.
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

logger = logging.getLogger(__name__)
STATE_TIMEOUT = 10.0  # seconds


class CheckpointCoordinator:
    """At most one snapshot is being collected; a request that comes meanwhile is refused."""

    def __init__(self, context: Context) -> None:
        self.context = context
        topology = context.topology
        self.names = {("learner", group.learner): f"{group.index}" for group in topology.groups}
        self.names |= {("actor", rank): f"{index}" for index, rank in enumerate(topology.actors)}
        self.expected = set(self.names)  # all but those of lost ranks
        self.lock = context.lock
        guard = (lambda: None) if self.lock is None else self.lock.check
        self.writer = CheckpointWriter(
            context.run_directory / "checkpoints", keep=context.config.checkpoint.keep, guard=guard
        )
        self.pending: dict[str, Any] | None = None
        self.version = 0
        self.deadline = 0.0
        self.waiting: set[tuple[str, int]] = set()
        self.final: dict[tuple[str, int], Any] | None = None
        self.when_complete: Callable[[dict[str, Any]], None] | None = None
        self.reported: StorageError | None = None
        self.collective, self.deterministic = context.config.rounds.collective, context.config.deterministic
        self.names_by_role = {(role, name) for (role, _), name in self.names.items()}
        # it lies here, too
        self.resumed_version = (
            None if context.resume is None else int(context.resume["engine"]["rule"]["round"])
        )
        self.not_written: str | None = None  # why the newest checkpoint was not even tried

    def forget(self, rank: int) -> None:
        """A rank is lost: nobody waits for its states any more."""
        self.expected = {name for name in self.expected if name[1] != rank}
        self.waiting &= self.expected

    def expect_again(self, rank: int) -> None:
        """A new process has a lost rank's place."""
        self.expected |= {name for name in self.names if name[1] == rank}

    def request(self, version: int, state: dict[str, Any]) -> bool:
        """Collect the roles' states of `version` around the server's own; False while another snapshot is
        under way.
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
        """A role's state has come: for the snapshot under way, or its last."""
        if final and self.final is not None:
            self.final[role, rank] = state
        if self.pending is not None and (role, rank) in self.waiting and not final:
            self.waiting.discard((role, rank))
            self._place(self.pending, role, rank, state, self.version)

    def poll(self) -> bool:
        """Write the snapshot when it is complete or its time is up."""
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
        """Whether the snapshot under way cannot be written without the states that are still to come."""
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
        """From now on the roles send their last states; an unfinished snapshot is given up for them."""
        self.final = {}
        self.pending = None

    def all_final(self) -> bool:
        """Whether every rank that lives has sent its last state."""
        return self.final is not None and not self.expected - self.final.keys()

    def needs_more_final(self, version: int) -> bool:
        """Whether the last checkpoint cannot do without a state that a living rank has yet to send."""
        missing = self.expected - (self.final or {}).keys()
        if self.deterministic or not self.collective:
            return self.deterministic and bool(missing)
        there = [state for (role, _), state in (self.final or {}).items() if role == "learner"]
        return any(role == "learner" for role, _ in missing) and not any(
            state["optimizer"]["updates"] == version for state in there
        )

    def missing_final(self) -> list[str]:
        """Roles that have not sent their last state, in words."""
        return [self._text([name]) for name in sorted(self.expected - (self.final or {}).keys())]

    def write_final(self, version: int, state: dict[str, Any]) -> dict[str, Any] | None:
        """Write the last checkpoint; returns its state, or None where there is no optimizer of that
        version.
        """
        whole = self._begun(state)
        for (role, rank), own in (self.final or {}).items():
            self._place(whole, role, rank, own, version)
        return whole if self._write(version, whole) else None

    def _begun(self, state: dict[str, Any]) -> dict[str, Any]:
        """The server's own part of a checkpoint, to which the other roles' are added."""
        engine = {
            name: own
            for name, own in state["engine"].items()
            if not (self.collective and name == "optimizer")
        }
        start = {"run": self.context.run_id, "number": self.context.start_number, "rollouts": {}}
        return {**state, "engine": engine, "roles": {"learner": {}, "actor": {}}, "start": start}

    def _place(self, whole: dict[str, Any], role: str, rank: int, state: Any, version: int) -> None:
        """Add a role's state. Under AllReduce any replica of the optimizer stands for all, if it is of this
        version.
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
        """Hand a checkpoint to the writer; False where it would not hold what it has to (module docstring).

        Raises:
            FloatingPointError: a parameter is not finite.
        """
        there = {(role, name) for role, own in state["roles"].items() for name in own}
        state["missing"] = [f"{role} {name}" for role, name in sorted(self.names_by_role - there)]
        if self.deterministic and state["missing"]:
            self.writer.wait()  # a whole checkpoint may be on its way to the disk
        last = self.writer.last_version if self.writer.last_version is not None else self.resumed_version
        lack = "no learner's parameters" if "optimizer" not in state["engine"] else ""
        # without an earlier one this is better than nothing
        if not lack and self.deterministic and state["missing"] and last is not None:
            lack = f"no state of {', '.join(state['missing'])}"
        if lack:
            kept = "there is no earlier one" if last is None else f"the last good one is of version {last}"
            self.not_written = f"{lack} of version {version} arrived: that checkpoint is not written, {kept}"
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
        self.writer.submit(state, version=version, attributes=self.context.attributes("server"))
        return True

    def distribute(self, resume: dict[str, Any] | None) -> list[tuple[str, int, dict[str, Any]]]:
        """(role, rank, state) for every learner and actor: what it had when the checkpoint was written, or
        what it needs to begin anew.
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
        """An actor that the checkpoint does not know must not repeat the random numbers and episodes of the
        run so far.
        """
        version = int(resume["engine"]["rule"]["round"])
        last = [
            int(max(state["environment"]["episode"], default=0))
            for state in resume["roles"]["actor"].values()
        ]
        return {"version": version, "first_episode": max(last, default=version) + 1}

    def close(self) -> str | None:
        """Wait for the writer; the error of the last checkpoint, if it could not be written. Raises it where
        errors are to stop the run.
        """
        self.writer.close()
        error = self.writer.last_error
        if error is None:
            return self.not_written
        self._on_error(error)
        return str(error)

    @property
    def resumable(self) -> bool:
        """Whether there is a good checkpoint to go on from; asked when the writer is closed."""
        return self.writer.last_version is not None or self.resumed_version is not None

    def _on_error(self, error: StorageError) -> None:
        """Tell it once, or end the run: checkpoint.on_error. The last good checkpoint is untouched either
        way.
        """
        if error is self.reported:
            return
        self.reported = error
        if self.context.config.checkpoint.on_error == "stop" or (
            self.lock is not None and self.lock.lost is not None
        ):
            raise error
        logger.error("%s; training goes on, the last good checkpoint is untouched", error)

    def _text(self, names: Any) -> str:
        return ", ".join(f"{role} on rank {rank}" for role, rank in names)
