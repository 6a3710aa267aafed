"""Cutting of rollouts into segments: consecutive steps of one slot that belong to one episode.

The arrays of a rollout are [T, E, ...]. On disk the rows are slot-major: all steps of slot 0, then of slot 1,
and so on. So each segment is contiguous. Letters in the shapes are those of hpcmarl.types, and:

    R  rows, E·T             G  segments           L  lanes: the slots of one rollout after another

Several rollouts are cut together, since small ones cost more calls than work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcmarl.types import Array, Rollout

TERMINATED, TRUNCATED = 1, 2


@dataclass
class Segments:
    """Segments of a rollout.

    Attributes:
        index: Column -> [G]; `start` counts from the first row of the rollout.
        final_obs: Policy -> [G, N, *observation_shape], observations after the last row of each segment.
        final_state: [G, S], states after the last row of each segment; or None.
        episode_return: Policy -> [G] float64; NaN if no episode ended.
        source: [G], place of the segment's rollout among those that were cut together.
    """

    index: dict[str, NDArray[Any]]
    final_obs: dict[str, Array]
    final_state: Array | None
    episode_return: dict[str, NDArray[np.float64]]
    source: NDArray[np.int64]


def slot_major(arrays: Sequence[Array]) -> Array:
    """Join arrays [T, E, ...] as [R, ...]: all steps of slot 0, then of slot 1, and so on, for each array.

    All arrays have the same type, and the same sizes after the first two.
    """
    sizes = [array.shape[0] * array.shape[1] for array in arrays]
    rows = np.empty((sum(sizes), *arrays[0].shape[2:]), arrays[0].dtype)
    done = 0
    for array, size in zip(arrays, sizes, strict=True):
        place = rows[done : done + size].reshape(array.shape[1], array.shape[0], *array.shape[2:])
        place[...] = array.swapaxes(0, 1)
        done += size
    return rows


class _Lanes:
    """The slots of all rollouts, one after the other.

    Attributes:
        first: First lane of each rollout.
        source: [L], place of the rollout of each lane.
        start: [L], first row of each lane.
        stop: [L], row after the last one of each lane.
    """

    def __init__(self, rollouts: Sequence[Rollout]) -> None:
        counts = np.array([rollout.count for rollout in rollouts])
        self.first = np.cumsum(counts) - counts
        self.source = np.repeat(np.arange(len(rollouts)), counts)
        steps = np.array([rollout.steps for rollout in rollouts])[self.source]
        self.stop = np.cumsum(steps)
        self.start = self.stop - steps

    def stops_of_truncations(self, rollouts: Sequence[Rollout]) -> NDArray[np.int64]:
        """Return the row after the last one of each truncated episode, in the order of `final_index`."""
        index = np.concatenate([rollout.final_index for rollout in rollouts]).astype(np.int64)
        lane = np.repeat(self.first, [len(rollout.final_index) for rollout in rollouts]) + index[:, 1]
        stops: NDArray[np.int64] = self.start[lane] + index[:, 0] + 1
        return stops


def _after(
    last_rows: Sequence[Array],
    finals: Sequence[Array],
    lane: NDArray[np.int64],
    ends: NDArray[np.uint8],
    truncated_segments: NDArray[np.int64],
) -> Array:
    """Return observations after the last row of each segment.

    They are the next row, the last observation of a truncated episode, or zeros after a termination.
    """
    after: Array = np.concatenate(last_rows)[lane]
    after[ends != 0] = 0
    after[truncated_segments] = np.concatenate(finals)
    return after


def cut_segments(rollouts: Sequence[Rollout]) -> Segments:
    """Cut rollouts into segments, one rollout after the other, in slot-major order.

    A segment that ends with its episode carries the return and the index of the episode, from
    `rollout.episodes`. The k-th end in a slot belongs to the k-th entry of that slot. Without an entry, the
    episodes of a slot are numbered upwards from `rollout.episode`.
    """
    lanes = _Lanes(rollouts)
    flags = np.concatenate([rollout.episode_end.T.reshape(-1) for rollout in rollouts])
    last = flags != 0
    last[lanes.stop - 1] = True
    stop = np.flatnonzero(last) + 1
    start = np.concatenate([[0], stop[:-1]])
    lane = np.searchsorted(lanes.stop, start, side="right")
    ends = flags[stop - 1]
    first_of_lane = start == lanes.start[lane]
    order = np.arange(len(start)) - np.flatnonzero(first_of_lane)[lane]
    finals = np.searchsorted(stop, lanes.stops_of_truncations(rollouts))
    number_of = np.concatenate([rollout.episode for rollout in rollouts])[lane] + order
    returns = _episodes(rollouts, lanes, lane, ends, number_of)
    source = lanes.source[lane]
    index = {
        "slot": np.concatenate([rollout.slots for rollout in rollouts])[lane],
        "worker": np.concatenate([rollout.workers for rollout in rollouts])[lane],
        "episode": number_of,
        "first_step": np.where(
            first_of_lane, np.concatenate([rollout.first_step for rollout in rollouts])[lane], 0
        ),
        "start": start,
        "length": stop - start,
        "terminated": ends == TERMINATED,
        "truncated": ends == TRUNCATED,
        "version": np.array([rollout.version for rollout in rollouts])[source],
        "return_mean": returns.pop(""),
        "actor": np.array([rollout.actor for rollout in rollouts])[source],
    }
    final_obs = {}
    for name in rollouts[0].policies:
        policies = [rollout.policies[name] for rollout in rollouts]
        final_obs[name] = _after(
            [policy.obs[-1] for policy in policies],
            [policy.final_obs for policy in policies],
            lane,
            ends,
            finals,
        )
    states = [rollout.state[-1] for rollout in rollouts if rollout.state is not None]
    final_states = [rollout.final_state for rollout in rollouts if rollout.final_state is not None]
    whole = len(states) == len(final_states) == len(rollouts)
    return Segments(
        index=index,
        final_obs=final_obs,
        final_state=_after(states, final_states, lane, ends, finals) if whole else None,
        episode_return=returns,
        source=source,
    )


def _episodes(
    rollouts: Sequence[Rollout],
    lanes: _Lanes,
    lane: NDArray[np.int64],
    ends: NDArray[np.uint8],
    number_of: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Return the returns of the episodes that ended, and correct the indices of episodes.

    Args:
        rollouts: The rollouts.
        lanes: Their lanes.
        lane: [G], lane of each segment.
        ends: [G], how each segment ends.
        number_of: [G], index of the episode of each segment. It is changed.

    Returns:
        Policy -> [G]; NaN if no episode ended. The key "" has the means over all agents.
    """
    returns = {name: np.full(len(lane), np.nan) for name in ("", *rollouts[0].policies)}
    places: dict[int, list[int]] = {}  # lane -> its segments that end an episode
    ended = np.flatnonzero(ends)
    for segment, place in zip(ended.tolist(), lane[ended].tolist(), strict=True):
        places.setdefault(place, []).append(segment)
    for first, rollout in zip(lanes.first.tolist(), rollouts, strict=True):
        for episode in rollout.episodes:
            waiting = places.get(first + episode.slot) if 0 <= episode.slot < rollout.count else None
            if waiting:
                segment = waiting.pop(0)
                number_of[segment] = episode.index
                if segment + 1 < len(lane) and lane[segment + 1] == lane[segment]:
                    number_of[segment + 1] = episode.index + 1
                returns[""][segment] = episode.return_mean
                for name, value in episode.returns.items():
                    if name in returns:
                        returns[name][segment] = value
    return returns
