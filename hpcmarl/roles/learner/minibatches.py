"""Several passes over one batch of rollouts, each in random minibatches (PPO)."""

from __future__ import annotations

from collections import deque

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import select
from hpcmarl.comm.topology import Group
from hpcmarl.config import MinibatchPasses, PPOConfig
from hpcmarl.optim.rounds import RoundRule, share
from hpcmarl.roles.base import Context, generator_for
from hpcmarl.roles.learner.rollout_source import (
    GradientBatch,
    QueuedRollout,
    QueuedSource,
    batch_of_entries,
)
from hpcmarl.types import Rollout


class MinibatchSampler(QueuedSource):
    """Go through a batch of rollouts several times, in random parts that make one gradient each.

    Actors continue to sample meanwhile, with the weights of each update. The next batch consists of rollouts
    that were sampled since the previous batch began: the newest ones, or with rounds.backpressure the oldest.

    Args:
        context: The run.
        group: The learner and its actors.
        rule: Round rule of the run.
        algorithm: The algorithm; it may end a batch early.
        passes: Number of passes over each batch, and of parts in each pass.
    """

    def __init__(
        self,
        context: Context,
        group: Group,
        rule: RoundRule,
        algorithm: Algorithm,
        passes: MinibatchPasses,
    ) -> None:
        super().__init__(context, group, rule, algorithm)
        self.passes = passes
        self.batch: list[QueuedRollout] = []
        # Trajectories of each coming gradient, as (index in the batch, slot).
        self.parts: deque[list[tuple[int, int]]] = deque()
        self.made = self.left_out = 0  # gradients since the last report
        self.begun = (0, 0)  # versions at which the previous batch and this one began

    def on_version(self, version: int) -> None:
        super().on_version(version)
        if not self.parts:
            self._release_batch()

    def _is_too_old(self, rollout: Rollout, version: int) -> bool:
        return rollout.version < self.begun[0]

    def _has_plenty(self, version: int) -> bool:
        """Return whether the next batch is complete; the present one keeps the learner busy for a while."""
        return self._waiting_trajectories() >= self._batch_size()

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        quota = self._quota(version)
        if (quota is not None and delivered >= quota) or not (self.parts or self._begin(version)):
            return None
        self.made += 1
        part = np.array(sorted(self.parts.popleft()))
        chosen = [(self.batch[index], part[part[:, 0] == index, 1]) for index in np.unique(part[:, 0])]
        return batch_of_entries(
            [entry for entry, _ in chosen], [select(entry.rollout, slots) for entry, slots in chosen]
        )

    def _batch_size(self) -> int:
        """Return the trajectories of a batch: each of its parts holds the group's share of a round."""
        return self.passes.minibatches * share(self.rule.batch, len(self.rule.present))

    def _begin(self, version: int) -> bool:
        """Begin the next batch if enough rollouts have arrived; return whether it has begun."""
        self._release_batch()
        missing = self._batch_size()
        if self._waiting_trajectories() < missing:
            return False
        # Newest first. If actors can pause, oldest first: rollouts that were under way at a pause would
        # otherwise become too old.
        oldest_first = self.context.config.rounds.backpressure
        while missing > 0:
            self.batch.append(self.entries.popleft() if oldest_first else self.entries.pop())
            missing -= self.batch[-1].rollout.count
        if not oldest_first:
            self.batch.reverse()
        prepared = self.algorithm.begin_batch([entry.rollout for entry in self.batch])
        for entry, rollout in zip(self.batch, prepared, strict=True):
            entry.rollout = rollout
        self.begun = (self.begun[1], version)
        rows = [
            (index, slot) for index, entry in enumerate(self.batch) for slot in range(entry.rollout.count)
        ]
        generator = generator_for(self.context.config.seed, "learner", self.group.index, version)
        for _ in range(self.passes.epochs):
            order = generator.permutation(len(rows))
            self.parts += [
                [rows[row] for row in part] for part in np.array_split(order, self.passes.minibatches)
            ]
        return True

    def _release_batch(self) -> None:
        self._release(self.batch)
        self.batch = []

    def done(self, batch: GradientBatch, version: int) -> None:
        """Keep the rollouts until the last part of the batch has made its gradient."""

    def refuse(self, batch: GradientBatch) -> None:
        """Keep the rollouts: gradients of other parts of the batch may be finite."""

    def end_batch(self) -> None:
        """Skip the rest of the batch.

        A round that counts on this group waits until the next batch is sampled. Batches of other groups
        continue.
        """
        self.left_out += len(self.parts)
        self.parts.clear()

    def statistics(self) -> dict[str, float]:
        """Return the share of gradients skipped since the last report, if batches may end early."""
        made, left_out, self.made, self.left_out = self.made, self.left_out, 0, 0
        algo = self.context.config.algo
        if not isinstance(algo, PPOConfig) or algo.kl_target is None or not made + left_out:
            return {}
        return {"gradients_left_out": left_out / (made + left_out)}
