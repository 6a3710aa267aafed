"""Whole episodes as value-based algorithms read them: side by side, each closed by one more row, of its last
observation.

Made from a batch.Batch of whole episodes of any lengths; knows no algorithm. The closing row of an episode is
row L, its length: zeros and nobody alive where it terminated; where it was truncated the last observation, at
which those act whose own end was a truncation (in a turn-based game, everyone). No mask comes with a last
observation: the agent's last mask stands in for it.

    T the longest episode   B episodes   N agents of a policy   S size of the state
    D size of an observation (with the last action and the agent's number where they are seen)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpcmarl.algos.batch import Batch, PolicyBatch, tensor
from hpcmarl.nets.numpy_policy import last_actions
from hpcmarl.nets.policy import Policy
from hpcmarl.nets.recurrence import spread
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray


@dataclass
class PolicyEpisodes:
    """One policy's arrays: obs [T+1, B, N, D], alive [T+1, B, N], mask [T+1, B, N, A] or None, action [T, B,
    N]; reward, terminated, truncated [T, B, N] as in the batch. acts [T, B, N]: takes an action there
    (closing rows are no steps). known [T+1, B, N]: the observation of the row was really made (it acts there,
    or it is a closing row)."""

    obs: torch.Tensor
    alive: torch.Tensor
    active: BoolArray
    mask: torch.Tensor | None
    action: torch.Tensor
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    known: BoolArray


@dataclass
class Episodes:
    """parts: one a policy, in the specification's order. inside [T, B]: false on padding. end [T, B] uint8: 0
    goes on, 1 terminated, 2 truncated. state [T+1, B, S] or None."""

    parts: list[PolicyEpisodes]
    inside: BoolArray
    end: Array
    state: torch.Tensor | None

    @property
    def steps(self) -> int:
        return len(self.inside)

    @property
    def count(self) -> int:
        return int(self.inside.shape[1])


def episodes_of(
    batch: Batch, spec: EnvironmentSpec, *, agent_id: bool, last_action: bool = False
) -> Episodes:
    """The batch's episodes. last_action: append to each observation the agent's last action, one-hot
    (discrete actions); agent_id: append a one-hot number of the agent in its policy."""
    lengths = batch.inside.sum(0)
    sizes = [policy.action.sizes[0] if last_action else 0 for policy in spec.policies]
    parts = [
        _part(batch, batch.policies[policy.name], lengths, agent_id, size, spec.turn_based)
        for policy, size in zip(spec.policies, sizes, strict=True)
    ]
    state = None
    if batch.state is not None and batch.final_state is not None:
        state = tensor(
            _close(
                np.empty(batch.state.shape, batch.state.dtype), batch, batch.state, batch.final_state, lengths
            )
        )
    return Episodes(parts, batch.inside, batch.episode_end, state)


def action_values(policy: Policy, part: PolicyEpisodes) -> torch.Tensor:
    """[T+1, B, N, A]: the policy's outputs, recurrent ones from the episode's start; zeros where an agent is
    not alive."""
    rows, slots, agents, _ = part.obs.shape
    if not policy.width:
        places = Places(part.alive)
        return places.spread(
            policy(places.pick(part.obs), None if part.mask is None else places.pick(part.mask))
        )
    starts = torch.zeros(rows, slots, dtype=torch.bool)
    return policy.unroll(part.obs, part.alive, starts, torch.zeros(slots, agents, policy.width), part.mask)


class Places:
    """The n rows where `chosen` [...] is true: takes them out of tensors, and puts what comes of them back
    among zeros."""

    def __init__(self, chosen: torch.Tensor) -> None:
        self.shape = chosen.shape
        self._numbers = None if chosen.all() else chosen.flatten().nonzero().squeeze(-1)

    def pick(self, dense: torch.Tensor) -> torch.Tensor:
        """[*shape, ...] -> [n, ...] in C order; a view where all are chosen. Differentiable."""
        flat = dense.flatten(0, len(self.shape) - 1)
        return flat if self._numbers is None else flat.index_select(0, self._numbers)

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """[n, ...] -> [*shape, ...]. Differentiable."""
        if self._numbers is None:
            return rows.view(*self.shape, *rows.shape[1:])
        return spread(rows, self._numbers, self.shape)


def _part(
    batch: Batch, part: PolicyBatch, lengths: Array, agent_id: bool, actions: int, turn_based: bool
) -> PolicyEpisodes:
    """actions: A where the last action is appended, else 0."""
    slots = np.arange(batch.slots)
    alive = part.alive.copy()
    alive[lengths, slots] = part.truncated[lengths - 1, slots] & ~part.terminated[lengths - 1, slots]
    known = alive.copy()
    known[batch.final_step + 1, batch.final_slot] = True
    mask = part.action_mask
    if mask is not None:
        mask = mask.copy()
        mask[lengths, slots] = _last_masks(part, mask, lengths) if turn_based else mask[lengths - 1, slots]
    arrays = (part.reward, part.terminated, part.truncated, known)
    masked = None if mask is None else tensor(mask)
    active = part.alive[:-1] & batch.inside[..., None]
    seen = _seen(batch, part, lengths, active, actions, agent_id)
    return PolicyEpisodes(tensor(seen), tensor(alive), active, masked, tensor(part.action), *arrays)


def _seen(
    batch: Batch, part: PolicyBatch, lengths: Array, active: BoolArray, actions: int, agent_id: bool
) -> FloatArray:
    """What the policy's network sees, [T+1, B, N, D]: observations, then last actions and numbers as
    `episodes_of` says. Written once."""
    # -1 would not do where there are no finals
    size, agents = (
        int(np.prod(part.obs.shape[3:])),
        part.obs.shape[2],
    )
    seen = np.empty((*part.obs.shape[:3], size + actions + (agents if agent_id else 0)), np.float32)
    observed = part.obs.reshape(*part.obs.shape[:3], size)
    _close(
        seen[..., :size], batch, observed, part.final_obs.reshape(*part.final_obs.shape[:2], size), lengths
    )
    if actions:
        seen[..., size : size + actions] = last_actions(part.action, active, actions)
    if agent_id:
        seen[..., size + actions :] = np.eye(agents, dtype=np.float32)
    return seen


def _last_masks(part: PolicyBatch, mask: BoolArray, lengths: Array) -> BoolArray:
    """Of each agent, where it acted last before its episode's end, [B, N, A]; all actions where it never
    did."""
    rows = np.arange(len(part.action))[:, None, None]
    acted = part.alive[:-1] & (rows < lengths[:, None])
    last = np.where(acted, rows, -1).max(0)
    slots, agents = np.ogrid[: last.shape[0], : last.shape[1]]
    return np.where((last >= 0)[..., None], mask[np.maximum(last, 0), slots, agents], True)


def _close(closed: Array, batch: Batch, rows: Array, finals: Array, lengths: Array) -> Array:
    """Fill `closed` with rows [T+1, B, ...] and the closing row of every episode: `finals` [K, ...] of
    truncated ones, else zeros; return it."""
    closed[...] = rows
    closed[lengths, np.arange(batch.slots)] = 0.0
    closed[batch.final_step + 1, batch.final_slot] = finals
    return closed
