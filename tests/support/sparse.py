"""Settings of a sparse run, and a comparison of two optimizer states."""

import numpy as np

EVERY = 3
SPARSE = (
    "algo.sparse.sparsity=0.8",
    f"algo.sparse.every={EVERY}",
    "algo.network={hidden: [32], body: gru, memory: 16}",
    "algo.replay.learning_starts=6",
)


def assert_same(first, second, updates=10):
    """Assert that two states of an optimizer are equal bit by bit after `updates` steps."""
    arrays = [key for key, value in first.items() if isinstance(value, np.ndarray) and value.ndim]
    assert len(arrays) >= 2  # the parameters and the optimizer state
    for key in arrays:
        np.testing.assert_array_equal(first[key].view(np.uint32), second[key].view(np.uint32), err_msg=key)
    np.testing.assert_array_equal(first["topology"]["mask"], second["topology"]["mask"])
    assert first["updates"] == second["updates"] == updates
