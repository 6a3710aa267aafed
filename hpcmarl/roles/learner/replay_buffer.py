"""Replay: the finished episodes that a learner keeps, and which of them make the next gradient. Called by the
learner, like the feeds in rollout_queue.py.

Episodes are copied out of their messages and stay as compact as these are; the oldest leave. A gradient draws
its share of a round uniformly and without repetition, or by priorities (algo.replay.priority, priorities.py),
or partly from the newest (algo.replay.recent). Each new episode allows so many more to be learned from
(ratio): a fast learner waits for its actors, a slow one draws less often from each episode, or has them wait
(rounds.backpressure); nothing is too old, unless the oldest are asked what the policy would do today
(algo.replay.dynamic). In deterministic runs the episodes of a version go in together, in the order of the
actors. The file (io/checkpoint.py) lies in replay/ of the run directory, one a learner.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.algos.q_learning import EpisodeErrors, QLearning
from hpcmarl.comm.protocol import Buffer, Flags, check_header
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.config import ReplayConfig
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.checkpoint import CheckpointWriter, checkpoint_path, find_checkpoint, load_checkpoint
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.optim.rounds import RoundRule
from hpcmarl.roles.base import Context, generator_for
from hpcmarl.roles.deterministic_quota import actor_quota
from hpcmarl.roles.learner.priorities import UNKNOWN, Priorities, normalised
from hpcmarl.roles.learner.rollout_source import GradientBatch, RolloutSource
from hpcmarl.rollouts.codec import OpenedMessage
from hpcmarl.types import EnvironmentSpec, FloatArray, IntArray, Rollout

logger = logging.getLogger(__name__)
MEGABYTE = 1e6


@dataclass(kw_only=True)
class PrioritisedWork(GradientBatch):
    """Episodes that were drawn by priorities: importance weights [B] in the order of the rollouts and of the
    slots in each, their numbers in the replay [B], and their errors once the gradient is made.
    """

    weights: FloatArray
    numbers: IntArray
    errors: EpisodeErrors | None = None


class ReplayBuffer(RolloutSource[QLearning]):
    """collected: episodes that came in this run; used: how often episodes were learned from; allowed: how
    many more draws ratio permits; unmade: how many more it would permit, had the episodes not left
    meanwhile.
    """

    def __init__(
        self, context: Context, group: Group, rule: RoundRule, algorithm: QLearning, config: ReplayConfig
    ) -> None:
        super().__init__(context, group, rule, algorithm)
        self.config = config
        self.codec = context.codec(algorithm)
        self.episodes: deque[OpenedMessage] = deque()  # whole messages, oldest first
        self.priorities = None if config.priority is None else Priorities(config.priority)
        self.bytes = 0
        self.collected = self.used = 0
        self.allowed = self.unmade = 0.0
        self.distance: float | None = (
            None  # of the policy from the oldest episodes, when that was last looked at
        )
        self.draws = 0  # since the present version came
        self.arrived: dict[
            int, list[Buffer]
        ] = {}  # in deterministic runs: of each actor, what came for the present version
        self.directory = RunDirectory(context.run_directory).replay_directory(group.index)
        self.writer: CheckpointWriter | None = None

    # ---- in

    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        """Keep a copy of a finished episode."""
        buffer, source = message.buffer.copy(), message.source
        message.release()
        if self.context.config.deterministic:
            self.arrived.setdefault(source, []).append(buffer)
        else:
            self._keep(buffer)
            self._shrink()

    def _keep(self, buffer: Buffer, error: float | None = None) -> None:
        """error: of an episode that has been learned from before (priorities.py)."""
        config = self.config
        self.episodes.append(self.codec.open(buffer))
        if self.priorities is not None:
            self.priorities.add(error)
        self.bytes += buffer.nbytes
        while len(self.episodes) > 1 and (
            len(self.episodes) > config.episodes or self.bytes > config.megabytes * MEGABYTE
        ):
            self._forget_oldest()
        self.collected += 1
        if self.collected >= config.learning_starts:
            # what an episode still allowed when it left is forgotten
            most = max(config.samples_per_insert, 1.0) * len(self.episodes)
            self.unmade += max(0.0, self.allowed + config.samples_per_insert - most)
            self.allowed = min(self.allowed + config.samples_per_insert, most)

    def _forget_oldest(self) -> None:
        self.bytes -= self.episodes.popleft().buffer.nbytes
        if self.priorities is not None:
            self.priorities.forget_oldest()

    def _shrink(self) -> None:
        """Look at the oldest episodes now and then; where the policy has left them behind, a tenth of all
        goes.
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
        """No episode is too old."""
        self.draws = 0

    def _has_plenty(self, version: int) -> bool:
        """Draws for two gradients."""
        started = self.collected >= self.config.learning_starts
        return started and self.allowed >= 2 * self._outstanding(version, 0) > 0

    # ---- out

    def has_waiting(self) -> bool:
        """Kept episodes wait for no gradient in particular."""
        return False

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        wanted = self._outstanding(version, delivered)
        if self.context.config.deterministic:
            ready = wanted > 0 and (delivered > 0 or self._all_arrived(version))
        else:
            wanted = min(wanted, len(self.episodes))
            ready = wanted > 0 and self.collected >= self.config.learning_starts and self.allowed >= wanted
        return self._draw(wanted, version) if ready else None

    def _all_arrived(self, version: int) -> bool:
        """Take in the version's episodes, when every actor has sent its share and whatever else ended in that
        same step.
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

    def _draw(self, wanted: int, version: int) -> GradientBatch:
        """At most `wanted` episodes."""
        generator = generator_for(self.context.config.seed, "learner", self.group.index, version, self.draws)
        self.draws += 1
        held, config = len(self.episodes), self.config
        newest = min(round(config.recent_share * wanted), config.recent, held)
        count = min(wanted - newest, held)
        drawn = (
            generator.choice(held, count, replace=False)
            if self.priorities is None
            else self.priorities.draw(count, generator)
        )
        if newest:
            drawn = np.concatenate(
                [drawn, held - 1 - generator.choice(min(config.recent, held), newest, replace=False)]
            )
        self.used += len(drawn)
        self.allowed -= len(drawn)
        if self.priorities is not None:
            return self._prioritised(self.priorities, drawn, count)
        return GradientBatch(*self._contents(sorted(drawn.tolist())))

    def _contents(self, drawn: Sequence[int]) -> tuple[list[Rollout], list[int], list[int]]:
        """Rollouts of the episodes with these indices, the ranks that sampled them and the versions, as of
        Work.
        """
        messages = [self.episodes[index] for index in drawn]
        return (
            self.codec.read_together(messages),
            [message.source for message in messages],
            [message.version for message in messages],
        )

    def _prioritised(self, priorities: Priorities, drawn: IntArray, count: int) -> GradientBatch:
        """Work of drawn indices, the first `count` of them by priorities. The newest were drawn all alike:
        nothing is to be corrected there.
        """
        weights = np.ones(len(drawn))
        weights[:count] = priorities.weights(drawn[:count], self.algorithm.env_steps)
        # by length first: so episodes come in the order of the rollouts, which hold those of equal lengths
        order = np.lexsort((drawn, np.array([self.episodes[index].layout.steps for index in drawn])))
        contents = self._contents(drawn[order].tolist())
        return PrioritisedWork(
            *contents, weights=normalised(weights[order]), numbers=priorities.numbers(drawn[order])
        )

    def gradient(self, work: GradientBatch) -> tuple[FloatArray, dict[str, float]]:
        """With importance weights, where there are any."""
        if not isinstance(work, PrioritisedWork):
            return super().gradient(work)
        vector, statistics, work.errors = self.algorithm.weighed_gradient(work.rollouts, work.weights)
        return vector, statistics

    def done(self, work: GradientBatch, version: int) -> None:
        """Episodes stay; their priorities follow what the gradient found."""
        if self.priorities is not None and isinstance(work, PrioritisedWork) and work.errors is not None:
            self.priorities.learn(work.numbers, work.errors)

    def refuse(self, work: GradientBatch) -> None:
        """So they do here, and others are drawn next: it may have been the networks' fault."""

    def statistics(self) -> dict[str, float]:
        """replay_ratio: how often an episode was learned from, over the run; at
        algo.replay.samples_per_insert the learner waits for its actors. replay_shortfall: share of what
        algo.replay.samples_per_insert asks for that was not learned. replay_distance: see
        algos/q_learning.py, `distance`.
        """
        return {
            "replay_episodes": len(self.episodes),
            "replay_megabytes": self.bytes / MEGABYTE,
            "replay_ratio": self.used / max(1, self.collected),
            "replay_shortfall": (self.allowed + self.unmade)
            / max(1.0, self.used + self.allowed + self.unmade),
            **({} if self.distance is None else {"replay_distance": self.distance}),
        }

    # ---- the file

    def save(self, version: int, *, final: bool) -> None:
        """Write the episodes in the background, for the checkpoint of `version`, where algo.replay.save asks
        for it now.
        """
        every = self.config.save == "checkpoint" or self.context.config.deterministic
        if not self.episodes or not (every or (final and self.config.save == "stop")):
            return
        if self.writer is None:
            with contextlib.suppress(OSError):  # the writer will say so
                self.directory.parent.mkdir(exist_ok=True)
            self.writer = CheckpointWriter(
                self.directory, keep=self.context.config.checkpoint.keep if every else 1
            )
        counts = {"collected": self.collected, "used": self.used, "allowed": self.allowed}
        buffers = [episode.buffer for episode in self.episodes]
        sizes = np.array([buffer.nbytes for buffer in buffers])
        state: dict[str, Any] = {"episodes": np.concatenate(buffers), "bytes": sizes, **counts}
        if self.priorities is not None:
            state["errors"] = np.array(self.priorities.errors)
        self.writer.submit(
            state,
            version=version,
            attributes=self.context.attributes("learner", self.group.index),
            copied=True,
        )

    def resume(self, run_directory: Path, version: int) -> None:
        """Go on with the episodes that were written for the checkpoint of `version`, or else with the newest;
        without any, collect anew.
        """
        directory = RunDirectory(run_directory).replay_directory(self.group.index)
        exact = checkpoint_path(directory, version)
        try:
            path = find_checkpoint(exact if exact.is_file() else directory)
            if path is None:
                logger.warning("no replay of group %d in %s: it is filled anew", self.group.index, directory)
                return
            self._load(load_checkpoint(path)[0])
        except (HpcmarlError, KeyError, TypeError, ValueError) as error:
            logger.warning(
                "the replay of group %d cannot be used (%s): it is filled anew", self.group.index, error
            )
            return
        if path != exact:
            logger.warning(
                "the replay of group %d is that of %s, not of version %d",
                self.group.index,
                path.name,
                version,
            )

    def _load(self, state: dict[str, Any]) -> None:
        """Raises ProtocolError, KeyError, TypeError or ValueError for what is no replay of this run."""
        whole, sizes = np.asarray(state["episodes"], np.uint8), np.asarray(state["bytes"], np.int64)
        if sizes.sum() != whole.size or (sizes <= 0).any():
            raise ValueError(f"{whole.size} bytes of episodes, {sizes.sum()} announced")
        ends = np.cumsum(sizes).tolist()
        buffers = [whole[end - size : end].copy() for end, size in zip(ends, sizes.tolist(), strict=True)]
        for buffer in buffers:
            check_episode(
                self.codec.read(buffer, check_header(buffer, self.context.rank).version),
                self.context.spec,
            )
        counts = (int(state["collected"]), int(state["used"]), float(state["allowed"]))
        if not all(math.isfinite(count) for count in counts):
            raise ValueError(f"counts are {counts}")
        errors = np.asarray(state.get("errors", [UNKNOWN] * len(buffers)), np.float64)
        if errors.shape != sizes.shape or not (np.isfinite(errors) & (errors >= 0)).all():
            raise ValueError(
                f"errors of {errors.size} episodes, {len(buffers)} are in it, or some are no numbers >= 0"
            )
        for buffer, error in zip(buffers, errors.tolist(), strict=True):
            self._keep(buffer, error)
        self.collected, self.used, self.allowed = counts

    def close(self) -> None:
        """Wait until what was to be written is written."""
        if self.writer is None:
            return
        self.writer.close()
        if (error := self.writer.last_error) is not None:
            logger.error("%s; a resumed run fills its replay anew", error)


def check_episode(rollout: Rollout, spec: EnvironmentSpec) -> None:
    """Raises ValueError for a rollout from a file that is not one whole episode of this environment with
    finite numbers.
    """
    end = rollout.episode_end[:, 0] if rollout.count == 1 and rollout.steps else np.zeros(1)
    last = [[rollout.steps - 1, 0]] if end[-1] == 2 else []
    if end[:-1].any() or end[-1] not in (1, 2) or rollout.final_index.tolist() != last:
        raise ValueError("an episode in it is not whole")
    for policy in spec.policies:
        part = rollout.policies[policy.name]
        numbers = [
            part.obs,
            part.reward,
            part.final_obs,
            *(array for array in (rollout.state, rollout.final_state) if array is not None),
        ]
        if not all(np.isfinite(array).all() for array in numbers):
            raise ValueError(f"an episode in it has numbers of {policy.name} that are not finite")
        if part.action.min() < 0 or part.action.max() >= policy.action.sizes[0]:
            raise ValueError(f"an episode in it has actions of {policy.name} that do not exist")
