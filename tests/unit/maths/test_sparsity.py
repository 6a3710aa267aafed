"""Densities, schedules and drop-and-grow against slow twins and their defining properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.maths.sparsity import (
    changing_share,
    dense_flops,
    drop_and_grow,
    erdos_renyi,
    growing_flops,
    random_mask,
)

SHAPES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.floats(0.0, 0.99))
def test_layer_densities_match_the_total_sparsity(shapes, sparsity):
    densities = erdos_renyi(shapes, sparsity)
    sizes = [outputs * inputs for outputs, inputs in shapes]
    assert all(0 <= density <= 1 for density in densities)
    kept = sum(density * size for density, size in zip(densities, sizes, strict=True))
    assert kept == pytest.approx((1 - sparsity) * sum(sizes), rel=1e-6)
    ratios = [(outputs + inputs) / (outputs * inputs) for outputs, inputs in shapes]
    for first in range(len(shapes)):
        for second in range(len(shapes)):
            if densities[first] < 1 and densities[second] < 1:
                assert densities[first] * ratios[second] == pytest.approx(densities[second] * ratios[first])
            if ratios[first] > ratios[second]:
                assert densities[first] >= densities[second]


def test_layer_densities_of_known_networks_are_exact():
    assert erdos_renyi([(10, 10), (10, 10)], 0.9) == pytest.approx([0.1, 0.1])
    # The density of the first layer would exceed 1.
    assert erdos_renyi([(2, 2), (100, 100)], 0.9)[0] == 1.0


def test_changing_share_decays_as_a_cosine():
    assert changing_share(0, 1000, 0.5) == 0.5
    assert changing_share(500, 1000, 0.5) == pytest.approx(0.25)
    assert changing_share(250, 1000, 0.5) == pytest.approx(0.25 * (1 + math.cos(math.pi / 4)))
    assert changing_share(1000, 1000, 0.5) == changing_share(5000, 1000, 0.5) == pytest.approx(0.0)


def slow_drop_and_grow(weights, mask, scores, count):
    new = list(mask)
    for _ in range(count):
        new[min((abs(weight), place) for place, weight in enumerate(weights) if new[place])[1]] = False
    for _ in range(count):
        new[min((-score, place) for place, score in enumerate(scores) if not new[place])[1]] = True
    return new


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_drop_and_grow_equals_its_twin(size, seed):
    generator = np.random.default_rng(seed)
    active = int(generator.integers(1, size + 1))
    mask = random_mask(size, active, generator)
    assert mask.sum() == active
    weights, scores = generator.integers(-3, 4, size) * mask, generator.integers(0, 4, size)  # with many ties
    count = int(generator.integers(0, active + 1))
    found = drop_and_grow(weights, mask, scores, count)
    assert found.sum() == active
    assert found.tolist() == slow_drop_and_grow(weights, mask, scores, count)


def test_drop_and_grow_swaps_smallest_weights_for_gradients():
    weights, scores = np.array([0.1, 5.0, -0.2, 0.0, 0.0]), np.array([0.0, 9.0, 0.0, 1.0, 3.0])
    mask = np.array([True, True, True, False, False])
    assert drop_and_grow(weights, mask, scores, 1).tolist() == [False, True, True, False, True]
    assert drop_and_grow(weights, mask, scores, 2).tolist() == [False, True, False, True, True]


def test_dense_flops_equal_the_counted_operations():
    # Each output needs three products and two sums.
    assert dense_flops(3, 4) == sum(3 + 2 for _ in range(4))
    assert dense_flops(3, 4, 0.5) == 10


@pytest.mark.parametrize("between", [1, 19, 199])
def test_growing_flops_average_to_the_formula_of_rigl(between):
    """`between` steps with a sparse gradient, then one with a dense gradient.

    A step has three passes. Source: arXiv 1911.11134.
    """
    sparse, dense = 5.0, 100.0
    mean = (between * 3 * sparse + growing_flops(sparse, dense, 3)) / (between + 1)
    assert mean == pytest.approx((3 * sparse * between + 2 * sparse + dense) / (between + 1))


def test_layers_without_zeros_are_all_dense():
    assert erdos_renyi([(4, 3), (2, 4)], 0.0) == [1.0, 1.0]
