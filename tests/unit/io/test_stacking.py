"""Conversion of trees of the same structure to stacked arrays and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.errors import FormatError
from hpcmarl.io.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from hpcmarl.io.hdf5.schema import CHECKPOINT
from hpcmarl.io.hdf5.state_file import write_state
from hpcmarl.io.stacking import MARK, stack, unstack
from hpcmarl.packing import digest

ARRAYS = st.builds(
    lambda shape, kind, seed: np.random.default_rng(seed).integers(0, 9, shape).astype(kind),
    st.lists(st.integers(0, 3), min_size=1, max_size=2),
    st.sampled_from(["f4", "i8", "?"]),
    st.integers(0, 99),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**127), 2**127)
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | ARRAYS
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text("0123456789", min_size=1, max_size=3), TREES, max_size=6))
def test_stacked_trees_come_back_whole(trees: dict[str, Any]) -> None:
    found = unstack(stack(trees))
    assert set(found) == set(trees)
    for name, tree in trees.items():
        assert digest({"": found[name]}) == digest({"": tree})


def actor(number: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    return {
        "generator": generator.bit_generator.state,
        "environment": {"episode": np.arange(4) + number, "restarts": number % 3},
        "memory": {"agent": np.full((4, 2), number, np.float32)},
        "record": generator.integers(0, 5, number % 7),
        "slots": 4,
        "rollouts": number * 10,
    }


def test_thousand_actors_take_few_objects(tmp_path: Path) -> None:
    actors = {str(number): actor(number) for number in range(1000)}
    state = {"roles": {"actor": actors, "learner": {"0": {"version": 3}}}}
    path = save_checkpoint(tmp_path, state, version=3, attributes={})
    found, _ = load_checkpoint(path)
    assert digest(found) == digest(state)
    count = []
    with h5py.File(path) as file:
        file.visit(count.append)
    assert len(count) < 100
    assert "stacks" not in found["roles"]["actor"]


def test_stack_shares_no_array() -> None:
    own = {"0": {"a": np.zeros(3)}}
    stacked = stack(own)
    own["0"]["a"][:] = 1
    assert not unstack(stacked)["0"]["a"].any()


@pytest.mark.parametrize(
    "content",
    [
        [{"names": ["0", "1"], "tree": {"int": np.arange(3)}}],
        [{"names": ["0"], "tree": {"ragged": {"values": np.arange(3), "shapes": np.array([[2]])}}}],
        [{"names": ["0"], "tree": {"other": 1}}],
        [{"names": ["0"], "tree": {"same": 1, "int": np.arange(1)}}],
        [{"tree": {"same": 1}}],
    ],
)
def test_crafted_stacks_are_one_error(content: Any, tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    write_state(path, CHECKPOINT, {"roles": {"actor": {MARK: content}, "learner": {}}}, {"version": 1})
    with pytest.raises(FormatError, match="the states of its actors are damaged"):
        load_checkpoint(path)
