"""Reading of rollouts from messages, and packing of rollouts that were not written in a message buffer.

The layout for each size (layout.py) is computed once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np

from hpcmarl.comm.protocol import HEADER_BYTES, Buffer, Header, Kind, read_header, write_header
from hpcmarl.errors import ProtocolError
from hpcmarl.rollouts.layout import ROLLOUT_HEADER, RolloutArena, RolloutLayout
from hpcmarl.types import Array, EnvironmentSpec, Episode, FinalFrame, Rollout

MOST_LAYOUTS = 1024  # kept; the least recently used layout is dropped


class OpenedMessage(NamedTuple):
    """A ROLLOUT message with decoded headers.

    Attributes:
        buffer: The whole message.
        layout: Layout of its fixed arrays.
        finals: Bytes of the final frames.
        episodes: Bytes of the episodes' records.
        actor: Number of the actor.
        number: Number that the actor gave to the episode (Rollout.number).
        source: Rank that sent the message.
        version: Version of the parameters.
    """

    buffer: Buffer
    layout: RolloutLayout
    finals: Buffer
    episodes: Buffer
    actor: int
    number: int
    source: int
    version: int


class RolloutCodec:
    """Reads and packs rollouts; keeps the most recently used layouts.

    Args:
        spec: Specification of the environment.
        with_state: Whether messages contain the global state, if the environment has one.
        memory: Policy -> size H of its recurrent memory, for recurrent policies.
    """

    def __init__(
        self, spec: EnvironmentSpec, *, with_state: bool = False, memory: Mapping[str, int] | None = None
    ) -> None:
        self.spec = spec
        self.with_state = with_state
        self.memory = dict(memory or {})
        self._layouts: OrderedDict[tuple[int, int], RolloutLayout] = OrderedDict()

    def layout(self, steps: int, slots: int) -> RolloutLayout:
        """Return the layout for T `steps` of E `slots`."""
        found = self._layouts.get((steps, slots))
        if found is None:
            found = RolloutLayout(self.spec, steps, slots, with_state=self.with_state, memory=self.memory)
            self._layouts[steps, slots] = found
            if len(self._layouts) > MOST_LAYOUTS:  # the lengths of episodes are not bounded
                self._layouts.popitem(last=False)
        self._layouts.move_to_end((steps, slots))
        return found

    def open(self, buffer: Buffer) -> OpenedMessage:
        """Decode the headers of a message. A message that is kept needs this only once.

        Raises:
            ProtocolError: If the length of the message contradicts its headers.
        """
        start = HEADER_BYTES + ROLLOUT_HEADER.itemsize
        if buffer.nbytes < start:
            raise ProtocolError(f"a rollout message of {buffer.nbytes} bytes is too short")
        steps, slots, finals, episodes, actor, number = (
            buffer[HEADER_BYTES:start].view(ROLLOUT_HEADER)[0].tolist()
        )
        layout = self.layout(steps, slots)
        ends = [
            layout.fixed_bytes,
            finals * layout.final_dtype.itemsize,
            episodes * layout.episode_dtype.itemsize,
        ]
        if min(finals, episodes) < 0 or sum(ends) != buffer.nbytes:
            raise ProtocolError(
                f"a rollout message of {buffer.nbytes} bytes where {sum(ends)} were expected: the ranks have "
                "different environments"
            )
        middle = ends[0] + ends[1]
        header = read_header(buffer)
        finals_part, episodes_part = buffer[ends[0] : middle], buffer[middle:]
        return OpenedMessage(
            buffer,
            layout,
            finals_part,
            episodes_part,
            actor,
            number,
            header.source,
            header.version,
        )

    def read(self, buffer: Buffer, version: int) -> Rollout:
        """Return the rollout in a message.

        Args:
            buffer: The message.
            version: Version of the parameters, for the rollout.

        Returns:
            Rollout, with arrays that are views of the buffer.

        Raises:
            ProtocolError: If the length of the message contradicts its headers.
        """
        return self._read_one(self.open(buffer), version)

    def read_together(self, messages: Sequence[OpenedMessage]) -> list[Rollout]:
        """Combine messages of one slot each into one rollout for each number of steps.

        Args:
            messages: Messages with E = 1.

        Returns:
            Rollouts. A rollout of several messages holds copies, has the oldest version and the first
            message's actor, and has no `episodes`. A message that alone has its number of steps becomes a
            rollout as from `read`.
        """
        by_steps: dict[int, list[OpenedMessage]] = {}
        for message in messages:
            by_steps.setdefault(message.layout.steps, []).append(message)
        return [
            self._read_one(group[0], group[0].version) if len(group) == 1 else _combine(group)
            for group in by_steps.values()
        ]

    def _read_one(self, message: OpenedMessage, version: int) -> Rollout:
        layout = message.layout
        finals, episodes = (
            message.finals.view(layout.final_dtype),
            message.episodes.view(layout.episode_dtype),
        )
        return layout.rollout_of(
            message.buffer,
            finals,
            read_episodes(episodes, self.spec),
            version,
            message.actor,
            message.number,
        )

    def pack(self, rollout: Rollout) -> Buffer:
        """Return a new ROLLOUT message that holds a copy of the rollout.

        Its header contains version and trajectories only.
        """
        arena = RolloutArena(self.layout(rollout.steps, rollout.count))
        for name, array in arena.arrays.items():
            policy, _, own = name.rpartition("/")
            array[...] = getattr(rollout.policies[policy] if policy else rollout, own)
        for k, (step, slot) in enumerate(rollout.final_index.tolist()):
            observations = {name: policy.final_obs[k] for name, policy in rollout.policies.items()}
            arena.finals.append(
                (
                    step,
                    FinalFrame(
                        slot, observations, None if rollout.final_state is None else rollout.final_state[k]
                    ),
                )
            )
        arena.episodes.extend(rollout.episodes)
        buffer, _ = arena.finish(rollout.version, rollout.actor, rollout.number)
        return write_header(buffer, Header(Kind.ROLLOUT, version=rollout.version, trajectories=rollout.count))


def _combine(messages: list[OpenedMessage]) -> Rollout:
    layout = messages[0].layout
    finals = np.concatenate([message.finals for message in messages]).view(layout.final_dtype)
    finals["slot"] = np.repeat(
        np.arange(len(messages)), [len(message.finals) // layout.final_dtype.itemsize for message in messages]
    )
    oldest = min(message.version for message in messages)
    return layout.side_by_side([message.buffer for message in messages], finals, oldest, messages[0].actor)


def read_episodes(records: Array, spec: EnvironmentSpec) -> list[Episode]:
    """Return the episodes in records of `RolloutLayout.episode_dtype`."""
    names = [policy.name for policy in spec.policies]
    return [
        Episode(
            slot,
            index,
            length,
            return_mean,
            dict(zip(names, returns.tolist(), strict=True)),
            bool(terminated),
            {} if isnan(win) else {"win": win},
        )
        for slot, terminated, index, length, return_mean, win, returns in records.tolist()
    ]
