"""How a Rollout lies in a message: one buffer, in which the actor writes its steps and from which the learner
reads, without copies.

    HEADER | ROLLOUT_HEADER | fixed arrays (each 16-byte aligned) | K final frames | J episodes

The fixed arrays depend only on the environment, T and E; the finals and episodes vary, so they come last and
a message is as long as it has to be. Written by actors, read through codec.py; knows no transport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.comm.protocol import HEADER_BYTES, Buffer
from hpcmarl.types import (
    UNNUMBERED,
    Array,
    Decision,
    EnvironmentSpec,
    Episode,
    FinalFrame,
    FloatArray,
    Frame,
    Outcome,
    PolicyFrame,
    PolicyOutcome,
    PolicyRollout,
    Rollout,
)

ROLLOUT_HEADER = np.dtype(
    [
        ("steps", "<i4"),
        ("slots", "<i4"),
        ("finals", "<i4"),
        ("episodes", "<i4"),
        ("actor", "<i4"),
        ("number", "<i4"),
    ]
)
ALIGNMENT = 16
FRAME_ARRAYS = ("episode_start", "state", "obs", "alive", "action_mask")
STEP_ARRAYS = ("episode_end", "action", "logp", "reward", "terminated", "truncated")


class RolloutLayout:
    """Offsets of everything in a rollout message of `steps` (T) and `slots` (E); memory: policy -> H of
    recurrent policies.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        steps: int,
        slots: int,
        *,
        with_state: bool = False,
        memory: Mapping[str, int] | None = None,
    ) -> None:
        self.spec = spec
        self.steps = steps
        self.slots = slots
        self.with_state = with_state and spec.state_size is not None
        self.memory = dict(memory or {})
        self._fields: dict[str, tuple[int, Any]] = {}  # offset in bytes, dtype with shape
        self.frame_names: list[str] = []  # arrays of T+1 rows: what the policies see
        self.step_names: list[str] = []  # arrays of T rows: what they do and what comes of it
        self._end = HEADER_BYTES + ROLLOUT_HEADER.itemsize
        self._shared: list[str] = []  # arrays that belong to no policy
        # (array, whole name) of each
        self._own: dict[str, list[tuple[str, str]]] = {policy.name: [] for policy in spec.policies}
        self._place_all()
        self.fixed_bytes = -(-self._end // ALIGNMENT) * ALIGNMENT
        offsets, formats = zip(*self._fields.values(), strict=True)
        # all fixed arrays as one record: numpy makes a view of each, or of those of many messages, in a
        # single step
        self._record = np.dtype(
            {
                "names": list(self._fields),
                "offsets": offsets,
                "formats": formats,
                "itemsize": self.fixed_bytes,
            }
        )
        self.final_dtype = self._final_dtype()
        self.episode_dtype = self._episode_dtype()
        most = steps * slots
        self.capacity = self.fixed_bytes + most * (self.final_dtype.itemsize + self.episode_dtype.itemsize)

    def _place(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self._end = -(-self._end // ALIGNMENT) * ALIGNMENT
        if name.rpartition("/")[2] in FRAME_ARRAYS:
            self.frame_names.append(name)
        elif name.rpartition("/")[2] in STEP_ARRAYS:
            self.step_names.append(name)
        shaped = np.dtype((dtype, shape))
        self._fields[name] = (self._end, shaped)
        policy, _, own = name.rpartition("/")
        if policy:
            self._own[policy].append((own, name))
        else:
            self._shared.append(name)
        self._end += shaped.itemsize

    def _place_all(self) -> None:
        steps, slots = self.steps, self.slots
        self._place("episode_start", (steps + 1, slots), np.bool_)
        self._place("episode_end", (steps, slots), np.uint8)
        for name in ("first_step", "episode", "slots"):
            self._place(name, (slots,), np.int64)
        if self.with_state:
            self._place("state", (steps + 1, slots, self.spec.state_size or 0), np.float32)
        for policy in self.spec.policies:
            agents, prefix = len(policy.agents), policy.name + "/"
            self._place(prefix + "obs", (steps + 1, slots, agents, *policy.observation_shape), np.float32)
            self._place(prefix + "alive", (steps + 1, slots, agents), np.bool_)
            self._place(prefix + "action", (steps, slots, agents, *policy.action.shape), policy.action.dtype)
            for array in ("logp", "reward"):
                self._place(prefix + array, (steps, slots, agents), np.float32)
            for array in ("terminated", "truncated"):
                self._place(prefix + array, (steps, slots, agents), np.bool_)
            if policy.has_mask:
                self._place(
                    prefix + "action_mask", (steps + 1, slots, agents, policy.action.mask_size), np.bool_
                )
            if policy.name in self.memory:
                self._place(prefix + "memory", (slots, agents, self.memory[policy.name]), np.float32)

    def _final_dtype(self) -> np.dtype[Any]:
        entries: list[Any] = [("step", "<i4"), ("slot", "<i4")]
        entries += [
            (policy.name, "<f4", (len(policy.agents), *policy.observation_shape))
            for policy in self.spec.policies
        ]
        if self.with_state:
            entries.append(("/state", "<f4", (self.spec.state_size,)))
        return np.dtype(entries)

    def _episode_dtype(self) -> np.dtype[Any]:
        plain = [
            ("slot", "<i4"),
            ("terminated", "<i4"),
            ("index", "<i8"),
            ("length", "<i8"),
            ("return_mean", "<f8"),
            ("win", "<f8"),
        ]
        return np.dtype([*plain, ("returns", "<f8", (len(self.spec.policies),))])

    def arrays(self, buffer: Buffer) -> dict[str, Array]:
        """Views of the fixed arrays, by name ("episode_start", "agent/obs", …)."""
        record = self._read(buffer)
        return {name: record[name] for name in self._fields}

    def rollout_of(
        self,
        buffer: Buffer,
        finals: Array,
        episodes: list[Episode],
        version: int,
        actor: int,
        number: int = UNNUMBERED,
    ) -> Rollout:
        """A Rollout whose arrays are views of the buffer and of the final records."""
        record = self._read(buffer)
        return self._rollout(lambda name: record[name], finals, episodes, version, actor, number)

    def _read(self, buffer: Buffer) -> Array:
        return buffer[: self.fixed_bytes].view(self._record).reshape(())

    def side_by_side(self, buffers: Sequence[Buffer], finals: Array, version: int, actor: int) -> Rollout:
        """A Rollout of B messages of one slot each (this layout's), whose arrays are views of one copy; slots
        in `finals` number the messages.
        """
        records = np.stack([buffer[: self.fixed_bytes] for buffer in buffers]).view(self._record)[:, 0]
        rows = {*self.frame_names, *self.step_names}

        def column(name: str) -> Array:
            array = records[name]
            return array[:, :, 0].swapaxes(0, 1) if name in rows else array[:, 0]

        return self._rollout(column, finals, [], version, actor)

    def _rollout(
        self,
        array_of: Callable[[str], Array],
        finals: Array,
        episodes: list[Episode],
        version: int,
        actor: int,
        number: int = UNNUMBERED,
    ) -> Rollout:
        policies = {}
        for policy, own in self._own.items():
            arrays: dict[str, Any] = {array: array_of(name) for array, name in own}
            policies[policy] = PolicyRollout(final_obs=finals[policy], **arrays)
        index = np.empty((len(finals), 2), np.int32)
        index[:, 0], index[:, 1] = finals["step"], finals["slot"]
        shared: dict[str, Any] = {name: array_of(name) for name in self._shared}
        final_state = finals["/state"] if self.with_state else None
        return Rollout(
            policies,
            final_index=index,
            version=version,
            actor=actor,
            final_state=final_state,
            episodes=episodes,
            number=number,
            **shared,
        )


class RolloutArena:
    """A message buffer into which an actor writes one unroll, step by step, through views made once."""

    def __init__(self, layout: RolloutLayout) -> None:
        self.layout = layout
        self.buffer: Buffer = np.empty(layout.capacity, np.uint8)
        self.buffer[: layout.fixed_bytes] = 0
        self.arrays = layout.arrays(self.buffer)
        self.frames = [self._frame(step) for step in range(layout.steps + 1)]
        self.outcomes = [self._outcome(step) for step in range(layout.steps)]
        self.finals: list[tuple[int, FinalFrame]] = []
        self.episodes: list[Episode] = []

    def _frame(self, step: int) -> Frame:
        policies = {}
        for policy in self.layout.spec.policies:
            obs, alive = (self.arrays[f"{policy.name}/{name}"][step] for name in ("obs", "alive"))
            mask = self.arrays.get(policy.name + "/action_mask")
            policies[policy.name] = PolicyFrame(obs, alive, None if mask is None else mask[step])
        state = self.arrays.get("state")
        return Frame(policies, None if state is None else state[step], self.arrays["episode_start"][step])

    def _outcome(self, step: int) -> Outcome:
        policies = {}
        for policy in self.layout.spec.policies:
            views = (
                self.arrays[f"{policy.name}/{name}"][step] for name in ("reward", "terminated", "truncated")
            )
            policies[policy.name] = PolicyOutcome(*views)
        return Outcome(policies, self.arrays["episode_end"][step])

    def begin(self) -> None:
        """Forget the finals and episodes of the last unroll; the arrays are overwritten step by step."""
        self.finals.clear()
        self.episodes.clear()

    def begin_after(self, other: RolloutArena) -> None:
        """Begin with what the environments show after the last row of `other`, which may be this very
        arena.
        """
        for name in self.layout.frame_names:
            self.arrays[name][0] = other.arrays[name][other.layout.steps]
        self.begin()

    def decide(self, step: int, decisions: Mapping[str, Decision], memory: dict[str, FloatArray]) -> None:
        """Write what the policies do at this step; `memory` (policy -> [E, N, H]) becomes what it is
        afterwards.
        """
        for policy, decision in decisions.items():
            assert decision.logp is not None
            self.arrays[policy + "/action"][step] = decision.action
            self.arrays[policy + "/logp"][step] = decision.logp
            if decision.memory is not None:
                memory[policy] = decision.memory

    def keep(self, step: int, outcome: Outcome) -> None:
        """Take over what the environment told at this step besides arrays."""
        if outcome.finals:
            self.finals.extend((step, final) for final in outcome.finals)
        if outcome.episodes:
            self.episodes.extend(outcome.episodes)

    def finish(self, version: int, actor: int, number: int = UNNUMBERED) -> tuple[Buffer, Rollout]:
        """The message (header not yet filled) and the rollout, both views of this arena."""
        layout = self.layout
        end = layout.fixed_bytes
        size = len(self.finals) * layout.final_dtype.itemsize
        finals = self.buffer[end : end + size].view(layout.final_dtype)
        for record, (step, final) in zip(finals, self.finals, strict=True):
            record["step"], record["slot"] = step, final.slot
            for policy, observations in final.obs.items():
                record[policy] = observations
            if layout.with_state:
                record["/state"] = final.state
        end += size
        size = len(self.episodes) * layout.episode_dtype.itemsize
        _write_episodes(self.buffer[end : end + size].view(layout.episode_dtype), self.episodes, layout.spec)
        header = self.buffer[HEADER_BYTES : HEADER_BYTES + ROLLOUT_HEADER.itemsize].view(ROLLOUT_HEADER)
        header[0] = (layout.steps, layout.slots, len(self.finals), len(self.episodes), actor, number)
        return self.buffer[: end + size], layout.rollout_of(
            self.buffer, finals, list(self.episodes), version, actor, number
        )


def _write_episodes(records: Array, episodes: list[Episode], spec: EnvironmentSpec) -> None:
    for record, episode in zip(records, episodes, strict=True):
        returns = [episode.returns.get(policy.name, 0.0) for policy in spec.policies]
        win = episode.outcome.get("win", np.nan)
        for name in ("slot", "index", "length", "return_mean", "terminated"):
            record[name] = getattr(episode, name)
        record["win"], record["returns"] = win, returns
