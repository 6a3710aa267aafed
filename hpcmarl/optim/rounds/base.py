"""What every round rule is: a state machine over reports of (group, round, count). Called by the engine only.

Legend (arXiv 2509.24305): n -> groups, M -> batch, M_init -> initial_batch, M_i -> counts[i], round index -> round.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Accept:
    """Add this group's gradient to its sum."""

    group: int


@dataclass(frozen=True)
class Drop:
    """This gradient is late: it was made for an older round, and `count` trajectories are wasted."""

    group: int
    count: int
    age: int


@dataclass(frozen=True)
class Step:
    """The round is complete: combine the sums with `scales` (one a group), multiply by `total_scale` and step."""

    scales: tuple[float, ...]
    total_scale: float


@dataclass(frozen=True)
class Publish:
    """Send the new point of version `version` to `groups`; whoever works for an older round abandons it (late: cancel)."""

    version: int
    groups: tuple[int, ...]


Command = Accept | Drop | Step | Publish


class RoundRule(ABC):
    """Counts trajectories by group until the round is complete.

    The direction of a round is  total_scale(sum of M_i) · sum_i local_scale(M_i) · S_i,  where S_i is group i's gradient sum:
    a server multiplies so, and under AllReduce each learner scales its own S_i and divides after the reduction.
    `pooled`: all local scales are 1, so that one sum serves for all groups.

    A group that is lost (its ranks have died) is not waited for any more; the rule goes on with those that are `present`.
    """

    pooled: ClassVar[bool] = True
    summary: ClassVar[str] = ""

    def __init__(self, groups: int, batch: int, initial_batch: int | None = None) -> None:
        if groups < 1 or batch < 1:
            raise ValueError(f"a round needs at least one group and one trajectory, not {groups} and {batch}")
        self.groups = groups
        self.batch = batch
        self.initial_batch = initial_batch or batch
        self.round = 0
        self.counts = [0] * groups
        self.lost: set[int] = set()

    @property
    def present(self) -> tuple[int, ...]:
        """The groups that take part."""
        return tuple(group for group in range(self.groups) if group not in self.lost)

    @property
    def target(self) -> int:
        """Trajectories that this round asks for: M_init in round 0, then M."""
        return self.initial_batch if self.round == 0 else self.batch

    def quota(self, target: int | None = None) -> int | None:
        """After how many trajectories a group has done its share of the round and waits; None: it goes on until the round ends.

        `target` is the round's number of trajectories (default: of the present round)."""
        return (target or self.target) if len(self.present) == 1 else None

    @abstractmethod
    def complete(self) -> bool:
        """Whether the counts so far end the round."""

    def local_scale(self, count: int) -> float:
        """Factor of one group's sum, given its own count (0 when it has none)."""
        return 1.0 if count else 0.0

    def total_scale(self, total: int) -> float:
        """Factor of the combined sum, given the number of all trajectories."""
        return 1.0 / total

    def on_gradient(self, group: int, version: int, count: int) -> list[Command]:
        """Take note of `count` trajectories of `group` at the parameters `version`; returns what to do, in order.

        Raises ValueError for a group out of range, a count below one or a version of the future: a programming error."""
        if not 0 <= group < self.groups or count < 1 or version > self.round:
            raise ValueError(f"group {group} of {self.groups}, count {count}, version {version} in round {self.round}")
        if version < self.round or group in self.lost:
            return [Drop(group, count, self.round - version)]
        self.counts[group] += count
        return [Accept(group), *self._close()]

    def on_lost(self, group: int) -> list[Command]:
        """A group has died: what it delivered in this round still counts where one sum serves for all; nobody waits for more.

        Raises ValueError for the last group: there is nobody left to go on with."""
        if self.present in ((group,), ()):
            raise ValueError(f"group {group} is the last one")
        self.lost.add(group)
        if not self.pooled:
            self.counts[group] = 0
        return self._close()

    def _close(self) -> list[Command]:
        """The commands that end the round, if it is complete."""
        if not any(self.counts) or not self.complete():
            return []
        step = Step(tuple(map(self.local_scale, self.counts)), self.total_scale(sum(self.counts)))
        self.round += 1
        self.counts = [0] * self.groups
        return [step, Publish(self.round, self.present)]

    def state_dict(self) -> dict[str, Any]:
        """The round's index; counts of an unfinished round are not kept, since their gradients are not either."""
        return {"round": self.round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round = int(state["round"])
        self.counts = [0] * self.groups


def share(target: int, groups: int) -> int:
    """An equal share of a round, rounded up."""
    return math.ceil(target / groups)
