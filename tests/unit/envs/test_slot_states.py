"""Division of the states of slots among processes, and the reverse."""

import numpy as np
import pytest

from hpcmarl.envs.slot_states import merge_slot_states, split_slot_state


def state(slots):
    return {
        "restarts": 4,
        "episode": np.arange(slots) + 7,
        "records": {str(slot): {"step": slot, "actions": [slot] * 3} for slot in range(slots)},
        "nested": {"clocks": np.arange(2 * slots).reshape(slots, 2)},
    }


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        if isinstance(value, dict):
            assert_equal(value, second[name])
        else:
            np.testing.assert_array_equal(value, second[name])


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1), (4, 1)])
def test_merged_parts_are_the_whole(sizes):
    parts = split_slot_state(state(5), sizes)
    assert [len(part["episode"]) for part in parts] == list(sizes)
    assert [list(part["records"]) for part in parts] == [[str(slot) for slot in range(n)] for n in sizes]
    assert_equal(merge_slot_states(parts, sizes), state(5))


def test_state_of_other_slots_goes_to_every_part():
    parts = split_slot_state({"restarts": 4, "episode": np.array([9])}, (2, 3))
    assert [part["restarts"] for part in parts] == [4, 0]
    assert [part["episode"].tolist() for part in parts] == [[9], [9]]
