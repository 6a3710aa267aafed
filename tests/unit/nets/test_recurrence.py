"""The packed GRU against torch's own cell, row by row.

Values, gradients, gaps and beginnings of episodes are compared.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hpcmarl.nets.recurrence import Packing, recur

INPUTS, WIDTH = 3, 5


def in_a_loop(cell, inputs, memory, active, starts):
    """Return the memory after each row [T, C, H], from inputs [T, C, I].

    A column that does not act keeps its memory.
    """
    hidden, rows = memory, []
    for row in range(len(active)):
        hidden = hidden * (~starts[row, :, None])
        hidden = torch.where(active[row, :, None], cell(inputs[row], hidden), hidden)
        rows.append(hidden)
    return torch.stack(rows)


def compare(active, starts, seed=0):
    """Compare values and gradients with those of the loop, and return the number of rows compared."""
    generator = torch.Generator().manual_seed(seed)
    cell = nn.GRUCell(INPUTS, WIDTH)
    for parameter in cell.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    inputs = torch.randn(*active.shape, INPUTS, generator=generator, requires_grad=True)
    memory, weight = (
        torch.randn(active.shape[1], WIDTH, generator=generator),
        torch.randn(*active.shape, WIDTH, generator=generator),
    )
    acting, own = torch.from_numpy(active), (*cell.parameters(), inputs)
    wanted = in_a_loop(cell, inputs, memory, acting, torch.from_numpy(starts))
    slopes = torch.autograd.grad((wanted * weight)[acting].sum(), own)
    packing = Packing(active, starts)
    found = recur(cell, inputs.view(-1, INPUTS)[packing.rows], memory, packing)
    torch.testing.assert_close(found, wanted.view(-1, WIDTH)[packing.rows], atol=1e-5, rtol=1e-5)
    for slope, other in zip(
        torch.autograd.grad((found * weight.view(-1, WIDTH)[packing.rows]).sum(), own), slopes, strict=True
    ):
        torch.testing.assert_close(slope, other, atol=2e-5, rtol=1e-4)
    return len(found)


@given(
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_packed_gru_equals_grucell_in_acting_rows(steps, columns, share, begins, seed):
    generator = np.random.default_rng(seed)
    active = generator.random((steps, columns)) < share
    assert compare(active, generator.random((steps, columns)) < begins, seed) == active.sum()


def test_packed_gru_handles_columns_of_different_length():
    active = np.arange(6)[:, None] < np.array([2, 6, 0, 4, 6, 1])
    assert compare(active, np.zeros_like(active)) == 19


@pytest.mark.parametrize("row", [0, 2, 3])
def test_episode_start_in_a_gap_resets_the_memory(row):
    active, starts = (
        np.array([[True, True], [True, False], [False, False], [True, True]]),
        np.zeros((4, 2), bool),
    )
    starts[row] = True
    assert compare(active, starts) == 5


def test_packing_contains_each_acting_row_once():
    active = np.random.default_rng(0).random((7, 5)) < 0.6
    packing = Packing(active, np.zeros_like(active))
    assert sorted(packing.rows.tolist()) == np.flatnonzero(active).tolist()
    assert [step.stop - step.start for step in packing.steps] == [
        (active.sum(0) > step).sum() for step in range(active.sum(0).max())
    ]
    assert packing.keeps is None
