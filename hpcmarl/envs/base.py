"""Interface of batched environments, the arrays that they fill, and the seeds of episodes.

A batched environment steps many environment slots together and writes the results into arrays in place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hpcmarl.envs.drawing import Drawing
from hpcmarl.types import (
    Array,
    BoolArray,
    EnvironmentSpec,
    Frame,
    IntArray,
    ObservationPart,
    Outcome,
    PolicyFrame,
    PolicyOutcome,
)

SEED_BLOCK = 64
# An observation counts as an image from this number of elements on.
# An image of 64x64x3 passes; a chess board of 8x8x111 does not.
IMAGE_SIZE = 10_000


@dataclass(frozen=True)
class Seeds:
    """Source of the seeds of the episodes in this process.

    Attributes:
        seed: Seed of the run.
        first_slot: Number of slot 0 among all slots of the run.
    """

    seed: int
    first_slot: int = 0


def episode_seed(seed: int, slot: int, index: int) -> int:
    """Return the seed of one episode.

    The seed has 31 bits because some environments refuse larger or negative seeds.

    Args:
        seed: Seed of the run.
        slot: Number of the slot in the run.
        index: Index of the episode in the slot.
    """
    block, place = divmod(index, SEED_BLOCK)
    return _seed_block(seed, slot, block)[place]


@lru_cache(maxsize=4096)
def _seed_block(seed: int, slot: int, block: int) -> list[int]:
    """Return the seeds of SEED_BLOCK episodes.

    Hashing them together costs little more than hashing one.
    """
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(slot, block))
    return (sequence.generate_state(SEED_BLOCK) & 0x7FFFFFFF).tolist()  # type: ignore[no-any-return]


class BatchedEnvironment(ABC):
    """Several independent copies of one environment, stepped together.

    A finished slot begins its next episode inside `step()`. Then `frame` holds the first observations of the
    new episode, with `episode_start` true. `outcome.finals` holds the last observations of a truncated
    episode, and `outcome.episodes` its length and returns.

    Each call overwrites every element of `frame` and `outcome`; the arrays are never replaced.

    Attributes:
        spec: Specification of the environment.
        slots: Number E of copies.
        counts: Counters of this process: restarts, hangs (failures by time-out), bad_numbers (episodes cut
            off because of non-finite values), quarantined (slots excluded after failures).
        episode_index: Current episode of each slot, int64 [E].
        episode_step: Index of the next step in that episode, int64 [E].
        rests_next: Slots that rest after their current episode instead of beginning another one, bool [E].
            The caller writes it.
        final_drawings: Receives the drawing of the end of each episode, by slot. None: none is made. The
            caller writes it.
    """

    spec: EnvironmentSpec
    slots: int
    counts: Counter[str]
    episode_index: IntArray
    episode_step: IntArray
    rests_next: BoolArray
    final_drawings: dict[int, Drawing | None] | None = None

    def drawing(self, slot: int) -> Drawing | None:
        """Return a drawing of the present moment in a slot.

        Args:
            slot: The slot.

        Returns:
            The drawing; None if the environment cannot be drawn.
        """
        return None

    def keep_numbers_in(self, episode_index: IntArray, episode_step: IntArray, rests_next: BoolArray) -> None:
        """Keep the attributes of these names in arrays of the caller, for example in shared memory.

        Args:
            episode_index: Receives the present values, int64 [E].
            episode_step: Receives the present values, int64 [E].
            rests_next: Read from now on, bool [E].
        """
        episode_index[:], episode_step[:] = self.episode_index, self.episode_step
        self.episode_index, self.episode_step, self.rests_next = episode_index, episode_step, rests_next

    @property
    def retired(self) -> Collection[int]:
        """Slots in quarantine, because their environments failed too often."""
        return ()

    @abstractmethod
    def reset(self, frame: Frame) -> None:
        """Begin a new episode in every slot and write the first observations into `frame`."""

    @abstractmethod
    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        """Take one step in every slot, and write `outcome` and the next `frame`.

        Args:
            actions: Actions of each policy, [E, N, *action.shape]. Actions of agents that are not alive are
                ignored.
            outcome: Rewards, flags and finished episodes of the step; overwritten.
            frame: Observations before the next step; overwritten.

        Raises:
            EnvironmentFailure: If an environment failed more often than `env.restarts` allows, or broke the
                PettingZoo contract.
        """

    @abstractmethod
    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        """Abandon the unfinished episodes of these slots and begin new ones.

        Args:
            slots: Slots to restart.
            frame: Arrays to write; only the rows of these slots change.
        """

    @abstractmethod
    def rest_slots(self, slots: Sequence[int]) -> None:
        """Exclude these slots from the next steps until `restart_slots` names them.

        Their episodes are abandoned. No agent is alive in a resting slot.
        """

    @property
    def immediate(self) -> bool:
        """Whether every operation is complete when it returns, so that `poll` is not needed."""
        return True

    @property
    def hidden(self) -> tuple[dict[str, PolicyFrame], dict[str, PolicyOutcome]] | None:
        """Observations and outcomes of policies that no arena holds, where other processes write them.

        None: the caller of an operation provides them.
        """
        return None

    def prepare(self, environments: Sequence[Any]) -> None:  # noqa: B027
        """Prepare the next step of several environments of this kind together.

        Args:
            environments: The environments, this one among them.
        """

    def poll(self) -> bool:
        """Return whether the last operation is complete, so that its results may be read.

        Environments in this process are always complete. Those that other processes step return from `reset`,
        `step`, `restart_slots` and `load_state_dict` at once, and write the results later. Until this method
        returns True, no other operation may begin, and the arrays of the operation must not be read.
        """
        return True

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`, as nested dictionaries of arrays and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Restore a saved state and write `frame`.

        A recording environment continues where the state was taken. Other environments begin the next
        episodes.

        Args:
            state: Result of `state_dict()`.
            frame: Observations before the next step; overwritten.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the environments. A second call has no effect."""


def new_frame(spec: EnvironmentSpec, slots: int, with_state: bool = False) -> Frame:
    """Return a zeroed frame.

    Args:
        spec: Specification of the environment.
        slots: Number of slots.
        with_state: Allocate `state`, if the environment has one.
    """
    policies = {}
    for policy in spec.policies:
        shape = (slots, len(policy.agents))
        policies[policy.name] = PolicyFrame(
            obs=np.zeros((*shape, *policy.observation_shape), policy.observation_dtype),
            alive=np.zeros(shape, np.bool_),
            action_mask=np.ones((*shape, policy.action.mask_size), np.bool_) if policy.has_mask else None,
        )
    state = (
        np.zeros((slots, spec.state_size), np.float32) if with_state and spec.state_size is not None else None
    )
    return Frame(policies=policies, state=state, episode_start=np.zeros(slots, np.bool_))


def new_outcome(spec: EnvironmentSpec, slots: int) -> Outcome:
    """Return a zeroed outcome for `slots` slots."""
    policies = {}
    for policy in spec.policies:
        shape = (slots, len(policy.agents))
        policies[policy.name] = PolicyOutcome(
            np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        )
    return Outcome(policies=policies, episode_end=np.zeros(slots, np.uint8))


def image_remark(spec: EnvironmentSpec, encoder: str) -> str:
    """Return one line about images that networks see as flat rows of numbers; empty if there are none.

    Args:
        spec: The environment.
        encoder: Value of algo.network.encoder. "auto" has convolutions for uint8 images only.
    """
    if encoder not in ("auto", "flat"):
        return ""
    images = {
        policy.name: part
        for policy in spec.policies
        for part in policy.observation_parts
        or (ObservationPart("", policy.observation_shape, policy.observation_type),)
        if len(part.shape) == 3 and part.size >= IMAGE_SIZE and (encoder == "flat" or part.dtype != "uint8")
    }
    if not images:
        return ""
    first = next(iter(images.values()))
    description = (
        f"the observations of {', '.join(images)} look like images ({'x'.join(map(str, first.shape))} "
        f"{first.dtype}, {first.size:,} numbers)"
    )
    return f"{description}: with algo.network.encoder: {encoder}, networks see them flattened and unscaled"
