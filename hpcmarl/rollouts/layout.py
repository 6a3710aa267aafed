"""Layout of a Rollout in a message buffer.

    HEADER | ROLLOUT_HEADER | fixed arrays (each 16-byte aligned) | K final frames | J episodes

An actor writes its steps into the buffer, and the learner reads from it (codec.py), without copies. The fixed
arrays depend only on the environment, the number of steps T and the number of slots E. The numbers of final
frames and episodes vary. They come last, so that a message has no unused bytes at its end.
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
    IntArray,
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
    """Offsets and types of all parts of a rollout message.

    Args:
        spec: Specification of the environment.
        steps: Number of steps, T.
        slots: Number of slots, E.
        with_state: Whether the global state is included, if the environment has one.
        memory: Policy -> size H of its recurrent memory, for recurrent policies.

    Attributes:
        frame_names: Arrays with T+1 rows: the inputs of the policies.
        step_names: Arrays with T rows: the actions of the policies and their outcomes.
        fixed_bytes: Length of the headers and the fixed arrays.
        final_dtype: Record of a final frame.
        episode_dtype: Record of an episode.
        capacity: Length of the longest possible message: a final frame and an episode for every step of every
            slot.
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
        self.frame_names: list[str] = []
        self.step_names: list[str] = []
        self._end = HEADER_BYTES + ROLLOUT_HEADER.itemsize
        self._shared: list[str] = []  # arrays that belong to no policy
        # Policy -> (name in PolicyRollout, whole name) of its arrays.
        self._own: dict[str, list[tuple[str, str]]] = {policy.name: [] for policy in spec.policies}
        self._place_all()
        self.fixed_bytes = -(-self._end // ALIGNMENT) * ALIGNMENT
        offsets, formats = zip(*self._fields.values(), strict=True)
        # All fixed arrays form one record: numpy then makes the view of an array in a single step, for one
        # message or for many.
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
        self._place("workers", (slots,), np.int32)
        if self.with_state:
            self._place("state", (steps + 1, slots, self.spec.state_size or 0), np.float32)
        for policy in self.spec.policies:
            agents, prefix = len(policy.agents), policy.name + "/"
            self._place(
                prefix + "obs",
                (steps + 1, slots, agents, *policy.observation_shape),
                policy.observation_dtype,
            )
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
            (policy.name, policy.observation_dtype, (len(policy.agents), *policy.observation_shape))
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
        """Return views of the fixed arrays, by name ("episode_start", "agent/obs", …)."""
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
        """Return the Rollout in a message, with arrays that are views of it.

        Args:
            buffer: The message.
            finals: Final frames, K records of `final_dtype`.
            episodes: Episodes that ended in the rollout.
            version: Version of the parameters.
            actor: Number of the actor.
            number: Number of a whole episode (Rollout.number).
        """
        record = self._read(buffer)
        return self._rollout(lambda name: record[name], finals, episodes, version, actor, number)

    def _read(self, buffer: Buffer) -> Array:
        return buffer[: self.fixed_bytes].view(self._record).reshape(())

    def side_by_side(self, buffers: Sequence[Buffer], finals: Array, version: int, actor: int) -> Rollout:
        """Return a Rollout with E = B of B messages of this layout, which has one slot.

        Its arrays are views of one copy of the messages.

        Args:
            buffers: The B messages.
            finals: Final frames of all messages, records of `final_dtype`. Their slots are the indices of the
                messages.
            version: Version of the parameters.
            actor: Number of the actor.
        """
        records = np.stack([buffer[: self.fixed_bytes] for buffer in buffers]).view(self._record)[:, 0]
        rows = {*self.frame_names, *self.step_names}

        def column(name: str) -> Array:
            array = records[name]
            return array[:, :, 0].swapaxes(0, 1) if name in rows else array[:, 0]

        return self._rollout(column, finals, [], version, actor)

    def pieces(
        self,
        layouts: Sequence[RolloutLayout],
        which: IntArray,
        first: IntArray,
        read: Callable[[IntArray, np.dtype[Any]], Array],
        finals: Array,
        version: int,
        actor: int,
    ) -> Rollout:
        """Return a Rollout with E = B of B pieces of messages with one slot; this is the layout of a piece.

        Args:
            layouts: Layouts of the messages.
            which: Index in `layouts` of each piece, shape [B].
            first: First step of each piece, shape [B].
            read: Copies one value from each message, at the given offsets, shape [B].
            finals: Final frames of the pieces that end with their episode, records of `final_dtype`.
            version: Version of the parameters.
            actor: Number of the actor.
        """
        rows = {*self.frame_names, *self.step_names}

        def column(name: str) -> Array:
            field = self._fields[name][1]
            stride = field.itemsize // field.shape[0] if name in rows else 0
            starts = np.array([layout._fields[name][0] for layout in layouts])
            array = read(starts[which] + first * stride, field)
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
    """Message buffer into which an actor writes one unroll step by step, through views created once.

    Attributes:
        layout: Layout of the message.
        buffer: The message, with the longest possible length.
        arrays: Views of the fixed arrays, by name.
        frames: Views of the inputs of the policies, T+1 frames.
        outcomes: Views of the outcomes of the actions, T of them.
        finals: (step, final frame) of each truncated episode.
        episodes: Episodes that ended in the unroll.
    """

    def __init__(self, layout: RolloutLayout, buffer: Buffer | None = None) -> None:
        """Create an arena.

        Args:
            layout: Layout of the message.
            buffer: Memory of `layout.capacity` bytes, filled with zeros; None: memory of its own.
        """
        self.layout = layout
        if buffer is None:
            buffer = np.empty(layout.capacity, np.uint8)
            buffer[: layout.fixed_bytes] = 0
        self.buffer: Buffer = buffer
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
        """Discard the final frames and episodes of the last unroll; its arrays are overwritten later."""
        self.finals.clear()
        self.episodes.clear()

    def begin_after(self, other: RolloutArena) -> None:
        """Begin an unroll with the last frame of another arena, which may be this arena itself."""
        for name in self.layout.frame_names:
            self.arrays[name][0] = other.arrays[name][other.layout.steps]
        self.begin()

    def decide(self, step: int, decisions: Mapping[str, Decision], memory: dict[str, FloatArray]) -> None:
        """Write the decisions of the policies in one step.

        Args:
            step: Index of the step.
            decisions: Decisions by policy.
            memory: Policy -> recurrent memory [E, N, H]. Updated to the memory after the step.
        """
        for policy, decision in decisions.items():
            assert decision.logp is not None
            self.arrays[policy + "/action"][step] = decision.action
            self.arrays[policy + "/logp"][step] = decision.logp
            if decision.memory is not None:
                memory[policy] = decision.memory

    def keep(self, step: int, outcome: Outcome) -> None:
        """Store the final frames and episodes of one step's outcome; its arrays are already in place."""
        if outcome.finals:
            self.finals.extend((step, final) for final in outcome.finals)
        if outcome.episodes:
            self.episodes.extend(outcome.episodes)

    def finish(self, version: int, actor: int, number: int = UNNUMBERED) -> tuple[Buffer, Rollout]:
        """Complete the message.

        Args:
            version: Version of the parameters.
            actor: Number of the actor.
            number: Number of a whole episode (Rollout.number).

        Returns:
            The message, with a header that is not yet filled, and its Rollout. Both are views of this arena.
        """
        layout = self.layout
        end = layout.fixed_bytes
        size = len(self.finals) * layout.final_dtype.itemsize
        finals = self.buffer[end : end + size].view(layout.final_dtype)
        if self.finals:
            finals["step"] = [step for step, _ in self.finals]
            write_finals(finals, [final for _, final in self.finals], with_state=layout.with_state)
        end += size
        size = len(self.episodes) * layout.episode_dtype.itemsize
        write_episodes(self.buffer[end : end + size].view(layout.episode_dtype), self.episodes, layout.spec)
        header = self.buffer[HEADER_BYTES : HEADER_BYTES + ROLLOUT_HEADER.itemsize].view(ROLLOUT_HEADER)
        header[0] = (layout.steps, layout.slots, len(self.finals), len(self.episodes), actor, number)
        return self.buffer[: end + size], layout.rollout_of(
            self.buffer, finals, list(self.episodes), version, actor, number
        )


def write_finals(records: Array, finals: Sequence[FinalFrame], *, with_state: bool) -> None:
    """Write final frames into records of `RolloutLayout.final_dtype`, without their steps.

    Args:
        records: As many records as final frames.
        finals: At least one final frame.
        with_state: Whether the records hold states.
    """
    records["slot"] = [final.slot for final in finals]
    for policy in finals[0].obs:
        np.stack([final.obs[policy] for final in finals], out=records[policy])
    if with_state:
        records["/state"] = [final.state for final in finals]


def write_episodes(records: Array, episodes: list[Episode], spec: EnvironmentSpec) -> None:
    """Write episodes into records of `RolloutLayout.episode_dtype`."""
    names = [policy.name for policy in spec.policies]
    # in the order of the fields, all records at once
    records[:] = [
        (
            episode.slot,
            episode.terminated,
            episode.index,
            episode.length,
            episode.return_mean,
            episode.outcome.get("win", np.nan),
            [episode.returns.get(name, 0.0) for name in names],
        )
        for episode in episodes
    ]
