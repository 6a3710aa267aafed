"""The learner: gradients of its actors' rollouts, for the server or for the AllReduce among the learners.

    rollouts ──► queue (bounded, oldest dropped) ──► gradient at the newest parameters ──► server, which says when a round ends
    server's PARAMETERS (a round has ended) ──► load ──► WEIGHTS to the actors

Under AllReduce the gradient stays here: the server counts, its PARAMETERS carry no vector and mean "reduce now"; every learner
then takes part in one sum, steps its own replica of the optimizer, and all replicas stay identical.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import FLAG_FINAL, Buffer, Kind, vector_message, vector_of
from hpcmarl.comm.topology import ROLE_NAMES
from hpcmarl.comm.transport import LatestLink, Message, SendHandle
from hpcmarl.optim.rounds import share
from hpcmarl.packing import unpack
from hpcmarl.roles.base import Context, Interval, Role
from hpcmarl.roles.guard import GradientGuard
from hpcmarl.roles.replica import Replica
from hpcmarl.roles.statistics import EpisodeLog, Means
from hpcmarl.types import FloatArray, Rollout

GRADIENTS_UNDER_WAY = 2


@dataclass
class Entry:
    """A rollout in the queue and how many more gradients it takes part in."""

    message: Message
    rollout: Rollout
    actor_rank: int
    uses: int


class Learner(Role):
    """Learns for one group."""

    name = "learner"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config = context.config
        self.group = context.topology.group_of(context.rank)
        self.algorithm = context.algorithm()
        self.codec = context.codec(self.algorithm)
        self.rule = context.rule()
        self.links = {rank: LatestLink(self.transport, rank) for rank in self.group.actors}
        self.queue: deque[Entry] = deque()
        self.limit = context.queue_limit(self.group)
        self.reuse = int(getattr(config.algo, "reuse", 1))
        self.version, self.delivered = -1, 0
        self.env_steps = self.agent_steps = 0
        self.sending: list[SendHandle] = []
        self.replica = Replica(context, self.algorithm, self.group.index) if config.rounds.collective else None
        self.means, self.episodes = Means(), EpisodeLog()
        self.late = self.overflow = 0  # trajectories dropped: too old, or queue full
        self.guard, self.report = GradientGuard(config), Interval(config.logging.every_seconds)
        self.last_version = 0
        self.snapshot_wanted: int | None = None

    # ---- messages

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.ROLLOUT:
            self._enqueue(message)
            return
        if message.kind is Kind.PARAMETERS:
            self._on_parameters(message)
        elif message.kind is Kind.START:
            self._start(unpack(message.payload))
        elif message.kind is Kind.SNAPSHOT:
            self.snapshot_wanted = int(message.header["version"])
            self._snapshot()
        elif message.kind is Kind.STOP:
            self.stopping, self.last_version = True, int(message.header["version"])
        message.release()

    def _enqueue(self, message: Message) -> None:
        """Take in a rollout; a full queue loses its oldest."""
        rollout = self.codec.read(message.buffer, int(message.header["version"]))
        self.env_steps += int(message.header["env_steps"])
        self.agent_steps += int(message.header["agent_steps"])
        self.episodes.add(rollout.episodes)
        self.queue.append(Entry(message, rollout, message.source, self.reuse))
        if self._too_old(rollout):
            self._drop(self.queue.pop(), late=True)
        while len(self.queue) > self.limit and not self.context.config.deterministic:
            self._drop(self.queue.popleft(), late=False)

    def _too_old(self, rollout: Rollout) -> bool:
        """On-policy work of an older version is worthless (late: ignore leaves the dropping to the server's rule).

        A rule that takes gradients of any age would take those, too, though they were sampled for the group's former point; and there
        versions count the steps of all groups, so that they say little about how far the ratios have to reach."""
        age = self.version - rollout.version
        if self.algorithm.on_policy:
            return age > 0 and (self.rule.any_age or self.context.config.rounds.late == "cancel")
        return not self.rule.any_age and age > self.context.config.rounds.max_staleness

    def _drop(self, entry: Entry, *, late: bool) -> None:
        if late:
            self.late += entry.rollout.count
        else:
            self.overflow += entry.rollout.count
        entry.message.release()

    def _on_parameters(self, message: Message) -> None:
        version = int(message.header["version"])
        vector = vector_of(message.buffer, self.algorithm.size)
        if self.replica is not None and vector is None:
            self.replica.close_round(version)
        elif vector is not None and version > self.version:
            self._adopt(vector, version)

    def _adopt(self, vector: FloatArray, version: int) -> None:
        """New parameters: forget what is too old, tell the actors."""
        self.algorithm.load_parameters(vector)
        self.version, self.delivered = version, 0
        old = [entry for entry in self.queue if self._too_old(entry.rollout)]
        if old:
            self.queue = deque(entry for entry in self.queue if not self._too_old(entry.rollout))
        for entry in old:
            self._drop(entry, late=True)
        self._snapshot()  # before the actors get the new weights, while they stand at the boundary in a deterministic run
        if self.stopping:
            return
        weights = self._weights()
        for link in self.links.values():
            link.offer(weights)

    def _weights(self) -> Buffer:
        """The message with the present parameters."""
        fields = {"source": self.context.rank, "role": ROLE_NAMES.index(self.name), "version": self.version}
        return vector_message(Kind.WEIGHTS, self.algorithm.parameters, **fields)

    def _snapshot(self) -> None:
        """Send the state, and have the actors send theirs, as soon as the version that the server asked for is reached."""
        wanted = self.snapshot_wanted
        if wanted is None or (self.version < wanted and not self.rule.any_age):  # where any age goes, versions reach one group at a time
            return
        self.snapshot_wanted = None
        for rank in self.group.actors:
            self.tell(rank, Kind.SNAPSHOT, version=wanted)
        self.tell(self.context.topology.server, Kind.STATE, self.state_dict(), version=wanted)

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        self.links.pop(rank, None)
        if not set(self.rule.present) <= set(groups):  # else the server stops the run
            for group in set(groups) - self.rule.lost:
                self.rule.on_lost(group)
        if self.replica is not None and (reduced := self.replica.go_on_without(rank)) is not None:
            self._adopt(*reduced)

    def on_replaced(self, rank: int) -> None:
        self.links[rank] = LatestLink(self.transport, rank)
        if self.version >= 0:
            self.links[rank].offer(self._weights())

    # ---- work

    def work(self) -> bool:
        for link in self.links.values():
            link.flush()
        if self.replica is not None and (reduced := self.replica.poll()) is not None:
            self._adopt(*reduced)
            return True
        if self.stopping:
            return self._stop()
        if self.report.due():
            self._report()
        entries = self._take()
        if not entries:
            return False
        self._learn(entries)
        return True

    def _take(self) -> list[Entry]:
        """The rollouts of the next gradient, or none if the group has to wait (for rollouts, for a new version, for the line)."""
        if self.version < 0 or not self.queue or (self.replica is not None and self.replica.busy):
            return []
        self.sending = [handle for handle in self.sending if not handle.done()]
        if len(self.sending) >= GRADIENTS_UNDER_WAY:
            return []
        target = self.rule.initial_batch if self.version == 0 else self.rule.batch
        quota = self.rule.quota(target)
        if self.context.config.deterministic:
            return self._take_in_order(quota or target)
        wanted = share(target, len(self.rule.present)) if quota is None else quota - self.delivered
        if wanted <= 0:
            return []
        waiting = sum(entry.rollout.count for entry in self.queue)
        if quota is not None and waiting < wanted and len(self.queue) < max(1, self.limit // 2):
            return []  # one gradient for the whole share costs less than several
        taken: list[Entry] = []
        while self.queue and sum(entry.rollout.count for entry in taken) < wanted:
            if taken and self.algorithm.on_policy and self.queue[0].rollout.version != taken[0].rollout.version:
                break
            taken.append(self.queue.popleft())
        return taken

    def _take_in_order(self, quota: int) -> list[Entry]:
        """Deterministic runs: every actor's share of the version, in the order of the actors; re-used rollouts come first."""
        if self.delivered:
            return []
        each = -(-quota // len(self.group.actors))
        fresh: list[Entry] = []
        for rank in self.group.actors:
            own = [entry for entry in self.queue if entry.actor_rank == rank and entry.rollout.version == self.version]
            if sum(entry.rollout.count for entry in own) < each:
                return []
            fresh += own
        taken = [entry for entry in self.queue if entry.rollout.version < self.version] + fresh
        self.queue.clear()
        return taken

    def _learn(self, entries: list[Entry]) -> None:
        """Compute the gradient of these rollouts, send or keep it, and queue again what is to be re-used."""
        rollouts = [entry.rollout for entry in entries]
        began = time.perf_counter()
        vector, statistics = self.algorithm.gradient(rollouts)
        if not self.guard.accepts(vector, (entry.actor_rank for entry in entries), self.version):
            for entry in entries:
                entry.message.release()
            return
        count = sum(rollout.count for rollout in rollouts)
        statistics["gradient_seconds"] = (time.perf_counter() - began) / count
        version = rollouts[0].version if self.algorithm.on_policy else self.version
        self.delivered += count if version == self.version else 0
        staleness = float(sum((self.version - rollout.version) * rollout.count for rollout in rollouts))
        self.means.add(statistics, count)
        for entry in entries:
            entry.uses -= 1
            if entry.uses > 0:
                self.queue.append(entry)
            else:
                entry.message.release()
        if self.replica is not None:
            self.replica.add(vector, count)
        message = vector_message(
            Kind.GRADIENT,
            None if self.replica is not None else vector,
            source=self.context.rank,
            role=ROLE_NAMES.index(self.name),
            group=self.group.index,
            version=version,
            count=count,
            env_steps=self.env_steps,
            agent_steps=self.agent_steps,
            staleness=staleness,
        )
        self.env_steps = self.agent_steps = 0
        self.sending.append(self.transport.send(self.context.topology.server, message))

    # ---- bookkeeping

    def _report(self) -> None:
        tree = {"group": self.group.index, "statistics": self.means.take(), "episodes": self.episodes.take()}
        tree |= {"late": self.late, "overflow": self.overflow, "bad_gradients": self.guard.refused}
        self.tell(self.context.topology.server, Kind.REPORT, tree)
        self.late = self.overflow = self.guard.refused = 0

    def _start(self, state: dict[str, Any]) -> None:
        """Take over a resumed run's state, if there is one, and start the actors."""
        if "algorithm" in state:
            self.algorithm.load_state_dict(state["algorithm"])
        if self.replica is not None:
            self._adopt(*self.replica.start(state.get("optimizer")))
        for buffer, version, uses, rank in state.get("queue", []):
            held = np.array(buffer, dtype=np.uint8)
            message = Message.kept(held, rank)
            self.queue.append(Entry(message, self.codec.read(held, version), rank, uses))

    def state_dict(self) -> dict[str, Any]:
        """The algorithm's own state, the replica's optimizer, and rollouts that are still to be re-used (deterministic runs)."""
        state: dict[str, Any] = {"algorithm": self.algorithm.state_dict(), "version": self.version}
        if self.replica is not None:
            state["optimizer"] = self.replica.optimizer.state_dict()
        if self.context.config.deterministic:
            state["queue"] = [[entry.message.buffer.copy(), entry.rollout.version, entry.uses, entry.actor_rank] for entry in self.queue]
        return state

    def _stop(self) -> bool:
        """Tell the actors, then the last report and state; under AllReduce only when the last round is closed."""
        if self.finished or (self.replica is not None and self.version < self.last_version):
            return False
        for rank in self.group.actors:
            self.tell(rank, Kind.STOP)
        self._report()
        self.tell(self.context.topology.server, Kind.STATE, self.state_dict(), version=self.version, flags=FLAG_FINAL)
        self.finished = True
        return True
