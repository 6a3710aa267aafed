"""Rollouts joined into one batch, and a policy evaluated in the active rows of a batch.

Rollouts of equal length are joined along the slots; a single rollout is not copied. Rollouts of different
lengths are padded with rows in which no agent acts.

    T    steps of the longest rollout
    B    slots of all rollouts
    N    agents of a policy
    K    truncated episodes, which have a last observation
    n    active rows: (step, slot, agent) in which the agent acts, in C order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpcmarl.nets.acting import agent_numbers
from hpcmarl.nets.device import device_of, tensor
from hpcmarl.nets.input_form import InputForm
from hpcmarl.nets.inputs import RowInputs, row_inputs
from hpcmarl.nets.policy import Policy
from hpcmarl.types import Array, BoolArray, CriticRecord, FloatArray, PolicyRollout, Rollout


@dataclass
class PolicyBatch:
    """The arrays of one policy, as in types.PolicyRollout with B in place of E.

    Row T is zero in padded rollouts.
    """

    obs: Array
    alive: BoolArray
    action: Array
    logp: FloatArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    final_obs: Array
    action_mask: BoolArray | None
    memory: FloatArray | None
    critic_memory: FloatArray | None = None


@dataclass
class Batch:
    """The arrays of all policies, as in types.Rollout with B in place of E.

    Attributes:
        policies: Arrays of each policy.
        episode_start: First rows of episodes, shape [T+1, B].
        episode_end: Ends of episodes, shape [T, B]: 0 none, 1 terminated, 2 truncated.
        first_step: Index in its episode of each slot's row 0, shape [B].
        final_step: Last steps of the truncated episodes, shape [K] int64.
        final_slot: Slots of the truncated episodes, shape [K] int64.
        state: States of the environment, shape [T+1, B, S], or None.
        final_state: States after truncated episodes, shape [K, S], or None.
        inside: Rows that are not padding, shape [T, B].
        records: Records of the critics by policy; None if any rollout has none.
        pieces: Whether the slots are pieces of episodes, of which only step 0 is learned from.
    """

    policies: dict[str, PolicyBatch]
    episode_start: BoolArray
    episode_end: Array
    first_step: Array
    final_step: Array
    final_slot: Array
    state: FloatArray | None
    final_state: FloatArray | None
    inside: BoolArray
    records: dict[str, CriticRecord] | None = None
    pieces: bool = False

    @property
    def steps(self) -> int:
        """Number of steps, T."""
        return int(self.episode_end.shape[0])

    @property
    def slots(self) -> int:
        """Number of slots, B."""
        return int(self.episode_end.shape[1])


def join(rollouts: Sequence[Rollout], *, with_next: bool = False) -> Batch:
    """Join one or more rollouts into a batch.

    Args:
        rollouts: The rollouts.
        with_next: Whether the row after the last step of a shorter rollout is kept instead of zero.
    """
    steps = max(rollout.steps for rollout in rollouts)
    first_slot = np.cumsum([0, *(rollout.count for rollout in rollouts)])
    inside = np.zeros((steps, int(first_slot[-1])), bool)
    for rollout, slot in zip(rollouts, first_slot, strict=False):
        inside[: rollout.steps, slot : slot + rollout.count] = True
    return Batch(
        policies={
            name: _join_policy([rollout.policies[name] for rollout in rollouts], steps, with_next)
            for name in rollouts[0].policies
        },
        episode_start=_side_by_side([rollout.episode_start for rollout in rollouts], steps, 1),
        episode_end=_side_by_side([rollout.episode_end for rollout in rollouts], steps, 0),
        first_step=_along([rollout.first_step for rollout in rollouts]),
        final_step=_along([rollout.final_index[:, 0] for rollout in rollouts]).astype(np.int64),
        final_slot=np.concatenate(
            [rollout.final_index[:, 1] + slot for rollout, slot in zip(rollouts, first_slot, strict=False)]
        ).astype(np.int64),
        state=_optional(
            lambda arrays: _side_by_side(arrays, steps, 1, with_next),
            [rollout.state for rollout in rollouts],
        ),
        final_state=_optional(_along, [rollout.final_state for rollout in rollouts]),
        inside=inside,
        records=_join_records([rollout.records for rollout in rollouts], steps),
        pieces=rollouts[0].pieces,
    )


def select(rollout: Rollout, slots: Array) -> Rollout:
    """Copy some trajectories of a rollout into a new rollout.

    Args:
        rollout: The rollout.
        slots: Numbers of the trajectories, in increasing order.

    Returns:
        A rollout of these trajectories. Its list of finished episodes is empty.
    """
    place = np.full(rollout.count, -1, np.int64)
    place[slots] = np.arange(len(slots))
    kept = np.flatnonzero(place[rollout.final_index[:, 1]] >= 0)
    final_index = rollout.final_index[kept].copy()
    final_index[:, 1] = place[final_index[:, 1]]
    return Rollout(
        policies={name: _select_policy(part, slots, kept) for name, part in rollout.policies.items()},
        episode_start=rollout.episode_start[:, slots],
        episode_end=rollout.episode_end[:, slots],
        final_index=final_index,
        first_step=rollout.first_step[slots],
        episode=rollout.episode[slots],
        slots=rollout.slots[slots],
        workers=rollout.workers[slots],
        version=rollout.version,
        actor=rollout.actor,
        state=None if rollout.state is None else rollout.state[:, slots],
        final_state=None if rollout.final_state is None else rollout.final_state[kept],
        records=None
        if rollout.records is None
        else {name: _select_record(record, slots) for name, record in rollout.records.items()},
    )


@dataclass(frozen=True)
class UnitRows:
    """Rows in which a critic's units have a value, and the ends of these rows.

    A unit is a team (U = 1) or a single agent (U = N). All arrays have the shape [T, B, U].

    Attributes:
        active: Rows with a value.
        terminated: Rows that end without a successor value.
        truncated: Rows after which the value of the last observation counts.
    """

    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray


def game_rows(batch: Batch) -> UnitRows:
    """Return the rows of a simultaneous-move game that all of its policies share.

    Every step of an episode is a row of the game, even if some policy has no living agent. Steps without any
    living agent are rows, too: the agents of other sides may continue, since a league shows one side alone.
    The exception is a resting slot. Its rows after the last end are no rows if no agent acts in any of them.

    A truncated episode keeps the value of its last observation only if some agent lived until then. Otherwise
    it counts as terminated.

    Returns:
        Rows of shape [T, B, 1].
    """
    parts = batch.policies.values()
    active = anybody([part.alive[: batch.steps] for part in parts])
    ends = (batch.episode_end > 0)[:, :, None]
    if not active.all():
        # an episode ends in this row or later
        ended = np.flip(np.logical_or.accumulate(np.flip(ends, 0), 0), 0)
        active = (ended | (active & ~ended).any(0)) & batch.inside[:, :, None]
    truncated = (batch.episode_end == 2)[:, :, None] & anybody([part.truncated for part in parts])
    return UnitRows(active, ends & ~truncated, truncated)


def anybody(parts: Sequence[BoolArray]) -> BoolArray:
    """Return whether any agent of any policy is active.

    The loop replaces a numpy reduction, which is slow over an axis of few entries.

    Args:
        parts: One array [..., N] per policy.

    Returns:
        An array [..., 1].
    """
    active = [part[..., agent] for part in parts for agent in range(part.shape[-1])]
    result = active[0].copy()
    for each in active[1:]:
        result |= each
    return result[..., None]


def _select_policy(part: PolicyRollout, slots: Array, finals: Array) -> PolicyRollout:
    arrays = {
        name: getattr(part, name)[:, slots]
        for name in ("obs", "alive", "action", "logp", "reward", "terminated", "truncated")
    }
    mask = None if part.action_mask is None else part.action_mask[:, slots]
    memory, critic_memory = (
        None if array is None else array[slots] for array in (part.memory, part.critic_memory)
    )
    return PolicyRollout(
        **arrays,
        final_obs=part.final_obs[finals],
        action_mask=mask,
        memory=memory,
        critic_memory=critic_memory,
    )


def _select_record(record: CriticRecord, slots: Array) -> CriticRecord:
    settled = (
        None if array is None else array[:, slots]
        for array in (record.targets, record.counted, record.advantages)
    )
    return CriticRecord(record.outputs[:, slots], *settled)


def _join_records(
    records: Sequence[dict[str, CriticRecord] | None], steps: int
) -> dict[str, CriticRecord] | None:
    """Join the records of the critics; None if any rollout has none."""
    present = [record for record in records if record is not None]
    if len(present) < len(records):
        return None
    return {name: _join_record([record[name] for record in present], steps) for name in present[0]}


def _join_record(records: Sequence[CriticRecord], steps: int) -> CriticRecord:
    def joined(arrays: list[Array]) -> Array:
        return _side_by_side(arrays, steps, 0)

    return CriticRecord(
        joined([record.outputs for record in records]),
        _optional(joined, [record.targets for record in records]),
        _optional(joined, [record.counted for record in records]),
        _optional(joined, [record.advantages for record in records]),
    )


def _join_policy(parts: list[PolicyRollout], steps: int, with_next: bool) -> PolicyBatch:
    return PolicyBatch(
        obs=_side_by_side([part.obs for part in parts], steps, 1, with_next),
        alive=_side_by_side([part.alive for part in parts], steps, 1, with_next),
        action=_side_by_side([part.action for part in parts], steps, 0),
        logp=_side_by_side([part.logp for part in parts], steps, 0),
        reward=_side_by_side([part.reward for part in parts], steps, 0),
        terminated=_side_by_side([part.terminated for part in parts], steps, 0),
        truncated=_side_by_side([part.truncated for part in parts], steps, 0),
        final_obs=_along([part.final_obs for part in parts]),
        action_mask=_optional(
            lambda arrays: _side_by_side(arrays, steps, 1, with_next), [part.action_mask for part in parts]
        ),
        memory=_optional(_along, [part.memory for part in parts]),
        critic_memory=_optional(_along, [part.critic_memory for part in parts]),
    )


def _optional(how: Callable[[list[Array]], Array], arrays: list[Array] | list[Array | None]) -> Array | None:
    present = [array for array in arrays if array is not None]
    return how(present) if len(present) == len(arrays) else None


def _along(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _side_by_side(arrays: list[Array], steps: int, extra: int, with_next: bool = False) -> Array:
    """Join arrays [T_i + extra, E_i, ...] along the slots.

    Arrays of different lengths are padded to T + extra rows. In that case their extra row is left out, unless
    `with_next` is set.
    """
    if all(len(array) == steps + extra for array in arrays):
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
    joined = np.zeros(
        (steps + extra, sum(array.shape[1] for array in arrays), *arrays[0].shape[2:]), arrays[0].dtype
    )
    slot = 0
    for array in arrays:
        length = len(array) - (0 if with_next else extra)
        joined[:length, slot : slot + array.shape[1]] = array[:length]
        slot += array.shape[1]
    return joined


class Rows:
    """The active rows of one policy, to convert between dense arrays [T, B, N, ...] and rows [n, ...].

    Args:
        acting: Active rows, shape [T, B, N].
    """

    def __init__(self, acting: BoolArray) -> None:
        self.shape = acting.shape
        self._index = None if acting.all() else np.flatnonzero(acting)
        self.count = acting.size if self._index is None else len(self._index)

    def pick(self, dense: Array) -> Array:
        """Take the active rows [n, ...] out of an array [T, B, N, ...]; a view if all rows are active."""
        flat = dense.reshape(-1, *dense.shape[3:])
        return flat if self._index is None else flat[self._index]

    def spread(self, rows: FloatArray) -> FloatArray:
        """Place rows [n] in an array [T, B, N] of zeros."""
        if self._index is None:
            return rows.reshape(self.shape)
        dense = np.zeros(int(np.prod(self.shape)), rows.dtype)
        dense[self._index] = rows
        return dense.reshape(self.shape)


@dataclass
class Evaluation:
    """A policy's active rows at its present parameters; the tensors are differentiable.

    Attributes:
        rows: The n active rows.
        raw: Raw outputs, shape [n, K].
        logp: Log-probabilities of the actions taken, shape [n].
        entropy: Entropies of the action distributions, shape [n].
        mask: Allowed actions, shape [n, A]; None: all actions are allowed.
    """

    rows: Rows
    raw: torch.Tensor
    logp: torch.Tensor
    entropy: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Features:
    """Features that a policy gets instead of observations (shared_features.py).

    Attributes:
        rows: Places of the observations in a table of features, shape [T, B, N].
        inputs: Replaces places by features in rows of inputs of this form.
    """

    rows: Array
    inputs: Callable[[InputForm, RowInputs], RowInputs]


def evaluate(
    policy: Policy, part: PolicyBatch, episode_start: BoolArray, features: Features | None = None
) -> Evaluation:
    """Compute log-probabilities of the actions taken, and entropies, in the active rows of a batch.

    Args:
        policy: The policy's network.
        part: The policy's arrays.
        episode_start: First rows of episodes, shape [T+1, B].
        features: Features of the observations; None: the policy encodes them.

    Raises:
        ValueError: If the policy is recurrent and the rollouts carry no memory.
    """
    steps = len(part.action)
    alive = part.alive[:steps]
    rows, device = Rows(alive), device_of(policy)
    obs = seen_by(policy, part, None if features is None else features.rows)

    def tensors(array: Array, leading: int) -> RowInputs:
        found = row_inputs(array, leading, device)
        return found if features is None else features.inputs(policy.shape.encoded_form, found)

    if policy.memory_size:
        if part.memory is None:
            raise ValueError("the policy is recurrent, but the rollout carries no memory")
        memory = tensor(part.memory, device)
        raw = policy.unroll(tensors(obs, 3), alive, episode_start[:steps], memory)
        raw = raw.reshape(-1, raw.shape[-1])
        if rows.count != alive.size:
            raw = raw[tensor(np.flatnonzero(alive), device)]
    else:
        raw = policy(tensors(rows.pick(obs), 1))
    mask = None if part.action_mask is None else tensor(rows.pick(part.action_mask[:steps]), device)
    logp, entropy = policy.head.evaluate(raw, tensor(rows.pick(part.action), device), mask)
    return Evaluation(rows, raw, logp, entropy, mask)


def seen_by(policy: Policy, part: PolicyBatch, places: Array | None = None) -> Array:
    """Return the inputs of a policy's network in all rows but the last, [T, B, N, D] or records [T, B, N].

    Args:
        policy: The policy's network.
        part: The policy's arrays.
        places: Places of the observations in a table of features [T, B, N], to stand for them; None: the
            observations themselves.
    """
    obs = part.obs[: len(part.action)] if places is None else places
    number = [agent_numbers(policy.agents)] if policy.agent_id else []
    form = policy.shape.form if places is None else policy.shape.encoded_form
    return form.join(part.reward.shape, [obs, *number])
