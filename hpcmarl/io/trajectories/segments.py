"""Cutting of rollouts into segments: consecutive steps of one slot that belong to one episode.

The arrays of a rollout are [T, E, ...]. On disk the rows are slot-major: all steps of slot 0, then of slot 1,
and so on. So each segment is contiguous. Letters in the shapes are those of hpcmarl.types, and:

    R  rows, E·T             G  segments
"""

from __future__ import annotations

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
    """

    index: dict[str, NDArray[Any]]
    final_obs: dict[str, Array]
    final_state: Array | None
    episode_return: dict[str, NDArray[np.float64]]


def slot_major(array: Array) -> Array:
    """Return an array [T, E, ...] as [E·T, ...]: all steps of slot 0, then of slot 1, and so on."""
    return np.ascontiguousarray(array.swapaxes(0, 1)).reshape(-1, *array.shape[2:])


def _after(
    rows: Array,
    finals: Array,
    slot: NDArray[np.int64],
    ends: NDArray[np.uint8],
    truncated_segments: NDArray[np.int64],
) -> Array:
    """Return observations after the last row of each segment.

    They are the next row, the last observation of a truncated episode, or zeros after a termination.
    """
    after: Array = rows[-1][slot]
    after[ends != 0] = 0
    after[truncated_segments] = finals
    return after


def cut_segments(rollout: Rollout) -> Segments:
    """Cut a rollout into segments, in slot-major order.

    A segment that ends with its episode carries the return and the index of the episode, from
    `rollout.episodes`. The k-th end in a slot belongs to the k-th entry of that slot. Without an entry, the
    episodes of a slot are numbered upwards from `rollout.episode`.
    """
    steps = rollout.steps
    last = rollout.episode_end.T != 0
    last[:, -1] = True
    stop = np.flatnonzero(last) + 1
    start = np.concatenate([[0], stop[:-1]])
    slot = start // steps
    ends = rollout.episode_end.T.reshape(-1)[stop - 1]
    first_of_slot = start % steps == 0
    order = np.arange(len(start)) - np.flatnonzero(first_of_slot)[slot]
    finals = np.searchsorted(
        stop, rollout.final_index[:, 1].astype(np.int64) * steps + rollout.final_index[:, 0] + 1
    )
    places: dict[int, list[int]] = {}  # column of the rollout -> its segments that end an episode
    for ended in np.flatnonzero(ends).tolist():
        places.setdefault(int(slot[ended]), []).append(ended)
    number_of = rollout.episode[slot] + order
    returns = {name: np.full(len(start), np.nan) for name in ("", *rollout.policies)}
    for episode in rollout.episodes:
        waiting = places.get(episode.slot)
        if waiting:
            segment = waiting.pop(0)
            number_of[segment] = episode.index
            if segment + 1 < len(slot) and slot[segment + 1] == slot[segment]:
                number_of[segment + 1] = episode.index + 1
            returns[""][segment] = episode.return_mean
            for name, value in episode.returns.items():
                if name in returns:
                    returns[name][segment] = value
    index = {
        "slot": rollout.slots[slot],
        "worker": rollout.workers[slot],
        "episode": number_of,
        "first_step": np.where(first_of_slot, rollout.first_step[slot], 0),
        "start": start,
        "length": stop - start,
        "terminated": ends == TERMINATED,
        "truncated": ends == TRUNCATED,
        "version": np.full(len(start), rollout.version),
        "return_mean": returns.pop(""),
        "actor": np.full(len(start), rollout.actor),
    }
    return Segments(
        index=index,
        final_obs={
            name: _after(policy.obs, policy.final_obs, slot, ends, finals)
            for name, policy in rollout.policies.items()
        },
        final_state=None
        if rollout.state is None or rollout.final_state is None
        else _after(rollout.state, rollout.final_state, slot, ends, finals),
        episode_return=returns,
    )
