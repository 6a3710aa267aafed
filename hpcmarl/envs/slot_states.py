"""Division of the state of some slots among environments that hold a part of them each, and the reverse.

States are those of `BatchedEnvironment.state_dict`: arrays with one row for each slot, dictionaries with one
entry for each slot (named by its number), and the number of restarts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESTARTS = "restarts"


def merge_slot_states(states: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Return the state of all slots from the states of their parts.

    Args:
        states: State of each part.
        sizes: Number of slots of each part.
    """
    merged: dict[str, Any] = {}
    for name in states[0]:
        values = [state[name] for state in states]
        if name == RESTARTS:
            merged[name] = sum(int(value) for value in values)
        elif not isinstance(values[0], Mapping):
            merged[name] = np.concatenate([np.asarray(value) for value in values])
        elif _names_slots(values[0], sizes[0]):
            every = [
                value[str(slot)] for value, size in zip(values, sizes, strict=True) for slot in range(size)
            ]
            merged[name] = {str(slot): value for slot, value in enumerate(every)}
        else:
            merged[name] = merge_slot_states(values, sizes)
    return merged


def split_slot_state(state: Mapping[str, Any], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the states of parts of the slots. The first part keeps the count of restarts.

    Args:
        state: State of all slots. If it belongs to another number of slots, every part gets all of it; its
            episodes then begin after the latest saved one.
        sizes: Number of slots of each part.
    """
    total = sum(sizes)
    if np.asarray(state["episode"]).shape != (total,):
        return [{**state, RESTARTS: state[RESTARTS] if part == 0 else 0} for part in range(len(sizes))]
    return _split(state, sizes, total)


def _split(state: Mapping[str, Any], sizes: Sequence[int], total: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{} for _ in sizes]
    starts = np.cumsum([0, *sizes])
    for name, value in state.items():
        if name == RESTARTS:
            values: list[Any] = [value, *[0] * (len(sizes) - 1)]
        elif not isinstance(value, Mapping):
            array = np.asarray(value)
            values = [array[start : start + size] for start, size in zip(starts, sizes, strict=False)]
        elif _names_slots(value, total):
            values = [
                {str(slot): value[str(start + slot)] for slot in range(size)}
                for start, size in zip(starts.tolist(), sizes, strict=False)
            ]
        else:
            values = list(_split(value, sizes, total))
        for part, own in zip(parts, values, strict=True):
            part[name] = own
    return parts


def _names_slots(value: Mapping[str, Any], size: int) -> bool:
    """Return whether a dictionary has one entry for each slot."""
    return value.keys() == {str(slot) for slot in range(size)}
