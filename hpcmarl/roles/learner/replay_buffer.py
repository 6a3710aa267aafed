"""Replay buffer: the finished episodes that a learner keeps, and the choice of those it learns from.

Episodes are copied out of their messages in the same compact form; the oldest are removed first. A gradient
draws its share of a round uniformly without replacement, by priorities (algo.replay.priority, priorities.py),
or partly from the newest episodes (algo.replay.recent). It draws whole episodes or single steps of them
(algo.replay.draw); rounds count what is drawn.

Each new episode, or step, permits algo.replay.samples_per_insert further draws. A fast learner therefore
waits for its actors. A slow one draws each less often, or pauses the actors (rounds.backpressure). No episode
is too old, unless algo.replay.dynamic compares the oldest with the present policy.

In deterministic runs the episodes of a version are added together, in the order of the actors.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.algos.episodes import Episodes
from hpcmarl.algos.replayed import EpisodeErrors, Replayed
from hpcmarl.comm.protocol import Buffer, Flags, check_header
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.config import ReplayConfig
from hpcmarl.optim.rounds import RoundRule
from hpcmarl.roles.base import Context, generator_for
from hpcmarl.roles.deterministic_quota import actor_quota
from hpcmarl.roles.learner.priorities import UNKNOWN, Priorities, normalised
from hpcmarl.roles.learner.replay_file import ReplayFiles
from hpcmarl.roles.learner.rollout_source import GradientBatch, RolloutSource
from hpcmarl.roles.learner.step_store import StepStore
from hpcmarl.rollouts.codec import OpenedMessage
from hpcmarl.types import FloatArray, IntArray, Rollout

MEGABYTE = 1e6
COUNTS = ("collected", "inserted", "used", "allowed")  # in the replay file


@dataclass(kw_only=True)
class ReplayedBatch(GradientBatch):
    """A batch of drawn episodes or steps.

    Attributes:
        drawn: Number of them.
        staged: The same on the device; None: not yet there.
        weights: Importance weights, shape [B], in the order of the rollouts and of the slots in each; None:
            drawn uniformly.
        numbers: Numbers of the episodes in the replay buffer, shape [B], if they have weights.
        errors: Errors of the episodes, if they have weights; None before the gradient is made.
    """

    drawn: int
    staged: Episodes | None = None
    weights: FloatArray | None = None
    numbers: IntArray | None = None
    errors: EpisodeErrors | None = None


class ReplayBuffer(RolloutSource[Replayed]):
    """Rollout source that keeps whole episodes and draws from them repeatedly.

    Attributes:
        episodes: Kept messages of one episode each, oldest first.
        priorities: Their priorities; None: uniform draws.
        bytes: Size of the kept messages.
        steps: Their steps, and the memory of their messages; None: whole episodes are drawn.
        collected: Episodes that arrived in this run.
        inserted: Episodes, or steps if these are drawn, that arrived in this run.
        used: Episodes or steps drawn so far, counted once per draw.
        allowed: Further draws that samples_per_insert permits.
        unmade: Draws that it would have permitted in addition, had the episodes not left the buffer.
        distance: Distance of the policy from the oldest episodes at the last comparison; None: not compared.
        draws: Gradients drawn for the present version.
        ahead: Batch that was drawn ahead, and the version for which it was drawn; None: there is none.
        arrived: In deterministic runs, the messages of each actor for the present version.
        files: The replay files of this group.
    """

    def __init__(
        self, context: Context, group: Group, rule: RoundRule, algorithm: Replayed, config: ReplayConfig
    ) -> None:
        super().__init__(context, group, rule, algorithm)
        self.config = config
        self.codec = context.codec(algorithm)
        self.episodes: deque[OpenedMessage] = deque()  # whole messages, oldest first
        self.priorities = None if config.priority is None else Priorities(config.priority)
        algo = context.config.algo
        self.steps = (
            StepStore(self.codec, algo.decisions_per_target, config.megabytes * MEGABYTE)
            if algo.draws_steps
            else None
        )
        self.bytes = 0
        self.collected = self.inserted = self.used = 0
        self.allowed = self.unmade = 0.0
        self.distance: float | None = None
        self.draws = 0
        self.ahead: tuple[int, ReplayedBatch] | None = None
        self.arrived: dict[int, list[Buffer]] = {}
        self.files = ReplayFiles(context, group, self.codec, config)

    # ---- arrivals

    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        """Store a copy of a finished episode."""
        buffer, source = message.buffer.copy(), message.source
        message.release()
        if self.context.config.deterministic:
            self.arrived.setdefault(source, []).append(buffer)
        else:
            self._keep(buffer)
            self._shrink()

    def _keep(self, buffer: Buffer, error: float | None = None) -> None:
        """Append an episode and remove the oldest ones above the limits of size.

        Args:
            buffer: Message of the episode.
            error: Error of an episode that was learned from before (priorities.py); None: unknown.
        """
        config = self.config
        opened = self.codec.open(buffer) if self.steps is None else self.steps.add(buffer)
        self.episodes.append(opened)
        if self.priorities is not None:
            self.priorities.add(error)
        self.bytes += buffer.nbytes
        while len(self.episodes) > 1 and (
            len(self.episodes) > config.episodes or self.bytes > config.megabytes * MEGABYTE
        ):
            self._forget_oldest()
        new = 1 if self.steps is None else opened.layout.steps
        self.collected += 1
        self.inserted += new
        if self.collected >= config.learning_starts:
            # An episode that leaves the buffer takes its remaining draws with it.
            most = max(config.samples_per_insert, 1.0) * self._held
            allowed = self.allowed + config.samples_per_insert * new
            self.unmade += max(0.0, allowed - most)
            self.allowed = min(allowed, most)

    @property
    def _held(self) -> int:
        """Number of kept episodes, or of their steps if these are drawn."""
        return len(self.episodes) if self.steps is None else self.steps.total

    def _forget_oldest(self) -> None:
        self.bytes -= self.episodes.popleft().buffer.nbytes
        if self.priorities is not None:
            self.priorities.forget_oldest()
        if self.steps is not None:
            self.steps.forget_oldest()

    def _shrink(self) -> None:
        """Compare the policy with the oldest episodes every `dynamic.every` episodes.

        If the distance exceeds `dynamic.distance`, remove the oldest tenth of all episodes, but keep at least
        `dynamic.least`.
        """
        dynamic = self.config.dynamic
        if dynamic is None or self.collected % dynamic.every or len(self.episodes) <= dynamic.least:
            return
        self.distance = self.algorithm.distance(
            self.codec.read_together(list(islice(self.episodes, dynamic.oldest)))
        )
        if self.distance > dynamic.distance:
            for _ in range(min(len(self.episodes) // 10, len(self.episodes) - dynamic.least)):
                self._forget_oldest()

    def on_version(self, version: int) -> None:
        """Count draws for a new version. No episode becomes too old."""
        self.draws = 0

    def _has_plenty(self, version: int) -> bool:
        """Return whether draws for two gradients are permitted."""
        started = self.collected >= self.config.learning_starts
        return started and self.allowed >= 2 * self._outstanding(version, 0) > 0

    # ---- gradients

    def has_waiting(self) -> bool:
        """Return False: kept episodes do not wait for a particular gradient."""
        return False

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        wanted = self._outstanding(version, delivered)
        if self.context.config.deterministic:
            ready = wanted > 0 and (delivered > 0 or self._all_arrived(version))
        else:
            wanted = min(wanted, self._held)
            ready = self._permits(wanted)
        if not ready:
            return None
        batch = self._drawn_ahead(wanted, version) or self._draw(wanted, version, self.draws)
        self.draws += 1
        self.used += batch.drawn
        self.allowed -= batch.drawn
        return batch

    def _permits(self, wanted: int) -> bool:
        """Return whether so many draws are permitted now."""
        return wanted > 0 and self.collected >= self.config.learning_starts and self.allowed >= wanted

    def take_ahead(self, version: int, delivered: int) -> bool:
        """Draw a batch for the coming version and copy it to the device.

        It holds no episode that arrives after the draw. A deterministic run draws nothing ahead, because its
        actors still have to send the episodes of the coming version.
        """
        if self.ahead is not None or self.context.config.deterministic or version == 0:
            return False
        if self._quota(version - 1) is None or self._outstanding(version - 1, delivered) > 0:
            return False
        wanted = min(self._outstanding(version, 0), self._held)
        if not self._permits(wanted):
            return False
        batch = self._draw(wanted, version, 0)
        batch.staged = self.algorithm.stage(batch.rollouts)
        self.ahead = (version, batch)
        return True

    def _drawn_ahead(self, wanted: int, version: int) -> ReplayedBatch | None:
        """Return and forget the batch drawn ahead; None if it is not the first of this version and size."""
        ahead, self.ahead = self.ahead, None
        if ahead is None or ahead[0] != version or ahead[1].drawn != wanted or self.draws:
            return None
        return ahead[1]

    def _all_arrived(self, version: int) -> bool:
        """Add the episodes of a version if every actor has sent its share.

        An actor has done so if no further episode of its last step follows.
        """
        each = actor_quota(self.context, self.group.index, version)
        for rank in self.group.actors:
            own = self.arrived.get(rank, [])
            if len(own) < each or check_header(own[-1], rank).flags & Flags.MORE:
                return False
        for rank in self.group.actors:
            for buffer in self.arrived.pop(rank):
                self._keep(buffer)
                self._shrink()
        return True

    def _draw(self, wanted: int, version: int, number: int) -> ReplayedBatch:
        """Draw at most `wanted` episodes or steps.

        Args:
            wanted: How many.
            version: Version of the gradient.
            number: Number of the gradient among those of its version.
        """
        generator = generator_for(self.context.config.seed, "learner", self.group.index, version, number)
        held, config = self._held, self.config
        recent = min(config.recent, held) if self.steps is None else self._recent_steps(self.steps)
        newest = min(round(config.recent_share * wanted), recent)
        count = min(wanted - newest, held)
        drawn = (
            generator.choice(held, count, replace=False)
            if self.priorities is None
            else self.priorities.draw(count, generator)
        )
        if newest:
            drawn = np.concatenate([drawn, held - 1 - generator.choice(recent, newest, replace=False)])
        if self.priorities is not None:
            return self._prioritised(self.priorities, drawn, count)
        drawn = np.sort(drawn)
        contents = self._contents(drawn.tolist()) if self.steps is None else self.steps.read(drawn)
        return ReplayedBatch(*contents, drawn=len(drawn))

    def _recent_steps(self, steps: StepStore) -> int:
        return steps.newest(self.config.recent) if self.config.recent else 0

    def _contents(self, drawn: Sequence[int]) -> tuple[list[Rollout], list[int], list[int]]:
        """Return the rollouts, actor ranks and versions of episodes, as in GradientBatch.

        Args:
            drawn: Indices of the episodes.
        """
        messages = [self.episodes[index] for index in drawn]
        return (
            self.codec.read_together(messages),
            [message.source for message in messages],
            [message.version for message in messages],
        )

    def _prioritised(self, priorities: Priorities, drawn: IntArray, count: int) -> ReplayedBatch:
        """Return the batch of drawn indices.

        The first `count` of them were drawn by priorities. The others are from the newest episodes, drawn
        uniformly, and need no correction: their weight is 1.
        """
        weights = np.ones(len(drawn))
        weights[:count] = priorities.weights(drawn[:count], self.algorithm.env_steps)
        # Sort by length first, because each rollout holds the episodes of one length.
        order = np.lexsort((drawn, np.array([self.episodes[index].layout.steps for index in drawn])))
        return ReplayedBatch(
            *self._contents(drawn[order].tolist()),
            drawn=len(drawn),
            weights=normalised(weights[order]),
            numbers=priorities.numbers(drawn[order]),
        )

    def gradient(self, batch: GradientBatch) -> tuple[FloatArray, dict[str, float]]:
        """Compute the gradient, with importance weights if episodes were drawn by priorities."""
        assert isinstance(batch, ReplayedBatch)
        staged = self.algorithm.stage(batch.rollouts) if batch.staged is None else batch.staged
        vector, statistics, errors = self.algorithm.staged_gradient(staged, batch.weights)
        if batch.weights is not None:
            batch.errors = errors.of_episodes()
        return vector, statistics

    def done(self, batch: GradientBatch, version: int) -> None:
        """Update the priorities of the episodes. The episodes stay in the buffer."""
        assert isinstance(batch, ReplayedBatch)
        if self.priorities is not None and batch.numbers is not None and batch.errors is not None:
            self.priorities.learn(batch.numbers, batch.errors)

    def refuse(self, batch: GradientBatch) -> None:
        """Keep the episodes: the networks may have caused the non-finite gradient. Others are drawn next."""

    def statistics(self) -> dict[str, float]:
        """Return the metrics of the buffer.

        Returns:
            replay_episodes: Episodes kept.
            replay_megabytes: Size of their messages.
            replay_ratio: How often an episode, or a step, was learned from, averaged over the run. At
                algo.replay.samples_per_insert the learner waits for its actors.
            replay_shortfall: Share of the draws demanded by algo.replay.samples_per_insert that were not
                made.
            replay_distance: See `distance` in algos/replayed.py.
        """
        return {
            "replay_episodes": len(self.episodes),
            "replay_megabytes": self.bytes / MEGABYTE,
            "replay_ratio": self.used / max(1, self.inserted),
            "replay_shortfall": (self.allowed + self.unmade)
            / max(1.0, self.used + self.allowed + self.unmade),
            **({} if self.distance is None else {"replay_distance": self.distance}),
        }

    # ---- replay file

    def save(self, version: int, *, final: bool) -> None:
        """Write the episodes in the background if algo.replay.save requires it now.

        Args:
            version: Version of the checkpoint that they belong to.
            final: Whether it is the last one of the run.
        """
        if not self.episodes or not self.files.are_due(final=final):
            return
        state: dict[str, Any] = {name: getattr(self, name) for name in COUNTS}
        if self.priorities is not None:
            state["errors"] = np.array(self.priorities.errors)
        self.files.write([episode.buffer for episode in self.episodes], state, version)

    def resume(self, run_directory: Path, version: int) -> None:
        """Load the episodes written for the checkpoint of `version`, or otherwise the newest ones.

        Without a usable file the buffer starts empty.
        """
        self.files.read(run_directory, version, self._load)

    def _load(self, buffers: Sequence[Buffer], state: Mapping[str, Any]) -> None:
        """Load the contents of a file.

        Raises:
            KeyError, TypeError, ValueError: The counts or errors are not those of a replay buffer.
        """
        counts = [float(state[name]) for name in COUNTS]
        if not all(math.isfinite(count) for count in counts):
            raise ValueError(f"{', '.join(COUNTS)} are {counts}, which must be finite")
        errors = np.asarray(state.get("errors", [UNKNOWN] * len(buffers)), np.float64)
        if errors.shape != (len(buffers),) or not (np.isfinite(errors) & (errors >= 0)).all():
            raise ValueError(
                f"errors has shape {list(errors.shape)} for {len(buffers)} episodes, or an entry that is not "
                "finite and >= 0"
            )
        for buffer, error in zip(buffers, errors.tolist(), strict=True):
            self._keep(buffer, error)
        self.collected, self.inserted, self.used = map(int, counts[:3])
        self.allowed = counts[3]

    def close(self) -> None:
        """Wait until pending files are written."""
        self.files.close()
