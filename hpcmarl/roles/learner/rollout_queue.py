"""Rollouts in the order of their arrival: each makes one gradient, or `algo.reuse` gradients."""

from __future__ import annotations

from collections import deque

from hpcmarl.algos.base import Algorithm
from hpcmarl.comm.protocol import Flags
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.optim.rounds import RoundRule
from hpcmarl.roles.base import Context
from hpcmarl.roles.learner.rollout_source import (
    GradientBatch,
    QueuedRollout,
    QueuedSource,
    batch_of_entries,
)
from hpcmarl.types import Rollout

# Few gradients are made between the end of a round and the arrival of the new version.
GRADIENTS_KEPT = 4


class RolloutQueue(QueuedSource):
    """Take rollouts in the order of their arrival.

    The rollouts of the newest gradients are kept until their round is certain to have used them. If such a
    gradient comes too late, its rollouts make the next one.
    """

    def __init__(self, context: Context, group: Group, rule: RoundRule, algorithm: Algorithm) -> None:
        super().__init__(context, group, rule, algorithm)
        # Round of each of the newest gradients, and its rollouts that have no further uses.
        self._sent: deque[tuple[int, list[QueuedRollout]]] = deque()

    # ---- arrivals

    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        super().add(message, rollout, version)
        self._forget_sent(GRADIENTS_KEPT)

    def _has_plenty(self, version: int) -> bool:
        """Return whether rollouts for two gradients wait: the present one and the next.

        A gradient uses no rollout twice, so the present one needs different rollouts.
        """
        outstanding = self._outstanding(version, 0)
        waiting = sum(entry.uses * entry.rollout.count for entry in self.entries)
        return 0 < 2 * outstanding <= waiting and outstanding <= self._waiting_trajectories()

    # ---- gradients

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        if not self.entries:
            return None
        quota = self._quota(version)
        if self.context.config.deterministic:
            return self._take_in_order(version, delivered, quota or self._round_target(version))
        missing = self._outstanding(version, delivered)
        if missing <= 0:
            return None
        waiting = self._waiting_trajectories()
        if quota is not None and waiting < missing and len(self.entries) < max(1, self.limit // 2):
            return None  # wait: one gradient for the whole share costs less than several
        taken: list[QueuedRollout] = []
        count = 0
        while self.entries and count < missing:
            version_changes = taken and self.entries[0].rollout.version != taken[0].rollout.version
            if version_changes and self.algorithm.on_policy:
                break
            taken.append(self.entries.popleft())
            count += taken[-1].rollout.count
        return batch_of_entries(taken)

    def _outstanding(self, version: int, delivered: int) -> int:
        return len(self.entries) if self.closing else super()._outstanding(version, delivered)

    def _take_in_order(self, version: int, delivered: int, quota: int) -> GradientBatch | None:
        """Return every actor's share of a version, in the order of the actors, after re-used rollouts.

        Returns:
            The batch, or None if a share is incomplete or has been delivered already.
        """
        if delivered:
            return None
        each = -(-quota // len(self.group.actors))
        fresh: list[QueuedRollout] = []
        for rank in self.group.actors:
            own = [
                entry
                for entry in self.entries
                if entry.actor_rank == rank and entry.rollout.version == version
            ]
            # One step may end more episodes than the actor's share. All of them belong to this version.
            count = sum(entry.rollout.count for entry in own)
            if count < each or own[-1].message.header.flags & Flags.MORE:
                return None
            fresh += own
        taken = [entry for entry in self.entries if entry.rollout.version < version] + fresh
        self.entries.clear()
        return batch_of_entries(taken)

    def done(self, batch: GradientBatch, version: int) -> None:
        """Queue rollouts with further uses again; keep the others in case the round is already over."""
        for entry in batch.entries:
            entry.uses -= 1
        self.entries.extend(entry for entry in batch.entries if entry.uses > 0)
        self._sent.append((version, [entry for entry in batch.entries if entry.uses == 0]))
        self._forget_sent(GRADIENTS_KEPT if self._may_be_late() else 0)

    def _may_be_late(self) -> bool:
        """Return whether a gradient can miss its round and its rollouts can make another one.

        This holds only for off-policy rollouts and rules without quota.
        """
        config = self.context.config
        return (
            not (self.algorithm.on_policy or config.deterministic or config.rounds.collective)
            and self.rule.quota() is None
        )

    def _forget_sent(self, kept: int) -> None:
        """Release rollouts kept for late gradients.

        The newest `kept` gradients keep theirs, as long as the queue has room.
        """
        while self._sent and (
            len(self._sent) > kept
            or len(self.entries) + sum(len(entries) for _, entries in self._sent) > self.limit
        ):
            self._release(self._sent.popleft()[1])

    def on_late(self, made_for: int, version: int) -> None:
        """Put the rollouts of a late gradient at the front of the queue, unless they are released or too old.

        The server takes a group's gradients in order. The newest gradient of the round is therefore the late
        one.
        """
        index = max(
            (index for index, (sent_for, _) in enumerate(self._sent) if sent_for == made_for), default=None
        )
        if index is None:
            return
        entries = self._sent[index][1]
        del self._sent[index]
        for entry in reversed(entries):
            entry.uses = 1
            self.entries.appendleft(entry)
            self.repeated += entry.rollout.count
        self.on_version(version)
