"""What waits at a learner, and which of it makes the next gradient. Called by the learner; knows no optimizer
and sends nothing.

Queue        rollouts in the order of their arrival; each makes one gradient (algo.reuse: several)
Iterations   a batch of rollouts is gone through `epochs` times in `minibatches` random parts each, or until
    the algorithm ends it. The actors go
             on meanwhile, under the weights of each step: what they began in this iteration or in the one
             before is the next batch, newest first (rounds.backpressure: oldest)

Whole episodes that are learned from again and again, off-policy: replay_buffer.py.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import select
from hpcmarl.comm.protocol import FLAG_MORE
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.config import PPOConfig
from hpcmarl.optim.rounds import RoundRule, share
from hpcmarl.roles.base import Context, generator_for
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.types import FloatArray, Rollout

GRADIENTS_KEPT = (
    4  # a round is over for a short time before its groups know: few gradients are made meanwhile
)


@dataclass
class QueuedRollout:
    """A rollout and how many more gradients it takes part in; its memory is the message's."""

    message: Message
    rollout: Rollout
    actor_rank: int
    uses: int


@dataclass
class GradientBatch:
    """The rollouts of one gradient, the ranks that sampled them, and under which version each trajectory;
    entries: what a queue keeps of them."""

    rollouts: list[Rollout]
    actor_ranks: list[int]
    versions: list[int]
    entries: list[QueuedRollout] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Trajectories."""
        return len(self.versions)


class RolloutQueue:
    """`late`, `overflow`: trajectories dropped since the learner last set them to 0: too old, or more than
    `limit` messages. `unused_steps`: environment steps since then that were dropped because the learner is
    behind, not because their round was over. `repeated`: trajectories since then whose gradient came when its
    round was over, and that make another one. `closing`: the round ends, and all that is here belongs to it.
    `in_order`: see start_order.py."""

    in_order = False
    news = False

    def __init__(self, context: Context, group: Group, rule: RoundRule, algorithm: Algorithm) -> None:
        self.context, self.group, self.rule, self.algorithm = context, group, rule, algorithm
        self.entries: deque[QueuedRollout] = deque()
        self.limit = context.queue_limit(group)
        self.reuse = int(getattr(context.config.algo, "reuse", 1))
        self.late = self.overflow = self.repeated = self.unused_steps = 0
        # of the newest gradients: the round, and the rollouts that make no other
        self._sent: deque[tuple[int, list[QueuedRollout]]] = deque()
        self.closing = False

    # ---- in

    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        """Take in a rollout while the newest parameters are `version`; a full queue loses its oldest."""
        self.entries.append(QueuedRollout(message, rollout, message.source, self.reuse))
        if self._too_old(rollout, version):
            self._drop(self.entries.pop(), late=True)
        # actors stop by themselves
        unbounded = self.context.config.deterministic or self.context.config.rounds.counts_all_begun
        while len(self.entries) > self.limit and not unbounded:
            self._drop(self.entries.popleft(), late=False)
        self._forget_sent(GRADIENTS_KEPT)

    def on_version(self, version: int) -> None:
        """New parameters: forget what is too old for them."""
        old = [entry for entry in self.entries if self._too_old(entry.rollout, version)]
        if old:
            self.entries = deque(entry for entry in self.entries if not self._too_old(entry.rollout, version))
        for entry in old:
            self._drop(entry, late=True)

    def _too_old(self, rollout: Rollout, version: int) -> bool:
        """On-policy work of an older version is worthless (late: ignore leaves the dropping to the server's
        rule).

        A rule that takes gradients of any age would take those, too, though they were sampled for the group's
        former point; and there versions count the steps of all groups, so that they say little about how far
        the ratios have to reach."""
        age = version - rollout.version
        if self.algorithm.on_policy:
            return age > 0 and (self.rule.any_age or self.context.config.rounds.late == "cancel")
        return not self.rule.any_age and age > self.context.config.rounds.max_staleness

    def _drop(self, entry: QueuedRollout, *, late: bool) -> None:
        if late:
            self.late += entry.rollout.count
        else:
            self.overflow += entry.rollout.count
        if entry.uses == self.reuse and not (late and self.algorithm.on_policy):
            self.unused_steps += entry.rollout.steps * entry.rollout.count
        entry.message.release()

    def behind(self, version: int) -> bool:
        """Whether the actors are to wait (rounds.backpressure): there is work for the time in which they
        would sample more.

        Never in deterministic runs, whose actors stop by themselves."""
        return self.context.config.backpressure and not self.closing and self._plenty(version)

    def _plenty(self, version: int) -> bool:
        """Two gradients: one that is being made, and the next."""
        return (
            0
            < 2 * self._wanted(version, 0)
            <= sum(entry.uses * entry.rollout.count for entry in self.entries)
        )

    # ---- out

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        """The rollouts of the next gradient; `delivered`: trajectories that the group has delivered for this
        version. None: wait."""
        if not self.entries:
            return None
        target = self.rule.initial_batch if version == 0 else self.rule.batch
        quota = self.rule.quota(target)
        if self.context.config.deterministic:
            return self._take_in_order(version, delivered, quota or target)
        wanted = self._wanted(version, delivered)
        if wanted <= 0:
            return None
        waiting = sum(entry.rollout.count for entry in self.entries)
        if quota is not None and waiting < wanted and len(self.entries) < max(1, self.limit // 2):
            return None  # one gradient for the whole share costs less than several
        taken: list[QueuedRollout] = []
        while self.entries and sum(entry.rollout.count for entry in taken) < wanted:
            if (
                taken
                and self.algorithm.on_policy
                and self.entries[0].rollout.version != taken[0].rollout.version
            ):
                break
            taken.append(self.entries.popleft())
        return whole(taken)

    def _wanted(self, version: int, delivered: int) -> int:
        """Trajectories of the next gradient: what the group has still to deliver for this version, or an
        equal share of the round."""
        target = self.rule.initial_batch if version == 0 else self.rule.batch
        quota = self.rule.quota(target)
        if self.closing:
            return len(self.entries)
        return share(target, len(self.rule.present)) if quota is None else quota - delivered

    def _take_in_order(self, version: int, delivered: int, quota: int) -> GradientBatch | None:
        """Deterministic runs: every actor's share of the version, in the order of the actors; re-used
        rollouts come first."""
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
            # an actor's step may end more episodes than it owes: all of them are of this version
            if (
                sum(entry.rollout.count for entry in own) < each
                or int(own[-1].message.header["flags"]) & FLAG_MORE
            ):
                return None
            fresh += own
        taken = [entry for entry in self.entries if entry.rollout.version < version] + fresh
        self.entries.clear()
        return whole(taken)

    def gradient(self, work: GradientBatch) -> tuple[FloatArray, dict[str, float]]:
        """The work's ascent direction and statistics (algos/base.py)."""
        return self.algorithm.gradient(work.rollouts)

    def done(self, work: GradientBatch, version: int) -> None:
        """The gradient for the round `version` was made: queue again what is to be re-used, keep the rest
        while the round may be over already."""
        for entry in work.entries:
            entry.uses -= 1
        self.entries.extend(entry for entry in work.entries if entry.uses > 0)
        self._sent.append((version, [entry for entry in work.entries if entry.uses == 0]))
        self._forget_sent(GRADIENTS_KEPT if self._may_be_late() else 0)

    def _may_be_late(self) -> bool:
        """Whether a round may end without a gradient that was made for it, and off-policy rollouts can make
        another."""
        config = self.context.config
        return (
            not (self.algorithm.on_policy or config.deterministic or config.rounds.collective)
            and self.rule.quota() is None
        )

    def _forget_sent(self, kept: int) -> None:
        """Release what the newest `kept` gradients were made of, and still less where the queue has no room
        for that."""
        while self._sent and (
            len(self._sent) > kept
            or len(self.entries) + sum(len(entries) for _, entries in self._sent) > self.limit
        ):
            for entry in self._sent.popleft()[1]:
                entry.message.release()

    def on_late(self, made_for: int, version: int) -> None:
        """A gradient came when its round was over: its rollouts make the next one instead, if they are still
        here and not too old.

        The server takes the gradients of a group in their order, so that of one round the newest are late.

        Args:
            made_for: The round that the gradient was made for.
            version: The newest parameters.
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

    def end_batch(self) -> None:
        """Leave out what is still to come of the present batch, where work comes in batches."""

    def refuse(self, work: GradientBatch) -> None:
        """The gradient was no good: its rollouts make no other."""
        for entry in work.entries:
            entry.message.release()

    def statistics(self) -> dict[str, float]:
        """What else is told with a report."""
        return {}

    # ---- actors, where the order of their episodes matters

    def allotment(self, rank: int) -> int | None:
        """How many episodes of the present version an actor may begin; None: any number."""
        return None

    def on_actor_lost(self, rank: int) -> None:
        """An actor has died."""

    def on_actor_replaced(self, rank: int) -> None:
        """A new process acts in a dead one's place."""

    def on_groups_lost(self, version: int) -> None:
        """The rule goes on with fewer groups."""

    # ---- checkpoints

    def state_dict(self) -> list[list[Any]]:
        """The rollouts that a deterministic run has still to re-use; others begin with new ones."""
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

    def load_state_dict(self, state: list[list[Any]], codec: RolloutCodec) -> None:
        """The inverse of state_dict."""
        for buffer, version, uses, rank, memories in state:
            held = np.array(buffer, dtype=np.uint8)
            rollout = codec.read(held, version)
            for name, memory in memories.items():
                rollout.policies[name].critic_memory = np.array(memory, np.float32)
            self.entries.append(QueuedRollout(Message.kept(held, rank), rollout, rank, uses))

    def save(self, version: int, *, final: bool) -> None:
        """Write what is kept to a file of its own, where there is such; the checkpoint of `version` is being
        made, the last of the run or not."""

    def resume(self, run_directory: Path, version: int) -> None:
        """Read that file, from the run that is resumed at the checkpoint of `version`."""

    def close(self) -> None:
        """Wait for what is being written."""


class MinibatchSampler(RolloutQueue):
    """Goes through batches of rollouts again and again, as the algorithm's `epochs` and `minibatches` say."""

    def __init__(self, context: Context, group: Group, rule: RoundRule, algorithm: Algorithm) -> None:
        super().__init__(context, group, rule, algorithm)
        self.batch: list[QueuedRollout] = []
        # (entry of the batch, slot) of the trajectories of each coming gradient
        self.parts: deque[list[tuple[int, int]]] = deque()
        self.made = self.left_out = 0  # gradients since the last report
        self.begun = (0, 0)  # versions at which the iteration before and this one began

    def on_version(self, version: int) -> None:
        super().on_version(version)
        if not self.parts:
            self._end()

    def _too_old(self, rollout: Rollout, version: int) -> bool:
        return rollout.version < self.begun[0]

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        quota = self.rule.quota(self.rule.initial_batch if version == 0 else self.rule.batch)
        if (quota is not None and delivered >= quota) or not (self.parts or self._begin(version)):
            return None
        self.made += 1
        part = np.array(sorted(self.parts.popleft()))
        chosen = [(self.batch[index], part[part[:, 0] == index, 1]) for index in np.unique(part[:, 0])]
        return _work(
            [select(entry.rollout, slots) for entry, slots in chosen], [entry for entry, _ in chosen]
        )

    def _batch_size(self) -> int:
        """Trajectories of an iteration: a part for each gradient must hold the group's share of a round."""
        return self.algorithm.minibatches * share(self.rule.batch, len(self.rule.present))

    def _plenty(self, version: int) -> bool:
        """The next batch; the present one takes its time."""
        return sum(entry.rollout.count for entry in self.entries) >= self._batch_size()

    def _begin(self, version: int) -> bool:
        """The next batch, where it is there."""
        self._end()
        epochs, parts, missing = self.algorithm.epochs, self.algorithm.minibatches, self._batch_size()
        if sum(entry.rollout.count for entry in self.entries) < missing:
            return False
        # The newest. Where actors wait, the oldest: what was under way when they were told comes next, before
        # it is too old.
        oldest = self.context.config.rounds.backpressure
        while missing > 0:
            self.batch.append(self.entries.popleft() if oldest else self.entries.pop())
            missing -= self.batch[-1].rollout.count
        if not oldest:
            self.batch.reverse()
        for entry, rollout in zip(
            self.batch, self.algorithm.begin_batch([entry.rollout for entry in self.batch]), strict=True
        ):
            entry.rollout = rollout
        self.begun = (self.begun[1], version)
        rows = [
            (index, slot) for index, entry in enumerate(self.batch) for slot in range(entry.rollout.count)
        ]
        generator = generator_for(self.context.config.seed, "learner", self.group.index, version)
        for _ in range(epochs):
            order = generator.permutation(len(rows))
            self.parts += [[rows[row] for row in part] for part in np.array_split(order, parts)]
        return True

    def _end(self) -> None:
        """The batch is used up."""
        for entry in self.batch:
            entry.message.release()
        self.batch = []

    def done(self, work: GradientBatch, version: int) -> None:
        """The batch is kept until the last part of it has been learned from."""

    def end_batch(self) -> None:
        """The next gradient is of the next batch. A round that counts this group waits until that is sampled;
        the other groups' batches go on."""
        self.left_out += len(self.parts)
        self.parts.clear()

    def refuse(self, work: GradientBatch) -> None:
        """Other parts of the batch may be good."""

    def statistics(self) -> dict[str, float]:
        """Return the share of gradients that were left out since the last time, where a batch may end
        early."""
        made, left_out, self.made, self.left_out = self.made, self.left_out, 0, 0
        algo = self.context.config.algo
        if not isinstance(algo, PPOConfig) or algo.kl_target is None or not made + left_out:
            return {}
        return {"gradients_left_out": left_out / (made + left_out)}


def _critic_memory(rollout: Rollout) -> dict[str, Any]:
    return {
        name: part.critic_memory for name, part in rollout.policies.items() if part.critic_memory is not None
    }


def whole(entries: list[QueuedRollout]) -> GradientBatch | None:
    """The work of whole rollouts; None for none."""
    return _work([entry.rollout for entry in entries], entries) if entries else None


def _work(rollouts: list[Rollout], entries: list[QueuedRollout]) -> GradientBatch:
    versions = [rollout.version for rollout in rollouts for _ in range(rollout.count)]
    return GradientBatch(rollouts, [entry.actor_rank for entry in entries], versions, entries)
