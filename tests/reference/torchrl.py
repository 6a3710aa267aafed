"""Estimates and mixers of torchrl (extra `dev`), applied to our arrays.

It covers V-trace, generalised advantages, TD(lambda) and the mixers. torchrl has no notion of gaps, so the
acting rows of a column are passed to it in sequence. Time is counted in the agent's own decisions: rewards of
a gap count with the decision before it, discounted once.

Each row has a reward, a value, the value after it, and the flags done and terminated. The value after a row
is that of the next acting row. After the unroll it is the bootstrap. Where an episode was truncated it is the
value of the last observation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hpcmarl.algos.actor_critic import Columns
from hpcmarl.nets.mixers import MonotonicMixer
from hpcmarl.nets.shapes import MonotonicMixerShape
from hpcmarl.types import Array
from tests.support.algorithms import make


def estimates() -> Any:
    """Import torchrl's value estimates.

    The import happens on use, because it would slow down test collection by two seconds.
    """
    return importlib.import_module("torchrl.objectives.value.functional")


def mixers() -> Any:
    """Import the module of torchrl's mixers."""
    return importlib.import_module("torchrl.modules.models.multiagent")


@dataclass
class Sequence:
    """The acting rows of one column in the layout of torchrl, [n, 1] each; `rows` holds their indices."""

    rows: list[int]
    reward: torch.Tensor
    value: torch.Tensor
    after: torch.Tensor
    done: torch.Tensor
    terminated: torch.Tensor


def random_columns(seed: int, steps: int, columns: int, acting: float) -> tuple[Columns, np.random.Generator]:
    """Draw columns with several successive episodes.

    Episodes end by termination or truncation, some of them in a gap. Gaps also stand for agents that die
    early or join late.
    """
    generator = np.random.default_rng(seed)
    shape = (steps, 1, columns)

    def normal(*size: int) -> np.ndarray:
        return generator.standard_normal(size).astype(np.float32)

    active, ends = generator.random(shape) < acting, generator.random(shape)
    return Columns(
        normal(*shape),
        normal(*shape[1:]),
        normal(*shape),
        normal(*shape),
        active,
        ends < 0.1,
        (ends >= 0.1) & (ends < 0.2),
    ), generator


def sequence_of(data: Columns, column: int, discount: float) -> Sequence:
    """Convert one column: each acting row includes its gap.

    A gap reaches up to the next acting row or the end of the episode.
    """
    own = {name: np.asarray(array)[:, 0, column] for name, array in vars(data).items() if name != "last"}
    rows = np.flatnonzero(own["active"]).tolist()
    reward, after, done = [], [], []
    for row in rows:
        earned, at = float(own["reward"][row]), row
        while (
            not (own["terminated"][at] or own["truncated"][at])
            and at + 1 < len(own["active"])
            and not own["active"][at + 1]
        ):
            at += 1
            earned += discount * float(own["reward"][at])
        last = at + 1 == len(own["active"])
        done.append((bool(own["terminated"][at] or own["truncated"][at]), bool(own["terminated"][at])))
        going_on = float(data.last[0, column]) if last else float(own["value"][at + 1])
        after.append(float(own["final"][at]) if own["truncated"][at] else going_on)
        reward.append(earned)
    numbers = [
        torch.tensor(array, dtype=torch.float32).view(-1, 1) for array in (reward, own["value"][rows], after)
    ]
    flags = torch.tensor(done, dtype=torch.bool).view(-1, 2)
    return Sequence(rows, *numbers, flags[:, :1], flags[:, 1:])


def by_column(
    data: Columns, discount: float, estimate: Callable[[Sequence, int], tuple[torch.Tensor, ...]]
) -> tuple[Array, ...]:
    """Apply an estimate to the sequence of each column.

    Args:
        data: Columns, [T, 1, C] each.
        discount: Discount, for the rewards of gaps.
        estimate: Takes a sequence and the index of its column; returns tensors [n, 1].

    Returns:
        The tensors of the estimate, [T, 1, C] each, with zeros in rows that do not act.
    """
    steps, _, columns = data.reward.shape
    found: tuple[Array, ...] = ()
    for column in range(columns):
        own = sequence_of(data, column, discount)
        if not own.rows:
            continue
        made = estimate(own, column)
        found = found or tuple(np.zeros((steps, 1, columns), np.float32) for _ in made)
        for whole, part in zip(found, made, strict=True):
            whole[own.rows, 0, column] = part[:, 0].numpy()
    return found or (np.zeros((steps, 1, columns), np.float32),) * 2


def vtrace_estimate(
    data: Columns, target: Array, behaviour: Array, discount: float, rho_max: float, c_max: float
) -> tuple[Array, ...]:
    """Return advantages and targets of torchrl's vtrace_advantage_estimate.

    Args:
        data: Columns, [T, 1, C] each.
        target: Log-probabilities under the target policy, [T, 1, C].
        behaviour: Log-probabilities under the behaviour policy, [T, 1, C].
        discount: Discount.
        rho_max: Clip of the importance ratios.
        c_max: Clip of the trace coefficients.
    """

    def estimate(own: Sequence, column: int) -> tuple[torch.Tensor, ...]:
        logs = (torch.from_numpy(array[own.rows, 0, column])[:, None] for array in (target, behaviour))
        made: tuple[torch.Tensor, ...] = estimates().vtrace_advantage_estimate(
            discount,
            *logs,
            own.value,
            own.after,
            own.reward,
            own.done,
            own.terminated,
            rho_thresh=rho_max,
            c_thresh=c_max,
        )
        return made

    return by_column(data, discount, estimate)


def generalised_advantages(data: Columns, discount: float, trace_lambda: float) -> tuple[Array, ...]:
    """Return advantages and targets of torchrl's generalized_advantage_estimate."""

    def estimate(own: Sequence, column: int) -> tuple[torch.Tensor, ...]:
        made: tuple[torch.Tensor, ...] = estimates().generalized_advantage_estimate(
            discount, trace_lambda, own.value, own.after, own.reward, own.done, own.terminated
        )
        return made

    return by_column(data, discount, estimate)


def lambda_returns(data: Columns, discount: float, trace_lambda: float) -> Array:
    """Return targets of torchrl's td_lambda_return_estimate."""
    return by_column(
        data,
        discount,
        lambda own, _: (
            estimates().td_lambda_return_estimate(
                discount, trace_lambda, own.after, own.reward, own.done, own.terminated
            ),
        ),
    )[0]


def monotonic_mixer(ours: MonotonicMixer, state: int) -> nn.Module:
    """Return torchrl's QMixer with our weights.

    Its networks that produce weights are single layers, so our networks of two layers replace them.
    """
    theirs: nn.Module = mixers().QMixer(
        state_shape=(state,), mixing_embed_dim=ours.width, n_agents=ours.agents, device="cpu"
    )
    theirs.hyper_w_1, theirs.hyper_w_final = _copied(ours.first), _copied(ours.second)
    theirs.hyper_b_1, theirs.V = _copied(ours.bias), _copied(ours.value)
    return theirs


def _copied(dense: nn.Module) -> nn.Sequential:
    """Return plain torch layers with ReLU in between and the same weights."""
    layers: list[nn.Module] = []
    for layer in dense.layers:  # type: ignore[union-attr]
        twin = nn.Linear(layer.in_features, layer.out_features)
        twin.load_state_dict(layer.state_dict())
        layers += [twin, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def mixed(
    agents: int, state: int, width: int, hyper: int, seed: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Mix random utilities with our mixer and with torchrl's, with equal random weights and biases.

    Returns:
        For each mixer: Q_tot, [4, 6], and the gradients of a random weighted sum of it with respect to the
        utilities, the states and every weight.
    """
    generator = torch.Generator().manual_seed(seed)
    ours: MonotonicMixer = make(MonotonicMixerShape(agents, state, width, hyper), seed)
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    theirs = monotonic_mixer(ours, state)
    utilities = torch.randn(4, 6, agents, generator=generator, requires_grad=True)
    states = torch.randn(4, 6, state, generator=generator, requires_grad=True)
    weight = torch.randn(4, 6, generator=generator)
    found, wanted = (
        ours(utilities.unsqueeze(-2), states).squeeze(-1),
        theirs(utilities.unsqueeze(-1), states).squeeze(-1),
    )
    own = [
        parameter
        for part in (ours.first, ours.second, ours.bias, ours.value)
        for parameter in part.parameters()
    ]
    other = [
        parameter
        for part in (theirs.hyper_w_1, theirs.hyper_w_final, theirs.hyper_b_1, theirs.V)
        for parameter in part.parameters()
    ]
    assert len(own) == len(other) == 14
    slopes = torch.autograd.grad((found * weight).sum(), [utilities, states, *own])
    twins = torch.autograd.grad((wanted * weight).sum(), [utilities, states, *other])
    return [found.detach(), *slopes], [wanted.detach(), *twins]
