"""A GRU over columns with gaps, for learning: only the rows that act, packed, forwards and backwards by hand.
Used by policy.py.

    gates of row t:  r = sigmoid(W_r x + U_r h + b_r)    z likewise    c = tanh(W_c x + b_c + r (U_c h + d_c))
        h' = c + z (h - c)

as torch.nn.GRUCell has them (arXiv 1406.1078 with the reset gate behind the matrix). Whatever does not depend
on the row before, the products with x and the gradients of all matrices, is one product over all rows;
torch's own cell makes a dozen nodes of its graph for each row and goes on with columns that have ended
(docs/benchmarks.md has figures). Knows no policy and no rollout.

Columns are sorted by how many rows they have that act: the j-th acting rows of all columns are step j, and
the columns that still have one are the first so many of the step before.

    symbol -> variable, shape:  x inputs [n, I]   h before, h' hidden [n, H]   r, z gates [n, 2H]   c
        candidate [n, H]   U_c h + d_c echo [n, H]
    (n acting rows of C columns)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from hpcmarl.types import BoolArray


class Packing:
    """Which rows of T rows of C columns act, and in which order a recurrence goes through them.

    rows [n] int64: their places t C + c, step after step.   steps: each step's slice of them.   columns [C]
        int64: the columns sorted.
    before [n] int64: where a row's memory comes from: the number of an earlier packed row + C, or of a sorted
    column's first memory. keeps [n, 1] float32: 0 where an episode began since then, or None where none did.
    """

    def __init__(self, active: BoolArray, starts: BoolArray) -> None:
        """acts [T, C]; starts [T, C]: the first row of an episode, in which the memory is zero."""
        length, columns = active.shape
        counts = active.sum(0)
        order = np.argsort(-counts, kind="stable")
        place = np.empty(columns, np.int64)
        place[order] = np.arange(columns)
        # of step j: columns with more than j acting rows
        sizes = np.bincount(counts, minlength=length + 1)[:0:-1].cumsum()[::-1]
        sizes = sizes[sizes > 0]
        ends = sizes.cumsum()
        row, column = np.nonzero(active)
        step = (active.cumsum(0) - 1)[row, column]
        position = (ends - sizes)[step] + place[column]
        packed = np.empty(len(row), np.int64)
        packed[position] = row * columns + column
        before = (
            np.arange(len(row))
            - np.repeat(np.concatenate([[columns], sizes[:-1]])[: len(sizes)], sizes)
            + columns
        )
        self.rows, self.columns, self.before = (
            torch.from_numpy(packed),
            torch.from_numpy(order),
            torch.from_numpy(before),
        )
        self.steps = [slice(end - size, end) for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
        self.keeps: torch.Tensor | None = None
        if starts.any():
            begun = starts.cumsum(0).reshape(-1)[packed]
            same = begun == np.concatenate([np.zeros(columns, np.int64), begun])[before]
            self.keeps = torch.from_numpy(same[:, None].astype(np.float32))


def spread(rows: torch.Tensor, places: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """rows [n, ...] at their places [n] among all rows of `shape`, zeros elsewhere: [*shape, ...].
    Differentiable."""
    dense: torch.Tensor = rows.new_zeros(math.prod(shape), *rows.shape[1:]).index_copy(0, places, rows)
    return dense.view(*shape, *rows.shape[1:])


def recur(cell: nn.GRUCell, inputs: torch.Tensor, memory: torch.Tensor, packing: Packing) -> torch.Tensor:
    """inputs [n, I] of the packed rows, memory [C, H] before row 0 (not differentiated) -> the cell's memory
    after each of them [n, H].

    Differentiable once, in the cell's parameters and the inputs."""
    parameters = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    hidden: torch.Tensor = Recurrence.apply(inputs, memory[packing.columns], packing, *parameters)  # type: ignore[no-untyped-call]
    return hidden


class Recurrence(torch.autograd.Function):
    """All steps in one node of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,
        memory: torch.Tensor,
        packing: Packing,
        weight_ih: torch.Tensor,
        weight_hh: torch.Tensor,
        bias_ih: torch.Tensor,
        bias_hh: torch.Tensor,
    ) -> torch.Tensor:
        """memory [C, H] of the sorted columns; the parameters are GRUCell's, [3H, I], [3H, H], [3H], [3H].
        Returns [n, H]."""
        width = memory.shape[1]
        both = 2 * width
        gates = torch.addmm(bias_ih[:both] + bias_hh[:both], inputs, weight_ih[:both].t())
        candidate = torch.addmm(bias_ih[both:], inputs, weight_ih[both:].t())
        echo, hidden = torch.empty_like(candidate), torch.empty_like(candidate)
        to_gates, to_echo, echo_bias = weight_hh[:both].t(), weight_hh[both:].t(), bias_hh[both:]
        before = memory
        for step in packing.steps:
            before = before[: step.stop - step.start]
            if packing.keeps is not None:
                before = before * packing.keeps[step]
            gate, own = gates[step], candidate[step]
            gate.addmm_(before, to_gates).sigmoid_()
            torch.addmm(echo_bias, before, to_echo, out=echo[step])
            own.addcmul_(gate[:, :width], echo[step]).tanh_()
            before = torch.lerp(own, before, gate[:, width:], out=hidden[step])
        ctx.packing = packing
        ctx.save_for_backward(inputs, memory, weight_ih, weight_hh, gates, candidate, echo, hidden)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """slope [n, H]: the derivative by the memories; returns those by the inputs and by every
        parameter."""
        inputs, memory, weight_ih, weight_hh, gates, candidate, echo, hidden = ctx.saved_tensors
        packing: Packing = ctx.packing
        width = memory.shape[1]
        before = torch.cat([memory, hidden])[packing.before]
        if packing.keeps is not None:
            before *= packing.keeps
        reset, update = gates[:, :width], gates[:, width:]
        # d h' / d (what goes into c); and d h' / d (what U makes of h, and what goes into r, z) as one block
        # of 3H
        into_candidate = (1.0 - update) * (1.0 - candidate.square())
        into = torch.cat(
            [
                into_candidate * echo * reset * (1.0 - reset),
                (before - candidate) * update * (1.0 - update),
                into_candidate * reset,
            ],
            -1,
        )
        whole, slopes = torch.empty_like(hidden), into.view(-1, 3, width)
        carried = torch.zeros_like(memory)
        for step in reversed(packing.steps):
            size = step.stop - step.start
            total = torch.add(slope[step], carried[:size], out=whole[step])
            block = slopes[step].mul_(total.unsqueeze(1)).view(size, -1)
            back = torch.addmm(total * update[step], block, weight_hh)
            if packing.keeps is not None:
                back *= packing.keeps[step]
            carried[:size] = back
        of_weight, of_bias = into.t() @ before, into.sum(0)
        into[:, 2 * width :] = whole * into_candidate
        of_inputs = into @ weight_ih if ctx.needs_input_grad[0] else None
        return of_inputs, None, None, into.t() @ inputs, of_weight, into.sum(0), of_bias
