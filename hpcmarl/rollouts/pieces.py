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

from collections.abc import Sequence

import numpy as np

from hpcmarl.rollouts.codec import OpenedMessage, RolloutCodec
from hpcmarl.types import IntArray, Rollout


def piece_lengths(rollout: Rollout, decisions: int) -> IntArray | None:
    """Return L of the piece that begins at each step of a whole episode, shape [T].

    Args:
        rollout: The episode, in one slot.
        decisions: Decisions of an agent in a target before the next value, n.

    Returns:
        The lengths. None: all agents act in every step, so that L is n or the rest of the episode.
    """
    steps, parts = rollout.steps, rollout.policies.values()
    acts = np.concatenate([part.alive[:steps, 0] for part in parts], -1)
    if acts.all():
        return None
    ends = np.concatenate([(part.terminated | part.truncated)[:, 0] for part in parts], -1)
    lengths = np.ones(steps, np.int64)
    team = acts.any(-1)
    columns = [*zip(acts.T, ends.T, strict=True), (team, np.zeros(steps, bool))]
    for active, ended in columns:
        rows, stops = np.flatnonzero(active), np.append(np.flatnonzero(ended) + 1, steps)
        later = np.append(rows, np.full(decisions, steps))[decisions:]
        until = np.minimum(later, stops[np.searchsorted(stops, rows, side="right")])
        lengths[rows] = np.maximum(lengths[rows], until - rows)
    return lengths


def read_pieces(
    codec: RolloutCodec, messages: Sequence[OpenedMessage], first: IntArray, lengths: IntArray
) -> list[Rollout]:
    """Copy pieces out of messages of one whole episode each.

    Args:
        codec: Provides the layouts of the pieces.
        messages: Message of each piece; a message may occur several times.
        first: Step t with which each piece begins.
        lengths: L of each piece.

    Returns:
        One rollout for each L, with the oldest version of its messages. `first_step` is t.
    """
    rollouts = []
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        places = [(messages[index], int(first[index])) for index in chosen.tolist()]
        layout = codec.layout(length, 1)
        ending = [
            slot
            for slot, (message, start) in enumerate(places)
            if start + length == message.layout.steps and message.finals.nbytes
        ]
        finals = np.empty(len(ending), layout.final_dtype)
        for row, slot in enumerate(ending):
            finals[row] = places[slot][0].finals.view(layout.final_dtype)[0]
        finals["step"], finals["slot"] = length - 1, ending
        oldest = min(message.version for message, _ in places)
        rollout = layout.pieces(
            [(message.layout, message.buffer, start) for message, start in places],
            finals,
            oldest,
            places[0][0].actor,
        )
        rollout.first_step, rollout.pieces = first[chosen].astype(np.int64), True
        rollouts.append(rollout)
    return rollouts
