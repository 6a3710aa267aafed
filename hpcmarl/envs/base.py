"""The interface that actors and evaluators see: many environment slots stepped together, written into arrays
in place.

Called by roles/. Knows numpy and the vocabulary of types.py; must not know PettingZoo, networks, ranks or
files. How one environment is driven stands in parallel.py and aec.py, how slots are kept running in batch.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hpcmarl.types import (
    Array,
    BoolArray,
    EnvironmentSpec,
    Frame,
    IntArray,
    Outcome,
    PolicyFrame,
    PolicyOutcome,
)

SEED_BLOCK = 64
IMAGE_SIZE = 10_000  # numbers: 64x64x3 is an image, a chess board's 8x8x111 is none


@dataclass(frozen=True)
class Seeds:
    """Where the episodes' seeds come from: the run's seed, and the number that slot 0 has among all slots of
    the run."""

    seed: int
    first_slot: int = 0


def episode_seed(seed: int, slot: int, index: int) -> int:
    """The seed of one episode: 31 bits that depend on the run's seed, the slot's number in the run and the
    episode's index.

    31 bits because some environments refuse larger or negative seeds.
    """
    block, place = divmod(index, SEED_BLOCK)
    return _seed_block(seed, slot, block)[place]


@lru_cache(maxsize=4096)
def _seed_block(seed: int, slot: int, block: int) -> list[int]:
    """The seeds of SEED_BLOCK episodes: hashing them together costs little more than hashing one."""
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(slot, block))
    return (sequence.generate_state(SEED_BLOCK) & 0x7FFFFFFF).tolist()  # type: ignore[no-any-return]


class BatchedEnvironment(ABC):
    """`slots` independent copies of one environment.

    Finished slots begin their next episode inside step(): `frame` then shows the new episode's first
    observations with episode_start true, `outcome.finals` the last observations where the episode was
    truncated, `outcome.episodes` what it came to. Every element of `frame` and `outcome` is overwritten at
    each call; the arrays are never replaced. `counts` of this process: restarts, hangs (of them, for want of
    time), bad_numbers (episodes cut off), quarantined (slots given up). `episode_index` and `episode_step`,
    int64 [E]: each slot's current episode, and the index in it of the coming step. `rests_next`, bool [E], is
    written by the caller: a slot that rests when its present episode is over, instead of beginning another
    one.
    """

    spec: EnvironmentSpec
    slots: int
    counts: Counter[str]
    episode_index: IntArray
    episode_step: IntArray
    rests_next: BoolArray

    @property
    def retired(self) -> Collection[int]:
        """Slots that were given up for good, because their environments broke too often."""
        return ()

    @abstractmethod
    def reset(self, frame: Frame) -> None:
        """Begin a new episode in every slot and write the first observations into `frame`."""

    @abstractmethod
    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        """Take one step in every slot. actions: policy -> [E, N, *action.shape]; actions of agents not alive
        are ignored.

        Writes `outcome` and the next `frame`. Raises EnvironmentFailure when an environment broke more often
        than env.restarts allows, or broke the PettingZoo contract.
        """

    @abstractmethod
    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        """Abandon the unfinished episodes of these slots and begin new ones; only their rows of `frame` are
        written."""

    @abstractmethod
    def rest_slots(self, slots: Sequence[int]) -> None:
        """Leave these slots out of coming steps, with nobody alive in them, until restart_slots names them;
        their episodes are abandoned."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs: nested dicts of arrays and plain values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Stand where `state` was taken (recording environments), or begin the episodes after it; writes
        `frame`."""

    @abstractmethod
    def close(self) -> None:
        """Close the environments. Harmless when called twice."""


def new_frame(spec: EnvironmentSpec, slots: int, with_state: bool = False) -> Frame:
    """A zeroed frame for `slots` slots; `state` is allocated only on request, and where the environment has
    one."""
    policies = {}
    for policy in spec.policies:
        shape = (slots, len(policy.agents))
        policies[policy.name] = PolicyFrame(
            obs=np.zeros((*shape, *policy.observation_shape), np.float32),
            alive=np.zeros(shape, np.bool_),
            action_mask=np.ones((*shape, policy.action.mask_size), np.bool_) if policy.has_mask else None,
        )
    state = (
        np.zeros((slots, spec.state_size), np.float32) if with_state and spec.state_size is not None else None
    )
    return Frame(policies=policies, state=state, episode_start=np.zeros(slots, np.bool_))


def new_outcome(spec: EnvironmentSpec, slots: int) -> Outcome:
    """A zeroed outcome for `slots` slots."""
    policies = {}
    for policy in spec.policies:
        shape = (slots, len(policy.agents))
        policies[policy.name] = PolicyOutcome(
            np.zeros(shape, np.float32), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        )
    return Outcome(policies=policies, episode_end=np.zeros(slots, np.uint8))


def image_remark(spec: EnvironmentSpec) -> str:
    """What to know about policies that see images, in one line; empty where none does."""
    seen = [
        policy
        for policy in spec.policies
        if len(policy.observation_shape) == 3 and policy.observation_size >= IMAGE_SIZE
    ]
    if not seen:
        return ""
    shape = "x".join(map(str, seen[0].observation_shape))
    what = (
        f"the observations of {', '.join(policy.name for policy in seen)} look like images ({shape}, "
        f"{seen[0].observation_size:,} numbers)"
    )
    return f"{what}: networks have no convolutions, they take them flat and unscaled"
