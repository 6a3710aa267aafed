"""Replay files: the episodes that a learner keeps, written for a later start of the run.

Each learner writes its own files (io/checkpoint.py) in replay/ of the run directory, in the background.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import Buffer, check_header
from hpcmarl.comm.topology import Group
from hpcmarl.config import ReplayConfig
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.checkpoint import CheckpointWriter, checkpoint_path, find_checkpoint, load_checkpoint
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.roles.base import Context
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.types import EnvironmentSpec, Rollout, fields_of

logger = logging.getLogger(__name__)


class ReplayFiles:
    """The replay files of one learner.

    Args:
        context: The run.
        group: The learner's group.
        codec: Reads the messages of the episodes.
        config: The section algo.replay.
    """

    def __init__(self, context: Context, group: Group, codec: RolloutCodec, config: ReplayConfig) -> None:
        self._context, self._group, self._codec = context, group.index, codec
        self._at_end = config.save == "stop"
        self._with_checkpoints = config.save == "checkpoint" or context.config.deterministic
        self._writer: CheckpointWriter | None = None

    def are_due(self, *, final: bool) -> bool:
        """Return whether algo.replay.save requires a file with a checkpoint.

        Args:
            final: Whether it is the last one of the run.
        """
        return self._with_checkpoints or (final and self._at_end)

    def write(self, buffers: Sequence[Buffer], state: Mapping[str, Any], version: int) -> None:
        """Write a file in the background.

        Args:
            buffers: Messages of one episode each, at least one.
            state: Further contents of the file.
            version: Version of the checkpoint that the file belongs to.
        """
        context = self._context
        if self._writer is None:
            directory = RunDirectory(context.run_directory).replay_directory(self._group)
            with contextlib.suppress(OSError):  # the writer reports the error
                directory.parent.mkdir(exist_ok=True)
            keep = context.config.checkpoint.keep if self._with_checkpoints else 1
            self._writer = CheckpointWriter(directory, keep=keep)
        sizes = np.array([buffer.nbytes for buffer in buffers])
        self._writer.submit(
            {"episodes": np.concatenate(buffers), "bytes": sizes, **state},
            version=version,
            attributes=context.attributes("learner", self._group),
            copied=True,
        )

    def read(
        self,
        run_directory: Path,
        version: int,
        load: Callable[[Sequence[Buffer], Mapping[str, Any]], None],
    ) -> None:
        """Read the file of a checkpoint, or otherwise the newest one; log why, if none can be used.

        Args:
            run_directory: The run directory.
            version: Version of the checkpoint.
            load: Takes the messages and the further contents. It may raise a KeyError, TypeError or
                ValueError.
        """
        group, directory = self._group, RunDirectory(run_directory).replay_directory(self._group)
        exact = checkpoint_path(directory, version)
        try:
            path = find_checkpoint(exact if exact.is_file() else directory)
            if path is None:
                logger.warning("no replay file of group %d in %s: the buffer starts empty", group, directory)
                return
            state = load_checkpoint(path)[0]
            load(self._messages(state), state)
        except (HpcmarlError, KeyError, TypeError, ValueError) as error:
            logger.warning(
                "the replay file of group %d cannot be used (%s): the buffer starts empty", group, error
            )
            return
        if path != exact:
            logger.warning(
                "the replay buffer of group %d is read from %s, because no file of version %d exists",
                group,
                path.name,
                version,
            )

    def _messages(self, state: Mapping[str, Any]) -> list[Buffer]:
        """Return the messages in a file.

        Raises:
            ProtocolError, KeyError, TypeError, ValueError: They are not whole episodes of this run.
        """
        whole, sizes = np.asarray(state["episodes"], np.uint8), np.asarray(state["bytes"], np.int64)
        if sizes.sum() != whole.size or (sizes <= 0).any():
            raise ValueError(f"it holds {whole.size} bytes of episodes, but their sizes sum to {sizes.sum()}")
        ends = np.cumsum(sizes).tolist()
        buffers = [whole[end - size : end].copy() for end, size in zip(ends, sizes.tolist(), strict=True)]
        for buffer in buffers:
            version = check_header(buffer, self._context.rank).version
            check_episode(self._codec.read(buffer, version), self._context.spec)
        return buffers

    def close(self) -> None:
        """Wait until pending files are written."""
        if self._writer is None:
            return
        self._writer.close()
        if (error := self._writer.last_error) is not None:
            logger.error("%s; a resumed run starts with an older or empty replay buffer", error)


def check_episode(rollout: Rollout, spec: EnvironmentSpec) -> None:
    """Check that a rollout from a file is one whole episode of an environment.

    Args:
        rollout: The rollout.
        spec: Specification of the environment.

    Raises:
        ValueError: The episode is incomplete, has non-finite values or has actions that do not exist.
    """
    end = rollout.episode_end[:, 0] if rollout.count == 1 and rollout.steps else np.zeros(1)
    last = [[rollout.steps - 1, 0]] if end[-1] == 2 else []
    if end[:-1].any() or end[-1] not in (1, 2) or rollout.final_index.tolist() != last:
        raise ValueError("it holds an incomplete episode")
    for policy in spec.policies:
        part = rollout.policies[policy.name]
        numbers = [
            *fields_of(part.obs).values(),
            part.reward,
            *fields_of(part.final_obs).values(),
            *(array for array in (rollout.state, rollout.final_state) if array is not None),
        ]
        if not all(np.isfinite(array).all() for array in numbers):
            raise ValueError(f"it holds an episode with non-finite values of {policy.name}")
        if not policy.action.holds(part.action):
            raise ValueError(f"it holds an episode with actions that policy {policy.name} does not have")
