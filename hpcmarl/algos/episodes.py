"""Episodes for the algorithms with a replay, side by side, each with a closing row for its last observation.

The closing row of an episode is row L, its length. If the episode terminated, the row is zero and no agent is
alive in it. If the episode was truncated, the row holds the last observation, and the agents that were
truncated themselves are alive in it. In a turn-based game these are all agents that were still in the game.
Last observations carry no action mask, so the agent's last mask stands in.

An episode may be cut (rollouts/pieces.py): it continues after its last row, and its closing row is its next
row. A cut counts as a truncation. Agents that act in the next row are alive in the closing row. If single
steps are drawn, only the first row of each piece is learned from; the others complete its targets.

    T    steps of the longest episode
    B    episodes
    N    agents of a policy
    S    size of the state
    D    size of a flat row of inputs (input_form.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from hpcmarl.algos.batch import Batch, PolicyBatch
from hpcmarl.nets.acting import agent_numbers, last_actions
from hpcmarl.nets.device import HOST, tensor
from hpcmarl.nets.inputs import RowInputs, row_inputs
from hpcmarl.nets.policy import Policy
from hpcmarl.nets.recurrence import spread
from hpcmarl.nets.shapes import PolicyShape
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, flat_observations


@dataclass
class PolicyEpisodes:
    """The arrays of one policy.

    Attributes:
        inputs: Inputs of the network: [T+1, B, N, D], or fields of (T+1) * B * N rows (nets/inputs.py).
        observed: Observations, closing rows included, shape [T+1, B, N, *observation_shape] or, for flat
            float32 inputs, [T+1, B, N, observation_size].
        alive: Living agents, closing rows included, shape [T+1, B, N].
        living: The same as an array.
        active: Rows in which an agent takes an action, shape [T, B, N]; closing rows are not steps.
        mask: Allowed actions, shape [T+1, B, N, A]; None: all actions are allowed.
        action: Actions, shape [T, B, N].
        reward: Rewards, shape [T, B, N].
        terminated: Ends of agents by termination, shape [T, B, N].
        truncated: Ends of agents by truncation, shape [T, B, N].
        known: Rows with a real observation, shape [T+1, B, N]. The agent acts there, or the row closes a
            truncated episode.
    """

    inputs: RowInputs
    observed: Array
    alive: torch.Tensor
    living: BoolArray
    active: BoolArray
    mask: torch.Tensor | None
    action: torch.Tensor
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    known: BoolArray


@dataclass
class Episodes:
    """The episodes of a gradient.

    Attributes:
        parts: Arrays of each policy, in the order of the specification.
        inside: Rows that are not padding, shape [T, B].
        end: Ends of episodes, shape [T, B] uint8: 0 none, 1 terminated, 2 truncated or cut.
        state: States, shape [T+1, B, S], or None.
        first_only: Whether only row 0 is learned from.
    """

    parts: list[PolicyEpisodes]
    inside: BoolArray
    end: Array
    state: torch.Tensor | None
    first_only: bool = False

    @property
    def steps(self) -> int:
        """Number of steps, T."""
        return len(self.inside)

    @property
    def count(self) -> int:
        """Number of episodes, B."""
        return int(self.inside.shape[1])

    def learned(self, active: BoolArray) -> BoolArray:
        """Return those of the rows `active` [T, ...] that are learned from."""
        if not self.first_only or self.steps == 1:
            return active
        first = np.zeros_like(active)
        first[0] = active[0]
        return first


@dataclass
class _Closing:
    """Closing rows of a batch.

    Attributes:
        lengths: Steps of each episode, shape [B]; the number of its closing row.
        cut: Episodes that continue after their last row, shape [B].
        ended: Numbers of the others.
    """

    lengths: Array
    cut: BoolArray
    ended: Array


def episodes_of(
    batch: Batch,
    spec: EnvironmentSpec,
    shapes: Mapping[str, PolicyShape],
    device: torch.device = HOST,
) -> Episodes:
    """Convert a batch of episodes.

    Args:
        batch: Whole or cut episodes, one per slot, joined with their next rows.
        spec: The environment.
        shapes: Description of each policy's network, for its inputs.
        device: Device of the tensors.
    """
    lengths, slots = batch.inside.sum(0), np.arange(batch.slots)
    end = batch.episode_end
    cut = end[lengths - 1, slots] == 0
    closing = _Closing(lengths, cut, np.flatnonzero(~cut))
    parts = [
        _part(batch, batch.policies[policy.name], closing, shapes[policy.name], spec.turn_based, device)
        for policy in spec.policies
    ]
    if cut.any():
        end = end.copy()
        end[lengths[cut] - 1, slots[cut]] = 2
    state = None
    if batch.state is not None and batch.final_state is not None:
        closed = np.empty(batch.state.shape, batch.state.dtype)
        state = tensor(_close(closed, batch, batch.state, batch.final_state, closing), device)
    return Episodes(parts, batch.inside, end, state, batch.pieces)


def action_values(policy: Policy, part: PolicyEpisodes, where: BoolArray | None = None) -> torch.Tensor:
    """Compute a policy's action values; recurrent policies start at the first row of each episode.

    Args:
        policy: The policy.
        part: Its episodes.
        where: Rows [T+1, B, N] of living agents whose values are needed; None: all. A recurrent policy
            computes the others as well.

    Returns:
        Values, shape [T+1, B, N, A]; zero where the agent is not alive, or where they are not computed.
    """
    rows, slots, agents = part.alive.shape
    if not policy.width:
        places = Places(part.living if where is None else where, part.alive.device)
        return places.spread(
            policy(places.pick_inputs(part.inputs), None if part.mask is None else places.pick(part.mask))
        )
    memory = torch.zeros(slots, agents, policy.width, device=part.alive.device)
    return policy.unroll(part.inputs, part.living, np.zeros((rows, slots), bool), memory, part.mask)


class Places:
    """Selected rows of tensors, to convert between dense tensors [*shape, ...] and rows [n, ...].

    Args:
        chosen: The selection, any shape.
        device: Device of the tensors.
    """

    def __init__(self, chosen: BoolArray, device: torch.device = HOST) -> None:
        self.shape = chosen.shape
        self._numbers = None if chosen.all() else tensor(np.flatnonzero(chosen), device)

    def pick(self, dense: torch.Tensor) -> torch.Tensor:
        """Take the selected rows [n, ...] out of a tensor [*shape, ...], in C order; differentiable.

        The result is a view if all rows are selected.
        """
        flat = dense.flatten(0, len(self.shape) - 1)
        return flat if self._numbers is None else flat.index_select(0, self._numbers)

    def pick_inputs(self, inputs: RowInputs) -> RowInputs:
        """Take the selected rows out of inputs, as `pick`."""
        if isinstance(inputs, torch.Tensor):
            return self.pick(inputs)
        return inputs if self._numbers is None else inputs.take(self._numbers)

    def spread(self, rows: torch.Tensor) -> torch.Tensor:
        """Place rows [n, ...] in a tensor [*shape, ...] of zeros; differentiable."""
        if self._numbers is None:
            return rows.view(*self.shape, *rows.shape[1:])
        return spread(rows, self._numbers, self.shape)


def _part(
    batch: Batch,
    part: PolicyBatch,
    closing: _Closing,
    shape: PolicyShape,
    turn_based: bool,
    device: torch.device,
) -> PolicyEpisodes:
    """Convert one policy's arrays.

    Args:
        batch: The batch.
        part: The policy's arrays.
        closing: The closing rows.
        shape: Description of the policy's network.
        turn_based: Whether agents take turns.
        device: Device of the tensors.
    """
    slots, lengths = closing.ended, closing.lengths[closing.ended]
    alive, truncated = part.alive.copy(), part.truncated
    alive[lengths, slots] = part.truncated[lengths - 1, slots] & ~part.terminated[lengths - 1, slots]
    if closing.cut.any():
        truncated = truncated.copy()
        going = np.flatnonzero(closing.cut)
        last = closing.lengths[going] - 1
        truncated[last, going] |= alive[last + 1, going]
    known = alive.copy()
    known[batch.final_step + 1, batch.final_slot] = True
    mask = part.action_mask
    if mask is not None:
        mask = mask.copy()
        mask[lengths, slots] = (
            _last_masks(part, mask, closing.lengths)[slots] if turn_based else mask[lengths - 1, slots]
        )
    arrays = (part.reward, part.terminated, truncated, known)
    masked = None if mask is None else tensor(mask, device)
    active = part.alive[:-1] & batch.inside[..., None]
    inputs, observed = _seen(batch, part, closing, active, shape, device)
    present, action = tensor(alive, device), tensor(part.action, device)
    return PolicyEpisodes(inputs, observed, present, alive, active, masked, action, *arrays)


def _seen(
    batch: Batch,
    part: PolicyBatch,
    closing: _Closing,
    active: BoolArray,
    shape: PolicyShape,
    device: torch.device,
) -> tuple[RowInputs, Array]:
    """Return the inputs of the policy's network, and the observations with closing rows."""
    numbers = [last_actions(part.action, active, shape.actions)] if shape.last_action else []
    if shape.agent_id:
        numbers.append(agent_numbers(shape.agents))
    if not shape.form.flat or part.obs.dtype != np.float32:
        observed = _close(np.empty(part.obs.shape, part.obs.dtype), batch, part.obs, part.final_obs, closing)
        joined = shape.form.join(part.alive.shape, [observed, *numbers])
        return tensor(joined, device) if shape.form.flat else row_inputs(joined, 3, device), observed
    # the same with each number written once
    seen, start = np.empty((*part.alive.shape, shape.form.size), np.float32), shape.spec.observation_size
    rows, finals = flat_observations(part.obs, 3), flat_observations(part.final_obs, 2)
    observed = _close(seen[..., :start], batch, rows, finals, closing)
    for field, array in zip(shape.form.fields[1:], numbers, strict=True):
        seen[..., start : start + field.size] = array
        start += field.size
    return tensor(seen, device), observed


def _last_masks(part: PolicyBatch, mask: BoolArray, lengths: Array) -> BoolArray:
    """Return each agent's mask at its last action of the episode, shape [B, N, A].

    An agent that never acted gets all actions.
    """
    rows = np.arange(len(part.action))[:, None, None]
    acted = part.alive[:-1] & (rows < lengths[:, None])
    last = np.where(acted, rows, -1).max(0)
    slots, agents = np.ogrid[: last.shape[0], : last.shape[1]]
    return np.where((last >= 0)[..., None], mask[np.maximum(last, 0), slots, agents], True)


def _close(closed: Array, batch: Batch, rows: Array, finals: Array, closing: _Closing) -> Array:
    """Fill `closed` with rows [T+1, B, ...] and the closing row of every episode, and return it.

    Truncated episodes are closed with their entry of `finals` [K, ...], terminated ones with zeros. The
    closing row of a cut episode is among the rows.
    """
    closed[...] = rows
    closed[closing.lengths[closing.ended], closing.ended] = np.zeros((), closed.dtype)
    closed[batch.final_step + 1, batch.final_slot] = finals
    return closed
