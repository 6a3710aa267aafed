"""Random trees of plain values and arrays, and their bitwise comparison."""

import struct

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = st.sampled_from(
    ["?", "i1", "u1", "<i2", "<i4", "<i8", "<u8", ">i4", "<f2", "<f4", "<f8", ">f8", "<c8", "<c16"]
).map(np.dtype)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
PLAIN = st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.integers(-(2**128) + 1, 2**128 - 1)
TREES = st.recursive(
    PLAIN | ARRAYS,
    lambda leaf: st.lists(leaf, max_size=4) | st.dictionaries(st.text(max_size=6), leaf, max_size=4),
    max_leaves=12,
)


def same(left, right) -> bool:
    """Return whether two trees are equal in structure, types and bits (NaN equals NaN)."""
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and left.tobytes() == right.tobytes()
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return struct.pack("d", left) == struct.pack("d", right) or (left != left and right != right)
    return left == right
