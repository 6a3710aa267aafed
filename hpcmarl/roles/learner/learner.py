"""The learner: compute gradients from its actors' rollouts, for the server or for an AllReduce.

    rollouts ──► rollout source (selects the next ones) ──► gradient at the newest parameters ──► server
    server's PARAMETERS (a round has ended) ──► load ──► WEIGHTS to the actors

Under AllReduce the gradient stays at the learner, and the server only counts trajectories. Its PARAMETERS
carry no vector and mean "reduce now". Every learner then takes part in one sum and steps its own replica of
the optimizer, so that all replicas stay identical.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hpcmarl.algos.common_reward import CancellingRewards
from hpcmarl.algos.replayed import Replayed
from hpcmarl.comm.protocol import Buffer, Flags, Kind, masked_vector_of, vector_message
from hpcmarl.comm.transport import LatestLink, Message, SendHandle
from hpcmarl.optim.sparse import needs_all
from hpcmarl.packing import unpack
from hpcmarl.roles.base import REPORTS_PER_SECOND, Context, Interval, Role
from hpcmarl.roles.learner.critic_memory import CriticMemory
from hpcmarl.roles.learner.minibatches import MinibatchSampler
from hpcmarl.roles.learner.nonfinite import NonFiniteGradientFilter
from hpcmarl.roles.learner.optimizer_replica import OptimizerReplica
from hpcmarl.roles.learner.replay_buffer import ReplayBuffer
from hpcmarl.roles.learner.rollout_queue import RolloutQueue
from hpcmarl.roles.learner.rollout_source import GradientBatch, RolloutSource
from hpcmarl.roles.learner.round_end import RoundEnd
from hpcmarl.roles.learner.start_order import StartOrder
from hpcmarl.roles.reports import LearnerReport
from hpcmarl.roles.statistics import EpisodeLog, Means
from hpcmarl.tracing.spans import Span
from hpcmarl.types import BoolArray, FloatArray

GRADIENTS_UNDER_WAY = 2


class Learner(Role):
    """The learner of one group.

    Attributes:
        version: Version of the newest parameters; -1 before the first.
        delivered: Trajectories of this version whose gradients were made.
        holding: Whether the actors were asked to pause (rounds.backpressure).
        mask: Active weights of the present parameters, shape [P]; None: all.
        dense_gradient_steps: The part of learned_steps with dense gradients of a sparse network.
        last_version: Version of the last round, as the server's STOP names it.
        warnings: Lines that the server logs once.
        requested_checkpoint: Version of the checkpoint that the server requested; None: no request is open.
        progress: Environment steps of the whole run, as last sent by the server.
    """

    name = "learner"

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        super().__init__(context, neighbours)
        config = context.config
        self.group = context.topology.group_of(context.rank)
        torch.set_num_threads(config.topology.threads)
        self.algorithm = context.algorithm()
        self.algorithm.move(context.open_device())
        remark = self.algorithm.use_arithmetic(config.precision, compiled=config.compile)
        self.codec = context.codec(self.algorithm)
        self.rule = context.rule()
        self.links = {rank: LatestLink(self.transport, rank) for rank in self.group.actors}
        self.rollouts = self._make_rollout_source()
        self.version, self.delivered = -1, 0
        self.holding = False
        self.mask: BoolArray | None = None
        self.env_steps = self.agent_steps = self.learned_steps = 0
        self.dense_gradient_steps = 0
        self.learning_seconds = 0.0
        self.sending: list[SendHandle] = []
        self.replica = (
            OptimizerReplica(context, self.algorithm, self.group.index) if config.rounds.collective else None
        )
        self.critic_memory = CriticMemory(self.algorithm)
        self.means, self.episodes = Means(), EpisodeLog()
        self.gradient_filter = NonFiniteGradientFilter(config)
        self.report = Interval(
            max(config.logging.every_seconds, len(context.topology.groups) / REPORTS_PER_SECOND)
        )
        self.has_learned = False
        self.round_end = RoundEnd(self.group.actors)
        self.cancelling = CancellingRewards(context.spec, config.algo)
        self.warnings = [remark] if remark else []
        self.last_version = 0
        self.requested_checkpoint: int | None = None
        self.progress = 0

    def _make_rollout_source(self) -> RolloutSource[Any]:
        """Return the source of rollouts that suits the algorithm."""
        given = (self.context, self.group, self.rule)
        if (replay := self.context.config.algo.replay_section) is not None:
            assert isinstance(self.algorithm, Replayed)
            return ReplayBuffer(*given, self.algorithm, replay)
        if self.context.in_order:
            return StartOrder(*given, self.algorithm)
        if self.algorithm.minibatch_passes is not None:
            return MinibatchSampler(*given, self.algorithm, self.algorithm.minibatch_passes)
        return RolloutQueue(*given, self.algorithm)

    # ---- messages

    def on_message(self, message: Message) -> None:
        if message.kind is Kind.ROLLOUT:
            self._on_rollout(message)
            return
        if message.kind is Kind.PARAMETERS:
            self._on_parameters(message)
        elif message.kind is Kind.START:
            self.progress = message.header.env_steps
            self._start(unpack(message.payload), message.header.version)
        elif message.kind is Kind.CHECKPOINT_REQUEST:
            self.requested_checkpoint = message.header.version
            self._snapshot()
        elif message.kind is Kind.CLOSE:
            self.round_end.begin(message.header.version)
            self.rollouts.closing = True
            for rank in self.links:
                self.send(rank, Kind.CLOSE, version=message.header.version)
        elif message.kind is Kind.CLOSED:
            self.round_end.closed(message.source, message.header.version, message.header.trajectories)
        elif message.kind is Kind.LATE:
            self.rollouts.on_late(message.header.version, self.version)
        elif message.kind is Kind.STOP:
            self.stopping, self.last_version = True, message.header.version
        message.release()

    def _on_rollout(self, message: Message) -> None:
        """Count a rollout and hand it to the rollout source."""
        rollout = self.codec.read(message.buffer, message.header.version)
        self.env_steps += message.header.env_steps
        self.agent_steps += message.header.agent_steps
        if rollout.version == self.version:
            self.round_end.arrived[message.source] += rollout.count
        if not self.rollouts.in_order:
            self.episodes.add(rollout)
        self.cancelling.see(rollout)
        self.critic_memory.attach(message.source, rollout)
        self.rollouts.add(message, rollout, self.version)

    def _on_parameters(self, message: Message) -> None:
        """Load new parameters, or under AllReduce begin the sum that ends the round."""
        version, self.progress = message.header.version, message.header.env_steps
        vector, mask = masked_vector_of(message.buffer, self.algorithm.size)
        if self.replica is not None and vector is None:
            self.replica.close_round(version)
        elif vector is not None and version > self.version:
            self.mask = mask
            self._adopt(vector, version)

    def _adopt(self, vector: FloatArray, version: int) -> None:
        """Load new parameters, drop rollouts that are too old for them and send them to the actors.

        Args:
            vector: Parameters, shape [P].
            version: Their version.
        """
        self.algorithm.load_parameters(vector)
        self.version, self.delivered = version, 0
        self.round_end.on_version(version)
        self.rollouts.closing = self.round_end.closing
        self.algorithm.on_progress(self.progress)
        self.algorithm.on_version(version)
        self.rollouts.on_version(version)
        # In a deterministic run the actors stand at the round's boundary until they get the new weights.
        self._snapshot()
        if self.stopping:
            return
        self._publish()

    def _publish(self) -> None:
        """Send the present parameters to every actor. Actors with the same allotment share one message."""
        messages: dict[int | None, Buffer] = {}
        for rank, link in self.links.items():
            allotment = self.rollouts.allotment(rank)
            if allotment not in messages:
                messages[allotment] = self._weights(allotment)
            link.offer(messages[allotment])

    def _weights(self, allotment: int | None) -> Buffer:
        """Build the WEIGHTS message. It also says whether actors are to pause.

        Args:
            allotment: Episodes of this version that the receiver may begin; None: any number.
        """
        self.holding = self.rollouts.is_behind(self.version)
        flags = Flags.WAIT if self.holding else Flags.NONE
        if allotment is not None:
            flags |= Flags.ALLOTTED
        return vector_message(
            Kind.WEIGHTS,
            self.algorithm.parameters,
            self.mask if self.replica is None else self.replica.mask,
            flags,
            source=self.context.rank,
            role=self.name,
            version=self.version,
            trajectories=allotment or 0,
            env_steps=self.progress,
        )

    def _snapshot(self) -> None:
        """Send the state for a requested checkpoint once its version is reached, and request the actors'."""
        wanted = self.requested_checkpoint
        # Under a rule with any_age each version reaches only one group, so the version may never come here.
        if wanted is None or (self.version < wanted and not self.rule.any_age):
            return
        self.requested_checkpoint = None
        self.rollouts.save(wanted, final=False)
        for rank in self.group.actors:
            self.send(rank, Kind.CHECKPOINT_REQUEST, version=wanted)
        self.send(self.context.topology.server, Kind.STATE, self.state_dict(), version=wanted)

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:
        """Continue without a lost actor, lost groups, or a lost learner of the AllReduce."""
        if self.links.pop(rank, None) is not None:
            self.round_end.actors.discard(rank)
            self.critic_memory.forget(rank)
            self.rollouts.on_actor_lost(rank)
        if not set(self.rule.present) <= set(groups):  # else the server stops the run
            for group in set(groups) - self.rule.lost:
                self.rule.on_lost(group)
            self.rollouts.on_groups_lost(self.version)
        if self.replica is not None and (reduced := self.replica.go_on_without(rank)) is not None:
            self._adopt(*reduced)

    def on_replaced(self, rank: int) -> None:
        """Send the present weights to a process that replaces a dead actor."""
        self.links[rank] = LatestLink(self.transport, rank)
        self.rollouts.on_actor_replaced(rank)
        if self.version >= 0 and not self.rollouts.closing:  # otherwise the next version reaches it
            self.links[rank].offer(self._weights(self.rollouts.allotment(rank)))

    # ---- work

    def work(self) -> bool:
        for link in self.links.values():
            link.flush()
        if self.replica is not None and (reduced := self.replica.poll()) is not None:
            self._adopt(*reduced)
            return True
        if self.stopping:
            return self._stop()
        if self.version >= 0 and self.report.due():  # nothing to report before the first parameters
            self._report()
        if self.rollouts.allotment_changed or (self.holding and not self.rollouts.is_behind(self.version)):
            self.rollouts.allotment_changed = False
            self._publish()  # the round may need more of this group before it ends
        work = self._take()
        if work is None:
            return self._end_round() or self.rollouts.take_ahead(self.version + 1, self.delivered)
        self._learn(work)
        return True

    def _take(self) -> GradientBatch | None:
        """Return the rollouts of the next gradient, or None if the learner has to wait.

        It waits for rollouts, for a new version, for the end of an AllReduce, or until fewer than
        GRADIENTS_UNDER_WAY gradients are being sent.
        """
        if self.version < 0 or (self.replica is not None and self.replica.busy):
            return None
        self.sending = [handle for handle in self.sending if not handle.done()]
        return (
            self.rollouts.take(self.version, self.delivered)
            if len(self.sending) < GRADIENTS_UNDER_WAY
            else None
        )

    def _end_round(self) -> bool:
        """Report to the server, once, that the group has delivered everything of a closing round.

        Returns:
            Whether the report was sent.
        """
        if self.rollouts.has_waiting() or (version := self.round_end.due()) is None:
            return False
        self.send(self.context.topology.server, Kind.CLOSED, version=version, group=self.group.index)
        return True

    def _learn(self, work: GradientBatch) -> None:
        """Compute the gradient of a batch, then send it or add it to the replica's sum."""
        rollouts, count = work.rollouts, work.count
        began = time.perf_counter()
        wanted = self._gradient_mask()
        self.algorithm.set_gradient_mask(wanted)
        vector, statistics = self.rollouts.gradient(work)
        if not self.gradient_filter.accepts(vector, work.actor_ranks, self.version):
            self.rollouts.refuse(work)
            return
        seconds = (ended := time.perf_counter()) - began
        self.learning_seconds += seconds
        if self.trace is not None:
            self.trace.add(Span.GRADIENT, began, ended, self.version)
        statistics["gradient_seconds"] = seconds / count
        version = rollouts[0].version if self.algorithm.on_policy else self.version
        current = version == self.version
        self.delivered += count if current else 0
        # A resumed run may replay episodes newer than its checkpoint; their staleness is 0.
        staleness = float(sum(max(0, self.version - sampled) for sampled in work.versions))
        self.means.add(statistics, count)
        steps = sum(rollout.steps * rollout.count for rollout in rollouts)
        self.learned_steps += steps
        self.dense_gradient_steps += steps if wanted is None and self.context.sparse is not None else 0
        if self.rollouts.in_order and current:
            for rollout in rollouts:
                self.episodes.add(rollout)
        self.rollouts.done(work, version)
        if self.algorithm.ends_batch(statistics):
            self.rollouts.end_batch()
        if not self.has_learned:  # the first row of the metrics needs the statistics of this gradient
            self.has_learned = True
            self._report()
        summed = Flags.NONE
        if self.replica is not None and current:  # the rule drops older gradients
            self.replica.add(self.algorithm.slopes if self.algorithm.keeps_gradient else vector, count)
            summed = Flags.SUMMED
        message = vector_message(
            Kind.GRADIENT,
            None if self.replica is not None else vector,
            wanted,
            summed,
            source=self.context.rank,
            role=self.name,
            group=self.group.index,
            version=version,
            trajectories=count,
            env_steps=self.env_steps,
            agent_steps=self.agent_steps,
            staleness=staleness,
        )
        self.env_steps = self.agent_steps = 0
        self.sending.append(self.transport.send(self.context.topology.server, message))

    def _gradient_mask(self) -> BoolArray | None:
        """Return the entries of a gradient that its round needs, as a mask [P]; None: all.

        With sparse layers these are the active weights. All entries are needed before the topology grows
        where gradients are large. They are also needed under rules that accept gradients of any age, since
        the topology may change before the gradient is used.
        """
        if self.replica is not None:
            return self.replica.summed
        sparse = self.context.sparse
        if sparse is None or (self.rule.any_age and sparse.growth != "none"):
            return None
        return None if needs_all(sparse, self.version + 1) else self.mask

    # ---- bookkeeping

    def _report(self) -> None:
        """Send the counters and statistics since the last report to the server, and reset them."""
        self.means.add(self.rollouts.statistics())
        report = LearnerReport(
            group=self.group.index,
            statistics=self.means.take(),
            episodes=self.episodes.take(),
            late=self.rollouts.late,
            overflow=self.rollouts.overflow,
            repeated=self.rollouts.repeated,
            bad_gradients=self.gradient_filter.refused,
            learned_steps=self.learned_steps,
            dense_gradient_steps=self.dense_gradient_steps,
            unused_steps=self.rollouts.unused_steps,
            learning_seconds=self.learning_seconds,
            waiting_seconds=self.waited,
            warnings=[*self.warnings, *self.cancelling.warnings],
        )
        self.send(self.context.topology.server, Kind.REPORT, report)
        self.rollouts.unused_steps, self.learning_seconds, self.waited = 0, 0.0, 0.0
        self.rollouts.late = self.rollouts.overflow = self.rollouts.repeated = (
            self.gradient_filter.refused
        ) = self.learned_steps = self.dense_gradient_steps = 0

    def _start(self, state: dict[str, Any], version: int) -> None:
        """Load the state of a resumed run, if any. Under AllReduce, send the first weights to the actors."""
        self.waited = 0.0
        if "algorithm" in state:
            self.algorithm.load_state_dict(state["algorithm"])
        if self.replica is not None:
            self._adopt(*self.replica.start(state.get("optimizer")))
        self.rollouts.load_state_dict(state.get("queue", []), self.codec)
        self.critic_memory.load_state_dict(state.get("critic_memory", {}))
        if "path" in state:
            self.rollouts.resume(Path(state["path"]).parent.parent, version)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint.

        It holds the algorithm's state and, under AllReduce, the replica's optimizer. In deterministic runs it
        also holds the critics' memory and the rollouts that are still to be used.
        """
        state: dict[str, Any] = {"algorithm": self.algorithm.state_dict(), "version": self.version}
        if self.replica is not None:
            state["optimizer"] = self.replica.optimizer.state_dict()
        if self.context.config.deterministic:  # others begin new episodes
            state["critic_memory"] = self.critic_memory.state_dict()
        return state | {"queue": self.rollouts.state_dict()}

    def _stop(self) -> bool:
        """Stop the actors and send the last report and state. Under AllReduce, first close the last round.

        Returns:
            Whether the learner has stopped in this call.
        """
        if self.finished or (self.replica is not None and self.version < self.last_version):
            return False
        for rank in self.group.actors:
            self.send(rank, Kind.STOP)
        self._report()
        self.send(
            self.context.topology.server,
            Kind.STATE,
            self.state_dict(),
            version=self.version,
            flags=Flags.FINAL,
        )
        self.rollouts.save(self.last_version, final=True)
        self.finished = True
        return True

    def close(self) -> None:
        self.rollouts.close()
