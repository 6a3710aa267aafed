"""A GRU over columns with gaps, for learning, with hand-written forward and backward passes.

A column is the sequence of rows of one agent in one slot. Only active rows are computed, in packed form. Row
t computes, as torch.nn.GRUCell does (arXiv 1406.1078, with the reset gate after the matrix):

    r  = sigmoid(W_r x + U_r h + b_r)          z likewise
    c  = tanh(W_c x + b_c + r (U_c h + d_c))
    h' = c + z (h - c)

Computations that do not depend on the previous row are one product over all rows. These are the products with
x and the gradients of all matrices. In contrast, torch's own cell adds a dozen nodes to the autograd graph
for each row. It also computes columns that have ended. docs/benchmarks.md has figures.

Columns are sorted by their number of active rows, largest first. Step j holds the j-th active row of every
column that has one. The columns of a step are therefore the first columns of the step before.

    symbol         variable     shape, for n active rows of C columns
    x              inputs       [n, I]
    h              before       [n, H]
    h'             hidden       [n, H]
    r, z           gates        [n, 2H]
    c              candidate    [n, H]
    U_c h + d_c    echo         [n, H]
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

from hpcmarl.nets.device import HOST, tensor
from hpcmarl.types import BoolArray


class Packing:
    """Active rows among T rows of C columns, in the order in which a recurrence computes them.

    Attributes:
        rows: Places t C + c of the active rows, step after step, shape [n] int64.
        steps: Slice of `rows` for each step.
        columns: The columns in sorted order, shape [C] int64.
        before: Source of each row's memory, shape [n] int64. It is the number of an earlier packed row plus
            C, or the number of a sorted column. The latter stands for the memory before row 0.
        keeps: Factors of that memory, shape [n, 1] float32: 0 if an episode has started since, else 1. None:
            no episode starts.
    """

    def __init__(self, active: BoolArray, starts: BoolArray, device: torch.device = HOST) -> None:
        """Pack the active rows.

        Args:
            active: Rows to compute, shape [T, C].
            starts: First rows of episodes, in which the memory is zero, shape [T, C].
            device: Device of the tensors.
        """
        length, columns = active.shape
        counts = active.sum(0)
        order = np.argsort(-counts, kind="stable")
        place = np.empty(columns, np.int64)
        place[order] = np.arange(columns)
        # size of step j: number of columns with more than j active rows
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
            tensor(packed, device),
            tensor(order, device),
            tensor(before, device),
        )
        self.steps = [slice(end - size, end) for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]
        self.keeps: torch.Tensor | None = None
        if starts.any():
            begun = starts.cumsum(0).reshape(-1)[packed]
            same = begun == np.concatenate([np.zeros(columns, np.int64), begun])[before]
            self.keeps = tensor(same[:, None].astype(np.float32), device)


def spread(rows: torch.Tensor, places: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Place rows among zeros; differentiable.

    Args:
        rows: Shape [n, ...].
        places: Numbers of the rows among all rows of `shape`, shape [n].
        shape: Leading dimensions of the result.

    Returns:
        A tensor [*shape, ...] with the given rows, and zeros elsewhere.
    """
    dense: torch.Tensor = rows.new_zeros(math.prod(shape), *rows.shape[1:]).index_copy(0, places, rows)
    return dense.view(*shape, *rows.shape[1:])


def recur(cell: nn.GRUCell, inputs: torch.Tensor, memory: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Run a GRU cell over packed rows; differentiable once, in the cell's parameters and the inputs.

    Args:
        cell: The GRU cell.
        inputs: Inputs of the packed rows, shape [n, I].
        memory: Memory before row 0, shape [C, H]; gradients do not flow into it.
        packing: Order of the rows.

    Returns:
        Memory after each packed row, shape [n, H].
    """
    parameters = (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
    if torch.is_autocast_enabled(inputs.device.type):
        # The products of single steps are small, and errors of bfloat16 would add up over the steps.
        with torch.autocast(inputs.device.type, enabled=False):
            return recur(cell, inputs.float(), memory, packing)
    hidden: torch.Tensor = Recurrence.apply(inputs, memory[packing.columns], packing, *parameters)  # type: ignore[no-untyped-call]
    return hidden


def recur_lstm(
    cell: nn.LSTMCell, inputs: torch.Tensor, memory: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """Run an LSTM cell over packed rows; differentiable.

    The products with the inputs are one product over all rows.

    Args:
        cell: The LSTM cell, with H / 2 units.
        inputs: Inputs of the packed rows, shape [n, I].
        memory: Outputs and cell states before row 0, shape [C, H]; gradients do not flow into it.
        packing: Order of the rows.

    Returns:
        Output and cell state after each packed row, shape [n, H].

    Source:
        Hochreiter and Schmidhuber 1997, with the forget gate of doi 10.1162/089976600300015015.
    """
    width = cell.hidden_size
    of_inputs = torch.addmm(cell.bias_ih + cell.bias_hh, inputs, cell.weight_ih.t())
    before, after = memory[packing.columns], [inputs.new_empty(0, 2 * width)]
    for step in packing.steps:
        before = before[: step.stop - step.start]
        if packing.keeps is not None:
            before = before * packing.keeps[step]
        gates = torch.addmm(of_inputs[step], before[:, :width], cell.weight_hh.t())
        enter, forget, candidate, leave = gates.chunk(4, 1)
        state = torch.sigmoid(forget) * before[:, width:] + torch.sigmoid(enter) * torch.tanh(candidate)
        before = torch.cat([torch.sigmoid(leave) * torch.tanh(state), state], 1)
        after.append(before)
    return torch.cat(after)


class Recurrence(torch.autograd.Function):
    """All steps of a GRU as one node of the autograd graph."""

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
        """Compute the memories after all packed rows.

        Args:
            ctx: The autograd context.
            inputs: Inputs of the packed rows, shape [n, I].
            memory: Memory before row 0 of the sorted columns, shape [C, H].
            packing: Order of the rows.
            weight_ih: Parameter of the GRU cell, shape [3H, I].
            weight_hh: Parameter of the GRU cell, shape [3H, H].
            bias_ih: Parameter of the GRU cell, shape [3H].
            bias_hh: Parameter of the GRU cell, shape [3H].

        Returns:
            Memory after each packed row, shape [n, H].
        """
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
        """Compute the derivatives with respect to the inputs and every parameter.

        Args:
            ctx: The autograd context.
            slope: Derivative with respect to the memories, shape [n, H].

        Returns:
            One entry per argument of `forward`; None for arguments without a derivative.
        """
        inputs, memory, weight_ih, weight_hh, gates, candidate, echo, hidden = ctx.saved_tensors
        packing: Packing = ctx.packing
        width = memory.shape[1]
        before = torch.cat([memory, hidden])[packing.before]
        if packing.keeps is not None:
            before *= packing.keeps
        reset, update = gates[:, :width], gates[:, width:]
        # `into_candidate`: derivative of h' with respect to the argument of the tanh in c.
        # `into`: block of 3H derivatives of h' with respect to the arguments of r and z, and to U_c h + d_c.
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
