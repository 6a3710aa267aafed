"""Rollouts side by side: the arrays of several rollouts as one, and the acting rows of a policy evaluated
under its network.

Used by the algorithms; knows none of them. Rollouts of equal length are joined along the slots (a single one
is not copied); of differing lengths they are padded with rows in which nobody acts.

    T the longest rollout   B all slots of all rollouts   N agents   K finals   n acting rows: (t, b, agent)
        in C order
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hpcmarl.nets.numpy_policy import numbered
from hpcmarl.nets.policy import Policy
from hpcmarl.types import Array, BoolArray, CriticRecord, FloatArray, PolicyRollout, Rollout


@dataclass
class PolicyBatch:
    """One policy's arrays, as in types.PolicyRollout with B for E; the row T is zero where rollouts were
    padded."""

    obs: FloatArray
    alive: BoolArray
    action: Array
    logp: FloatArray
    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    final_obs: FloatArray
    action_mask: BoolArray | None
    memory: FloatArray | None
    critic_memory: FloatArray | None = None


@dataclass
class Batch:
    """All policies' arrays, as in types.Rollout with B for E. final_step, final_slot [K] int64 point into [T,
    B]."""

    policies: dict[str, PolicyBatch]
    episode_start: BoolArray
    episode_end: Array
    first_step: Array
    final_step: Array
    final_slot: Array
    state: FloatArray | None
    final_state: FloatArray | None
    inside: BoolArray  # [T, B]: false on padding
    records: dict[str, CriticRecord] | None = None

    @property
    def steps(self) -> int:
        return int(self.episode_end.shape[0])

    @property
    def slots(self) -> int:
        return int(self.episode_end.shape[1])


def join(rollouts: Sequence[Rollout]) -> Batch:
    """One batch of at least one rollout."""
    steps = max(rollout.steps for rollout in rollouts)
    first_slot = np.cumsum([0, *(rollout.count for rollout in rollouts)])
    inside = np.zeros((steps, int(first_slot[-1])), bool)
    for rollout, slot in zip(rollouts, first_slot, strict=False):
        inside[: rollout.steps, slot : slot + rollout.count] = True
    return Batch(
        policies={
            name: _join_policy([rollout.policies[name] for rollout in rollouts], steps)
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
            lambda arrays: _side_by_side(arrays, steps, 1), [rollout.state for rollout in rollouts]
        ),
        final_state=_optional(_along, [rollout.final_state for rollout in rollouts]),
        inside=inside,
        records=_join_records([rollout.records for rollout in rollouts], steps),
    )


def select(rollout: Rollout, slots: Array) -> Rollout:
    """The trajectories `slots` (increasing) of a rollout, as a rollout of their own; its arrays are copies.
    Episodes that ended are not in it."""
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
    """In which rows the units of a critic stand for something, and how these end, [T, B, U] bool each: U is 1
    for a team, N for single agents."""

    active: BoolArray
    terminated: BoolArray
    truncated: BoolArray


def game_rows(batch: Batch) -> UnitRows:
    """Find the rows of a game in which all act at once, as all of its policies see it together.

    Every step of an episode is a row of the game, also one in which this or that policy has nobody left.
    Steps without any agent are, too: others may play on (a league shows one side alone). Only a slot that
    rests, without an agent and without an end until the unroll's last row, has none. An episode that was cut
    off ends with a value where any agent lived until then, else with nothing.

    Returns:
        Rows [T, B, 1].
    """
    parts = batch.policies.values()
    active = anybody([part.alive[: batch.steps] for part in parts])
    ends = (batch.episode_end > 0)[:, :, None]
    if not active.all():
        ended = np.flip(np.logical_or.accumulate(np.flip(ends, 0), 0), 0)  # here or later
        active = (ended | (active & ~ended).any(0)) & batch.inside[:, :, None]
    truncated = (batch.episode_end == 2)[:, :, None] & anybody([part.truncated for part in parts])
    return UnitRows(active, ends & ~truncated, truncated)


def anybody(parts: Sequence[BoolArray]) -> BoolArray:
    """Say whether any agent of any policy acts, from arrays [..., N], one a policy: [..., 1]. (numpy reduces
    few numbers at a time slowly.)"""
    active = [part[..., agent] for part in parts for agent in range(part.shape[-1])]
    found = active[0].copy()
    for each in active[1:]:
        found |= each
    return found[..., None]


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
    """None where a rollout has none."""
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


def _join_policy(parts: list[PolicyRollout], steps: int) -> PolicyBatch:
    return PolicyBatch(
        obs=_side_by_side([part.obs for part in parts], steps, 1),
        alive=_side_by_side([part.alive for part in parts], steps, 1),
        action=_side_by_side([part.action for part in parts], steps, 0),
        logp=_side_by_side([part.logp for part in parts], steps, 0),
        reward=_side_by_side([part.reward for part in parts], steps, 0),
        terminated=_side_by_side([part.terminated for part in parts], steps, 0),
        truncated=_side_by_side([part.truncated for part in parts], steps, 0),
        final_obs=_along([part.final_obs for part in parts]),
        action_mask=_optional(
            lambda arrays: _side_by_side(arrays, steps, 1), [part.action_mask for part in parts]
        ),
        memory=_optional(_along, [part.memory for part in parts]),
        critic_memory=_optional(_along, [part.critic_memory for part in parts]),
    )


def _optional(how: Callable[[list[Array]], Array], arrays: list[Array] | list[Array | None]) -> Array | None:
    present = [array for array in arrays if array is not None]
    return how(present) if len(present) == len(arrays) else None


def _along(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _side_by_side(arrays: list[Array], steps: int, extra: int) -> Array:
    """Join [T_i + extra, E_i, ...] along the slots. Padded to T + extra rows where lengths differ: the extra
    row is left out then."""
    if all(len(array) == steps + extra for array in arrays):
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
    joined = np.zeros(
        (steps + extra, sum(array.shape[1] for array in arrays), *arrays[0].shape[2:]), arrays[0].dtype
    )
    slot = 0
    for array in arrays:
        length = len(array) - extra
        joined[:length, slot : slot + array.shape[1]] = array[:length]
        slot += array.shape[1]
    return joined


class Rows:
    """The acting rows of one policy: moves arrays between the dense shape [T, B, N, ...] and the rows [n,
    ...]."""

    def __init__(self, acting: BoolArray) -> None:
        self.shape = acting.shape
        self._index = None if acting.all() else np.flatnonzero(acting)
        self.count = acting.size if self._index is None else len(self._index)

    def pick(self, dense: Array) -> Array:
        """[T, B, N, ...] -> [n, ...]; a view where everybody acts."""
        flat = dense.reshape(-1, *dense.shape[3:])
        return flat if self._index is None else flat[self._index]

    def spread(self, rows: FloatArray) -> FloatArray:
        """[n] -> [T, B, N], zero where nobody acts."""
        if self._index is None:
            return rows.reshape(self.shape)
        dense = np.zeros(int(np.prod(self.shape)), rows.dtype)
        dense[self._index] = rows
        return dense.reshape(self.shape)


@dataclass
class Evaluation:
    """A policy's acting rows under its present parameters: its outputs `raw` [n, K], logp and entropy [n],
    all differentiable."""

    rows: Rows
    raw: torch.Tensor
    logp: torch.Tensor
    entropy: torch.Tensor
    mask: torch.Tensor | None


def evaluate(policy: Policy, part: PolicyBatch, episode_start: BoolArray) -> Evaluation:
    """Log-probabilities of the actions taken, and entropies, in the acting rows of a batch."""
    steps = len(part.action)
    alive = part.alive[:steps]
    rows = Rows(alive)
    obs = seen_by(policy, part)
    if policy.memory_size:
        if part.memory is None:
            raise ValueError("the policy is recurrent, but the rollout carries no memory")
        raw = policy.unroll(tensor(obs), tensor(alive), tensor(episode_start[:steps]), tensor(part.memory))
        raw = raw.reshape(-1, raw.shape[-1])
        if rows.count != alive.size:
            raw = raw[tensor(np.flatnonzero(alive))]
    else:
        raw = policy(tensor(rows.pick(obs)))
    mask = None if part.action_mask is None else tensor(rows.pick(part.action_mask[:steps]))
    logp, entropy = policy.head.evaluate(raw, tensor(rows.pick(part.action)), mask)
    return Evaluation(rows, raw, logp, entropy, mask)


def seen_by(policy: Policy, part: PolicyBatch) -> FloatArray:
    """The inputs of a policy's network in all rows but the last, [T, B, N, D]."""
    obs = part.obs[: len(part.action)].reshape(*part.reward.shape, -1)
    return numbered(obs) if policy.agent_id else obs


def tensor(array: Array) -> torch.Tensor:
    """A tensor of the array's own memory, or of a copy where the memory may not be written (torch would
    warn)."""
    return torch.from_numpy(
        array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
    )
