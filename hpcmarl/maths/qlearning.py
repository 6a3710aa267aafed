"""Action values: greedy choices, soft operators, joint actions near the greedy one, and weights of losses.

All are pure functions on torch tensors. TD(lambda) targets of rows V_t are those of maths/vtrace.py with all
ratios 1:

    R_t = r_t + gamma [ (1 - lambda) V_{t+1} + lambda R_{t+1} ]        (one step if lambda is 0)

Letters in the shapes:

    A  actions of one agent   n  agents of a team   K  joint actions   R  rows   ...  any leading dimensions
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Value of an action that is not allowed. It is below every real value, and finite, so that a row without an
# allowed action does not become NaN.
UNAVAILABLE = -1e9


def allowed_only(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Set the values of actions that are not allowed to UNAVAILABLE.

    Args:
        values: Shape [..., A].
        mask: Allowed actions, shape [..., A] bool; None: all are allowed.
    """
    return values if mask is None else values.masked_fill(~mask, UNAVAILABLE)


def greedy_actions(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the best allowed action of each row, [...] int64; the first one if several are equal.

    Args:
        values: Shape [..., A].
        mask: Allowed actions, shape [..., A] bool; None: all are allowed.
    """
    return allowed_only(values, mask).argmax(-1)


def taken(values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return the values [...] of the given actions [...] from action values [..., A]."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def soft_mellowmax(
    values: torch.Tensor, mask: torch.Tensor | None, omega: float, alpha: float
) -> torch.Tensor:
    """Compute the soft mellowmax of action values.

        sm(Q) = (1/omega) log sum_a softmax(alpha Q)_a exp(omega Q_a)

    It lies between the mean of Q under softmax(alpha Q) and the maximum, which it approaches as omega goes to
    infinity.

    Args:
        values: Q, shape [..., A].
        mask: Allowed actions, shape [..., A] bool; None: all are allowed.
        omega: In one over the unit of the values.
        alpha: In one over the unit of the values.

    Returns:
        sm(Q) over the allowed actions, shape [...].

    Source:
        MAST, arXiv 2409.19391.
    """
    weights = torch.log_softmax(allowed_only(alpha * values, mask), -1)
    return torch.logsumexp(weights + omega * allowed_only(values, mask), -1) / omega


def near_greedy(
    values: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor | None],
    active: Sequence[torch.Tensor],
    greedy: Sequence[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """List the greedy joint action and all joint actions that differ from it in the action of one agent.

    Each argument has one entry for each policy.

    Args:
        values: Action values, shape [R, N, A].
        masks: Allowed actions, shape [R, N, A] bool; None: all are allowed.
        active: Whether an agent acts, shape [R, N] bool. The utility of an agent that does not act is 0.
        greedy: Greedy actions, shape [R, N].

    Returns:
        Utilities of the agents, shape [R, K, n], and whether a joint action exists, shape [R, K] bool. A
        joint action exists if it is allowed and the agent that differs acts. Each one exists once.

    Source:
        The neighbourhood of RES, arXiv 2103.11883 section 4.
    """
    best = torch.cat(
        [taken(value, action) * act for value, action, act in zip(values, greedy, active, strict=True)], -1
    )
    utilities, exists = [best.unsqueeze(1)], [torch.ones(len(best), 1, dtype=torch.bool, device=best.device)]
    first = 0
    for value, mask, act, action in zip(values, masks, active, greedy, strict=True):
        rows, agents, actions = value.shape
        joint = best[:, None, None, :].repeat(1, agents, actions, 1)
        own = torch.arange(agents, device=best.device)
        joint[:, own, :, first + own] = value.transpose(0, 1)
        other = torch.arange(actions, device=best.device) != action.unsqueeze(-1)
        allowed = other & act.unsqueeze(-1) if mask is None else other & act.unsqueeze(-1) & mask
        utilities.append(joint.view(rows, agents * actions, -1))
        exists.append(allowed.view(rows, agents * actions))
        first += agents
    return torch.cat(utilities, 1), torch.cat(exists, 1)


def softmax_value(
    scores: torch.Tensor, values: torch.Tensor, exists: torch.Tensor, beta: float
) -> torch.Tensor:
    """Average the values of joint actions by a softmax over their scores.

    RES (arXiv 2103.11883) takes the scores from the present network and the values from the target network.
    So an action that one network overestimates by chance does not also get a large weight. If scores and
    values are equal, the result is the softmax of a single estimator, which favours its own noise.

    Args:
        scores: Scores that determine the weights, shape [..., K].
        values: Values to average, shape [..., K].
        exists: Joint actions that count, shape [..., K] bool.
        beta: Inverse temperature, in one over the unit of the scores. 0 gives equal weights; infinity gives
            the value of the best score.

    Returns:
        sum_u softmax(beta scores)_u values_u over the joint actions u that exist, shape [...].
    """
    weights = torch.softmax((beta * scores).masked_fill(~exists, -torch.inf), -1)
    return (weights * values.masked_fill(~exists, 0.0)).sum(-1)


def optimistic_weights(total: torch.Tensor, targets: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the weights of OW-QMIX: 1 if the mixed value is below its target, else `weight`.

    Args:
        total: Mixed values, shape [...].
        targets: Their targets, shape [...].
        weight: Weight of the other rows.

    Returns:
        Shape [...].

    Source:
        arXiv 2006.10800 eq. 9.
    """
    return torch.where(total < targets, 1.0, weight)


def central_weights(
    targets: torch.Tensor, greedy_value: torch.Tensor, is_greedy: torch.Tensor, weight: float
) -> torch.Tensor:
    """Return the weights of CW-QMIX.

    A weight is 1 if the joint action is the greedy one, or if its target exceeds the central value of the
    greedy one. Else it is `weight`.

    Args:
        targets: Targets of the joint actions, shape [...].
        greedy_value: Central value of the greedy joint action, shape [...].
        is_greedy: Whether the joint action is the greedy one, shape [...] bool.
        weight: Weight of the other rows.

    Returns:
        Shape [...].

    Source:
        arXiv 2006.10800 eq. 8.
    """
    return torch.where(is_greedy | (targets > greedy_value), 1.0, weight)
