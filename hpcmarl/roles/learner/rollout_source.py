"""Interface between a learner and its waiting rollouts, and the queue that most sources share.

RolloutSource           interface
    QueuedSource        bounded queue of received messages
        RolloutQueue        rollout_queue.py: each rollout makes one gradient, or `algo.reuse` of them
        MinibatchSampler    minibatches.py: several passes over one batch, in random parts (PPO)
        StartOrder          start_order.py: whole on-policy episodes, in the order in which they began
    ReplayBuffer        replay_buffer.py: copies of whole episodes that are sampled repeatedly
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.optim.rounds import RoundRule, share
from hpcmarl.roles.base import Context
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.types import FloatArray, Rollout

AlgorithmT = TypeVar("AlgorithmT", bound=Algorithm)


@dataclass
class QueuedRollout:
    """A received rollout. Its arrays are views of the message.

    Attributes:
        message: Message with the memory of the arrays; released when the rollout is no longer needed.
        rollout: The trajectories.
        actor_rank: Rank that sampled it.
        uses: Number of gradients that it will still contribute to.
    """

    message: Message
    rollout: Rollout
    actor_rank: int
    uses: int


@dataclass
class GradientBatch:
    """The rollouts of one gradient.

    Attributes:
        rollouts: The trajectories.
        actor_ranks: Ranks that sampled them.
        versions: Version of the parameters under which each trajectory was sampled.
        entries: The queued rollouts that the batch consists of; empty for copies.
    """

    rollouts: list[Rollout]
    actor_ranks: list[int]
    versions: list[int]
    entries: list[QueuedRollout] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of trajectories."""
        return len(self.versions)


def batch_of_entries(entries: list[QueuedRollout], rollouts: list[Rollout] | None = None) -> GradientBatch:
    """Return the batch of some queued rollouts.

    Args:
        entries: The queued rollouts.
        rollouts: Selected parts of them, in the same order; None: the whole rollouts.
    """
    chosen = [entry.rollout for entry in entries] if rollouts is None else rollouts
    versions = [rollout.version for rollout in chosen for _ in range(rollout.count)]
    return GradientBatch(chosen, [entry.actor_rank for entry in entries], versions, entries)


class RolloutSource(ABC, Generic[AlgorithmT]):
    """The rollouts of one learner, and the choice of those that make the next gradient.

    Attributes:
        late: Trajectories dropped because they were too old; the learner reports and resets this counter.
        overflow: Trajectories dropped because the queue was full; reset likewise.
        unused_steps: Environment steps dropped because the learner is behind; reset likewise.
        repeated: Trajectories whose gradient came too late for its round and that make another one; reset
            likewise.
        closing: Whether the round is about to end, so that all rollouts here belong to it.
        in_order: Whether episodes count in the order in which they began (start_order.py).
        allotment_changed: Whether the learner has to send its actors new allotments.
    """

    in_order = False
    allotment_changed = False

    def __init__(self, context: Context, group: Group, rule: RoundRule, algorithm: AlgorithmT) -> None:
        self.context, self.group, self.rule, self.algorithm = context, group, rule, algorithm
        self.late = self.overflow = self.repeated = self.unused_steps = 0
        self.closing = False

    # ---- arrivals

    @abstractmethod
    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        """Add a received rollout.

        Args:
            message: The message that holds it; the source releases it.
            rollout: Views of the message.
            version: Newest version of the parameters.
        """

    @abstractmethod
    def on_version(self, version: int) -> None:
        """Adapt to the parameters of a new version; drop rollouts that are too old for them."""

    def is_behind(self, version: int) -> bool:
        """Return whether actors are to pause (rounds.backpressure) because the learner has enough work.

        Never true in deterministic runs, whose actors stop at fixed points, or while a round is closing.
        """
        return self.context.config.backpressure and not self.closing and self._has_plenty(version)

    @abstractmethod
    def _has_plenty(self, version: int) -> bool:
        """Return whether enough rollouts wait to keep the learner busy until paused actors deliver again."""

    # ---- gradients

    @abstractmethod
    def has_waiting(self) -> bool:
        """Return whether received rollouts wait for their gradient."""

    @abstractmethod
    def take(self, version: int, delivered: int) -> GradientBatch | None:
        """Return the rollouts of the next gradient, or None if there are not enough yet.

        Args:
            version: Newest version of the parameters.
            delivered: Trajectories that the group has delivered for this version.
        """

    def take_ahead(self, version: int, delivered: int) -> bool:
        """Choose the next gradient's rollouts while the learner waits for the parameters of `version`.

        A source that cannot know them does nothing.

        Args:
            version: Version of the coming parameters.
            delivered: Trajectories that the group has delivered for the present version.

        Returns:
            Whether there was work.
        """
        return False

    def gradient(self, batch: GradientBatch) -> tuple[FloatArray, dict[str, float]]:
        """Compute the gradient of a batch.

        Returns:
            The ascent direction, shape [P], and statistics by metric (algos/base.py).
        """
        return self.algorithm.gradient(batch.rollouts)

    @abstractmethod
    def done(self, batch: GradientBatch, version: int) -> None:
        """Record that the gradient of a batch was made for the round `version`."""

    @abstractmethod
    def refuse(self, batch: GradientBatch) -> None:
        """Record that the gradient of a batch was not finite and is not used."""

    def on_late(self, made_for: int, version: int) -> None:
        """Record that a gradient reached the server after the end of its round.

        Args:
            made_for: Round that the gradient was made for.
            version: Newest version of the parameters.
        """

    def end_batch(self) -> None:
        """Skip the remaining gradients of the present batch. Only for sources that make several passes."""

    def statistics(self) -> dict[str, float]:
        """Return further metrics for the learner's report."""
        return {}

    def _round_target(self, version: int) -> int:
        """Return the number of trajectories of a round."""
        return self.rule.initial_batch if version == 0 else self.rule.batch

    def _quota(self, version: int) -> int | None:
        """Return the trajectories that the rule requires of each group in a round; None: any number."""
        return self.rule.quota(self._round_target(version))

    def _outstanding(self, version: int, delivered: int) -> int:
        """Return the number of trajectories of the next gradient.

        This is the rest of the group's quota or, without a quota, an equal share of the round. It is 0 in a
        round that is about to end.
        """
        if self.closing:
            return 0
        quota = self._quota(version)
        if quota is None:
            return share(self._round_target(version), len(self.rule.present))
        return quota - delivered

    # ---- actors, for sources that count episodes in the order in which they began

    def allotment(self, rank: int) -> int | None:
        """Return how many episodes of the present version an actor may begin; None: any number."""
        return None

    def on_actor_lost(self, rank: int) -> None:
        """Record that the actor on `rank` has died."""

    def on_actor_replaced(self, rank: int) -> None:
        """Record that a new process replaces the dead actor on `rank`."""

    def on_groups_lost(self, version: int) -> None:
        """Record that the rule continues with fewer groups."""

    # ---- checkpoints

    def state_dict(self) -> list[Any]:
        """Return the rollouts that a deterministic run needs to continue; other runs sample new ones."""
        return []

    def load_state_dict(self, state: list[Any], codec: RolloutCodec) -> None:
        """Continue from the result of `state_dict`."""

    def save(self, version: int, *, final: bool) -> None:
        """Write the stored rollouts to a file beside the checkpoint.

        Args:
            version: Version of the checkpoint that is being made.
            final: Whether it is the last one of the run.
        """

    def resume(self, run_directory: Path, version: int) -> None:
        """Read the file that belongs to the checkpoint of `version` in a run directory."""

    def close(self) -> None:
        """Wait until pending files are written."""


class QueuedSource(RolloutSource[Algorithm]):
    """A bounded queue of received rollouts, oldest first. Drops rollouts that are too old.

    Attributes:
        entries: The queue.
        limit: Maximum number of messages in it; beyond that the oldest is dropped.
        reuse: Number of gradients that each rollout contributes to.
    """

    def __init__(self, context: Context, group: Group, rule: RoundRule, algorithm: Algorithm) -> None:
        super().__init__(context, group, rule, algorithm)
        self.entries: deque[QueuedRollout] = deque()
        self.limit = context.queue_limit(group)
        self.reuse = context.config.algo.gradients_per_rollout

    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        self.entries.append(QueuedRollout(message, rollout, message.source, self.reuse))
        if self._is_too_old(rollout, version):
            self._drop(self.entries.pop(), late=True)
        # In these runs actors stop at the boundary of a version, which bounds the queue.
        unbounded = self.context.config.deterministic or self.context.config.rounds.counts_all_begun
        while len(self.entries) > self.limit and not unbounded:
            self._drop(self.entries.popleft(), late=False)

    def on_version(self, version: int) -> None:
        old = [entry for entry in self.entries if self._is_too_old(entry.rollout, version)]
        if old:
            self.entries = deque(
                entry for entry in self.entries if not self._is_too_old(entry.rollout, version)
            )
        for entry in old:
            self._drop(entry, late=True)

    def has_waiting(self) -> bool:
        return bool(self.entries)

    def done(self, batch: GradientBatch, version: int) -> None:
        self._release(batch.entries)

    def refuse(self, batch: GradientBatch) -> None:
        self._release(batch.entries)

    def _waiting_trajectories(self) -> int:
        return sum(entry.rollout.count for entry in self.entries)

    def _is_too_old(self, rollout: Rollout, version: int) -> bool:
        """Return whether a rollout cannot be used under the parameters of `version`.

        On-policy rollouts can be used for their own version only. With `late: ignore` they are kept here,
        because the server's rule drops their gradients. A rule with `any_age` would accept such gradients,
        although they were sampled at the group's former query point. Under such a rule they are always
        dropped here.

        Off-policy rollouts are too old beyond rounds.max_staleness. The limit does not apply to rules with
        `any_age`. Their versions count the steps of all groups, and say little about the range of the
        importance ratios.
        """
        age = version - rollout.version
        if self.algorithm.on_policy:
            return age > 0 and (self.rule.any_age or self.context.config.rounds.late == "cancel")
        return not self.rule.any_age and age > self.context.config.rounds.max_staleness

    def _drop(self, entry: QueuedRollout, *, late: bool) -> None:
        """Drop a rollout and count it.

        Args:
            entry: The rollout, no longer in the queue.
            late: Whether it is too old; else the queue is full.
        """
        if late:
            self.late += entry.rollout.count
        else:
            self.overflow += entry.rollout.count
        if entry.uses == self.reuse and not (late and self.algorithm.on_policy):
            self.unused_steps += entry.rollout.steps * entry.rollout.count
        entry.message.release()

    @staticmethod
    def _release(entries: list[QueuedRollout]) -> None:
        for entry in entries:
            entry.message.release()

    def state_dict(self) -> list[Any]:
        if not self.context.config.deterministic:
            return []
        return [
            [
                entry.message.buffer.copy(),
                entry.rollout.version,
                entry.uses,
                entry.actor_rank,
                _critic_memory(entry.rollout),
            ]
            for entry in self.entries
        ]

    def load_state_dict(self, state: list[Any], codec: RolloutCodec) -> None:
        for buffer, version, uses, rank, memories in state:
            kept = np.array(buffer, dtype=np.uint8)
            rollout = codec.read(kept, version)
            for name, memory in memories.items():
                rollout.policies[name].critic_memory = np.array(memory, np.float32)
            self.entries.append(QueuedRollout(Message.kept(kept, rank), rollout, rank, uses))


def _critic_memory(rollout: Rollout) -> dict[str, Any]:
    return {
        name: part.critic_memory for name, part in rollout.policies.items() if part.critic_memory is not None
    }
