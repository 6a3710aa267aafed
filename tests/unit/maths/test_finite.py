"""Detection of non-finite numbers in a vector, also if squares overflow."""

import numpy as np
import pytest

from hpcmarl.maths.finite import all_finite


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_finds_one_bad_number(kind, bad):
    vector = np.arange(50, dtype=kind)
    assert all_finite(vector)
    vector[17] = bad
    assert not all_finite(vector)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_all_finite_accepts_squares_that_overflow(kind):
    assert all_finite(np.full(3, np.finfo(kind).max, kind))


def test_all_finite_accepts_an_empty_vector():
    assert all_finite(np.zeros(0, np.float32))
