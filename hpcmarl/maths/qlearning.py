"""What value-based algorithms compute from action values: greedy choices, soft operators, joint actions near
the greedy one, weights.

Pure functions on torch tensors; called by algos/, knows no network and no rollout. TD(lambda) targets of rows
V_t are maths/vtrace.py's with
all ratios 1:  R_t = r_t + gamma [ (1 - lambda) V_{t+1} + lambda R_{t+1} ],  one step for lambda 0.

    A actions of one agent   n agents of a team   K joint actions   leading dimensions [...]: any rows
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Value of an action that is not allowed: below every real one, and finite, so that a row without any stays a
# number.
UNAVAILABLE = -1e9


def allowed_only(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """values [..., A] with UNAVAILABLE where mask [..., A] is false; no mask: unchanged."""
    return values if mask is None else values.masked_fill(~mask, UNAVAILABLE)


def greedy_actions(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The best allowed action [...] int64 of values [..., A]; of equal ones the first."""
    return allowed_only(values, mask).argmax(-1)


def taken(values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """values [..., A] of the actions [...]: [...]."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def soft_mellowmax(
    values: torch.Tensor, mask: torch.Tensor | None, omega: float, alpha: float
) -> torch.Tensor:
    """sm(Q) = (1/omega) log sum_a softmax(alpha Q)_a exp(omega Q_a) of values [..., A], over the allowed
    actions: [...].

    Source: MAST, arXiv 2409.19391. Between the mean of Q under softmax(alpha Q) and the maximum; omega to
    infinity is the maximum."""
    weights = torch.log_softmax(allowed_only(alpha * values, mask), -1)
    return torch.logsumexp(weights + omega * allowed_only(values, mask), -1) / omega


def near_greedy(
    values: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor | None],
    active: Sequence[torch.Tensor],
    greedy: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The greedy joint action and all that differ from it in one agent's action: RES's neighbourhood, arXiv
    2103.11883 section 4.

    For each policy: values [R, N, A], masks [R, N, A] or None, acts [R, N] bool (the others' utility is 0),
    greedy [R, N] actions. Returns the agents' utilities [R, K, n] and which of the joint actions exist [R, K]
    bool: each once, allowed, of an acting agent."""
    best = torch.cat(
        [taken(value, action) * act for value, action, act in zip(values, greedy, active, strict=True)], -1
    )
    utilities, exists = [best.unsqueeze(1)], [torch.ones(len(best), 1, dtype=torch.bool)]
    first = 0
    for value, mask, act, action in zip(values, masks, active, greedy, strict=True):
        rows, agents, actions = value.shape
        joint = best[:, None, None, :].repeat(1, agents, actions, 1)
        own = torch.arange(agents)
        joint[:, own, :, first + own] = value.transpose(0, 1)
        other = torch.arange(actions) != action.unsqueeze(-1)
        allowed = other & act.unsqueeze(-1) if mask is None else other & act.unsqueeze(-1) & mask
        utilities.append(joint.view(rows, agents * actions, -1))
        exists.append(allowed.view(rows, agents * actions))
        first += agents
    return torch.cat(utilities, 1), torch.cat(exists, 1)


def softmax_value(
    scores: torch.Tensor, values: torch.Tensor, exists: torch.Tensor, beta: float
) -> torch.Tensor:
    """Average the values of joint actions by a softmax over their scores.

    RES (arXiv 2103.11883) takes scores from the present network and values from the target network. What one
    of them overestimates by chance is then not weighed up by itself. Scores equal to the values give the
    softmax of a single estimator, which favours its own noise.

    Args:
        scores: What the weights are made from, shape [..., K].
        values: What is averaged, shape [..., K].
        exists: Joint actions that count, shape [..., K] bool.
        beta: Inverse temperature, in one over the unit of the scores; 0 weighs alike, infinity takes the best
            score's value.

    Returns:
        sum_u softmax(beta scores)_u values_u over the u that exist, shape [...].
    """
    weights = torch.softmax((beta * scores).masked_fill(~exists, -torch.inf), -1)
    return (weights * values.masked_fill(~exists, 0.0)).sum(-1)


def optimistic_weights(total: torch.Tensor, targets: torch.Tensor, weight: float) -> torch.Tensor:
    """OW-QMIX (arXiv 2006.10800 eq. 9): 1 where the mixed value is below its target, else `weight`; all
    [...]."""
    return torch.where(total < targets, 1.0, weight)


def central_weights(
    targets: torch.Tensor, greedy_value: torch.Tensor, is_greedy: torch.Tensor, weight: float
) -> torch.Tensor:
    """CW-QMIX (arXiv 2006.10800 eq. 8): 1 where the joint action is the greedy one or its target exceeds the
    central value of the greedy one, else `weight`; all [...]."""
    return torch.where(is_greedy | (targets > greedy_value), 1.0, weight)
