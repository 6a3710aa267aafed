"""What every round rule is: a state machine over reports of (group, round, count). Called by the engine only.

Legend (arXiv 2509.24305): n -> groups, M -> batch, M_init -> initial_batch, M_i -> counts[i], round index ->
    round.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple


# Named tuples where a simulation makes millions of them.
class Accept(NamedTuple):
    """Add this group's gradient to its sum; `age`: by how many versions the newest parameters are ahead of
    it.
    """

    group: int
    age: int


@dataclass(frozen=True)
class Drop:
    """This gradient is late: it was made for an older round, and `count` trajectories are wasted."""

    group: int
    count: int
    age: int


class Step(NamedTuple):
    """The round is complete: combine the sums with `scales` (one a group, or one for the pooled sum),
    multiply by `total_scale` and step.
    """

    scales: tuple[float, ...]
    total_scale: float


class Publish(NamedTuple):
    """Send the new point of version `version` to `groups`; whoever works for an older round abandons it
    (late: cancel).
    """

    version: int
    groups: tuple[int, ...]


class Close(NamedTuple):
    """Round `version` has enough: `groups` begin no further trajectory, deliver those under way, and say so
    (RoundRule.on_closed).
    """

    version: int
    groups: tuple[int, ...]


Command = Accept | Drop | Step | Publish | Close
POOLED = (1.0,)  # scales of the one sum of a pooled rule


class RoundRule(ABC):
    """Counts trajectories by group until the round is complete.

    The direction of a round is  total_scale(sum of M_i) · sum_i local_scale(M_i) · S_i,  where S_i is group
        i's gradient sum:
    a server multiplies so, and under AllReduce each learner scales its own S_i and divides after the
    reduction. `pooled`: all local scales are 1, so that one sum serves for all groups. `any_age`: a gradient
    of any version is accepted and is a round by itself; else what is older than the round is dropped.
    `waits`: a group delivers once and waits for its next point, with its sum in that message; else it goes on
    until the round ends. `in_order`: whether a group delivers its trajectories in the order in which they
    began, so that long ones count as often as short ones.

    A group that is lost (its ranks have died) is not waited for any more; the rule goes on with those that
    are `present`.
    """

    pooled: ClassVar[bool] = True
    any_age: ClassVar[bool] = False
    waits: ClassVar[bool] = False
    summary: ClassVar[str] = ""

    def __init__(self, groups: int, batch: int, initial_batch: int | None = None) -> None:
        if groups < 1 or batch < 1:
            raise ValueError(f"a round needs at least one group and one trajectory, not {groups} and {batch}")
        self.groups = groups
        self.batch = batch
        self.initial_batch = initial_batch or batch
        self.round = 0
        self.counts = [0] * groups
        self.total = 0  # of the counts: no round ends before it reaches the target
        self.lost: set[int] = set()
        self.present: tuple[int, ...] = tuple(range(groups))  # the groups that take part

    @property
    def in_order(self) -> bool:
        """See the class; most rules count in order."""
        return True

    @property
    def target(self) -> int:
        """Trajectories that this round asks for: M_init in round 0, then M."""
        return self.initial_batch if self.round == 0 else self.batch

    def quota(self, target: int | None = None) -> int | None:
        """After how many trajectories a group has done its share of the round and waits; None: it goes on
        until the round ends.

        `target` is the round's number of trajectories (default: of the present round).
        """
        return (target or self.target) if len(self.present) == 1 else None

    def awaited(self) -> tuple[int, ...]:
        """The groups without which this round cannot end; none where anybody's work will do."""
        return ()

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
        """Take note of `count` trajectories of `group` at the parameters `version`; returns what to do, in
        order.

        Raises ValueError for a group out of range, a count below one or a version of the future: a
        programming error.
        """
        self._check(group, version, count)
        if version < self.round or group in self.lost:
            return [Drop(group, count, self.round - version)]
        self._count(group, count)
        accept = Accept(group, 0)
        return [accept, *self._close()] if self._may_end() else [accept]

    def _check(self, group: int, version: int, count: int) -> None:
        if not 0 <= group < self.groups or count < 1 or version > self.round:
            raise ValueError(
                f"group {group} of {self.groups}, count {count}, version {version} in round {self.round}"
            )

    def _count(self, group: int, count: int) -> None:
        self.counts[group] += count
        self.total += count

    def _uncount(self, group: int) -> None:
        self.total -= self.counts[group]
        self.counts[group] = 0

    def _may_end(self) -> bool:
        """A cheap condition without which the round is not complete: with thousands of groups `complete` is
        not asked for each gradient.
        """
        return self.total >= self.target

    def on_closed(self, group: int, version: int) -> list[Command]:
        """A group has delivered all that it had begun in the round `version`, as Close asked. Most rules
        never ask.
        """
        return []

    def on_lost(self, group: int) -> list[Command]:
        """A group has died: what it delivered in this round still counts where one sum serves for all; nobody
        waits for more.

        Raises ValueError for the last group: there is nobody left to go on with.
        """
        if self.present in ((group,), ()):
            raise ValueError(f"group {group} is the last one")
        self.lost.add(group)
        self.present = tuple(other for other in self.present if other != group)
        if not self.pooled:
            self._uncount(group)
        return self._close()

    def _close(self) -> list[Command]:
        """The commands that end the round, if it is complete."""
        if not any(self.counts) or not self.complete():
            return []
        scales = POOLED if self.pooled else tuple(map(self.local_scale, self.counts))
        step = Step(scales, self.total_scale(sum(self.counts)))
        self.round += 1
        self._begin()
        return [step, Publish(self.round, self.present)]

    def _begin(self) -> None:
        """A round begins: nothing is counted yet."""
        self.counts = [0] * self.groups
        self.total = 0

    def state_dict(self) -> dict[str, Any]:
        """The round's index; counts of an unfinished round are not kept, since their gradients are not
        either.
        """
        return {"round": self.round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round = int(state["round"])
        self._begin()


def share(target: int, groups: int) -> int:
    """An equal share of a round, rounded up."""
    return math.ceil(target / groups)
