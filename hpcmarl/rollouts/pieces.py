"""Single steps of whole episodes, each with the rows that its targets need.

A piece is step t of an episode and the rows after it, L in all; the row after them is its next row. L is as
small as the targets allow:

- Each agent that acts in step t acts n more times, or ends, by the next row.
- The same holds for the team: some agent acts n more times by the next row.
- No piece is longer than the rest of its episode.

With n = 1, L is 1 if all agents act in every step. A piece that ends with its episode keeps the ends and the
final frame of the episode. Any other piece is cut: its episode continues with the next row
(algos/episodes.py).

    symbol    variable
    n         decisions
    L         lengths
    t         first
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.rollouts.codec import OpenedMessage, RolloutCodec
from hpcmarl.rollouts.slabs import Slabs
from hpcmarl.types import Array, IntArray, Rollout

# Where the message of a whole episode lies, and what it holds: number of the slab, offset in it, steps T,
# final frames, number of the actor, and version.
MESSAGE_PLACE = np.dtype(
    [
        ("slab", "<i8"),
        ("offset", "<i8"),
        ("steps", "<i8"),
        ("finals", "<i4"),
        ("actor", "<i4"),
        ("version", "<i8"),
    ]
)


def piece_lengths(message: OpenedMessage, decisions: int) -> IntArray | None:
    """Return L of the piece that begins at each step of a whole episode, shape [T].

    Args:
        message: The episode, in one slot.
        decisions: Decisions of an agent in a target before the next value, n.

    Returns:
        The lengths. None: all agents act in every step, so that L is n or the rest of the episode.
    """
    steps, arrays = message.layout.steps, message.layout.arrays(message.buffer)
    names = [policy.name for policy in message.layout.spec.policies]
    acts = np.concatenate([arrays[f"{name}/alive"][:steps, 0] for name in names], -1)
    if acts.all():
        return None
    ended = [arrays[f"{name}/terminated"] | arrays[f"{name}/truncated"] for name in names]
    ends = np.concatenate([own[:, 0] for own in ended], -1)
    lengths = np.ones(steps, np.int64)
    team = acts.any(-1)
    columns = [*zip(acts.T, ends.T, strict=True), (team, np.zeros(steps, bool))]
    for active, stopped in columns:
        rows, stops = np.flatnonzero(active), np.append(np.flatnonzero(stopped) + 1, steps)
        later = np.append(rows, np.full(decisions, steps))[decisions:]
        until = np.minimum(later, stops[np.searchsorted(stops, rows, side="right")])
        lengths[rows] = np.maximum(lengths[rows], until - rows)
    return lengths


def read_pieces(
    codec: RolloutCodec, slabs: Slabs, places: Array, first: IntArray, lengths: IntArray
) -> list[Rollout]:
    """Copy pieces out of messages of one whole episode each.

    Args:
        codec: Provides the layouts of the messages and of the pieces.
        slabs: Memory of the messages.
        places: The message of each piece, records of MESSAGE_PLACE; a message may occur several times.
        first: Step t with which each piece begins.
        lengths: L of each piece.

    Returns:
        One rollout for each L, with the oldest version of its messages. `first_step` is t.
    """
    rollouts = []
    for length in np.unique(lengths).tolist():
        chosen = lengths == length
        rollouts.append(_read_alike(codec, slabs, places[chosen], first[chosen], length))
    return rollouts


def _read_alike(codec: RolloutCodec, slabs: Slabs, places: Array, first: IntArray, length: int) -> Rollout:
    """Copy pieces of the same length."""
    layout = codec.layout(length, 1)
    steps, which = np.unique(places["steps"], return_inverse=True)
    layouts = [codec.layout(count, 1) for count in steps.tolist()]

    def read(offsets: IntArray, dtype: np.dtype[Any]) -> Array:
        return slabs.gather(places["slab"], places["offset"] + offsets, dtype)

    ending = np.flatnonzero((first + length == places["steps"]) & (places["finals"] > 0))
    behind = np.array([own.fixed_bytes for own in layouts])[which]
    finals = slabs.gather(places["slab"][ending], (places["offset"] + behind)[ending], layout.final_dtype)
    finals["step"], finals["slot"] = length - 1, ending
    rollout = layout.pieces(
        layouts, which, first, read, finals, int(places["version"].min()), int(places["actor"][0])
    )
    rollout.first_step, rollout.pieces = first.astype(np.int64), True
    return rollout
