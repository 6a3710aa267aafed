"""Base class of the round rules: a state machine over reports of (group, round, count).

    symbol -> variable: n -> groups, M -> batch, M_init -> initial_batch, M_i -> counts[i],
        round index -> round

Source: arXiv 2509.24305.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from hpcmarl.config.rounds import RuleConfig


# Commands that a simulation creates by the million are named tuples, which are cheap.
class Accept(NamedTuple):
    """Command: add the gradient of a group to its sum.

    Attributes:
        group: The group.
        age: Versions by which the newest parameters are ahead of the gradient.
    """

    group: int
    age: int


@dataclass(frozen=True)
class Drop:
    """Command: discard a gradient because its round has ended or its group is lost.

    Attributes:
        group: The group.
        count: Trajectories of the gradient.
        age: Versions by which the newest parameters are ahead of the gradient.
    """

    group: int
    count: int
    age: int


class Step(NamedTuple):
    """Command: end the round; combine the gradient sums and step the optimizer.

    Attributes:
        scales: Factor of each group's sum, or one factor for the pooled sum.
        total_scale: Factor of the combined sum.
    """

    scales: tuple[float, ...]
    total_scale: float


class Publish(NamedTuple):
    """Command: send the new query point to groups.

    Actors of these groups abandon on-policy work for older rounds (late: cancel).

    Attributes:
        version: Version of the query point.
        groups: Groups that receive it.
    """

    version: int
    groups: tuple[int, ...]


class Close(NamedTuple):
    """Command: let groups deliver the trajectories under way, without beginning others.

    They report the end of this work through RoundRule.on_closed.

    Attributes:
        version: Round that has enough trajectories.
        groups: Groups that receive the command.
    """

    version: int
    groups: tuple[int, ...]


Command = Accept | Drop | Step | Publish | Close
POOLED = (1.0,)  # scales of the one sum of a pooled rule


class RoundRule(ABC):
    """Count trajectories by group until the round is complete.

    The direction of a round is

        total_scale(sum of M_i) · sum_i local_scale(M_i) · S_i

    where S_i is the gradient sum of group i. A server multiplies in this order. Under AllReduce each learner
    scales its own S_i and multiplies by total_scale after the reduction.

    If the ranks of a group have died, the rule does not wait for it any more and continues with the groups in
    `present`.

    Args:
        groups: Number of groups, n.
        batch: Trajectories of a round, M.
        initial_batch: Trajectories of the first round, M_init; None: M.
        config: Configuration of a rule outside hpcmarl, an instance of `config_class`; None: it has none.

    Attributes:
        config_class: Keys of the rule in the section `rounds.rule`; for rules outside hpcmarl.
        pooled: Whether all local scales are 1, so that one sum serves for all groups.
        any_age: Whether a gradient of any version is accepted and ends a round. Otherwise gradients older
            than the round are dropped.
        waits: Whether a group delivers once, with its whole sum in one message, and waits for its next query
            point. Otherwise it continues until the round ends.
        summary: One line for help texts.
        round: Index of the present round.
        counts: Trajectories of the present round by group, [n].
        total: Sum of the counts.
        lost: Groups that have died.
        present: Groups that take part.
    """

    config_class: ClassVar[type[RuleConfig]] = RuleConfig
    pooled: ClassVar[bool] = True
    any_age: ClassVar[bool] = False
    waits: ClassVar[bool] = False
    summary: ClassVar[str] = ""

    def __init__(
        self, groups: int, batch: int, initial_batch: int | None = None, *, config: Any = None
    ) -> None:
        if groups < 1 or batch < 1:
            raise ValueError(f"a round needs at least one group and one trajectory, not {groups} and {batch}")
        self.config = config
        self.groups = groups
        self.batch = batch
        self.initial_batch = initial_batch or batch
        self.round = 0
        self.counts = [0] * groups
        self.total = 0
        self.lost: set[int] = set()
        self.present: tuple[int, ...] = tuple(range(groups))

    @property
    def in_order(self) -> bool:
        """Whether a group delivers its trajectories in the order in which they began.

        Long trajectories then count as often as short ones. True for most rules.
        """
        return True

    @property
    def target(self) -> int:
        """Trajectories that this round requires: M_init in round 0, then M."""
        return self.initial_batch if self.round == 0 else self.batch

    def quota(self, target: int | None = None) -> int | None:
        """Return the trajectories after which a group has done its share of a round and waits.

        Args:
            target: Trajectories of the round; None: those of the present round.

        Returns:
            The number, or None if groups continue until the round ends.
        """
        return (target or self.target) if len(self.present) == 1 else None

    def awaited(self) -> tuple[int, ...]:
        """Return the groups without which this round cannot end; empty if work of any group is enough."""
        return ()

    @abstractmethod
    def complete(self) -> bool:
        """Return whether the counts so far end the round."""

    def local_scale(self, count: int) -> float:
        """Return the factor of one group's gradient sum.

        Args:
            count: Trajectories in the sum; 0 if the group has none.
        """
        return 1.0 if count else 0.0

    def total_scale(self, total: int) -> float:
        """Return the factor of the combined sum.

        Args:
            total: Number of all trajectories in it.
        """
        return 1.0 / total

    def on_gradient(self, group: int, version: int, count: int) -> list[Command]:
        """Count a gradient.

        Args:
            group: Group that delivered it.
            version: Version of the parameters at which it was taken.
            count: Its trajectories.

        Returns:
            The commands to execute, in order.

        Raises:
            ValueError: The group is out of range, the count is below one or the version is in the future.
                This is a programming error.
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
        """Return a cheap necessary condition for the end of the round.

        With thousands of groups, `complete` is too expensive to evaluate for each gradient.
        """
        return self.total >= self.target

    def on_closed(self, group: int, version: int) -> list[Command]:
        """Record that a group has delivered all that it had begun in a round. Most rules never request this.

        Args:
            group: The group.
            version: The round of the Close command.

        Returns:
            The commands to execute, in order.
        """
        return []

    def on_lost(self, group: int) -> list[Command]:
        """Continue without a group that has died.

        Its gradients of this round still count if the rule is pooled. Otherwise they are left out.

        Args:
            group: The group.

        Returns:
            The commands to execute, in order.

        Raises:
            ValueError: It is the last group.
        """
        if self.present in ((group,), ()):
            raise ValueError(f"group {group} is the last one: the round cannot continue without it")
        self.lost.add(group)
        self.present = tuple(other for other in self.present if other != group)
        if not self.pooled:
            self._uncount(group)
        return self._close()

    def _close(self) -> list[Command]:
        """Return the commands that end the round, or none if it is not complete."""
        if not any(self.counts) or not self.complete():
            return []
        scales = POOLED if self.pooled else tuple(map(self.local_scale, self.counts))
        step = Step(scales, self.total_scale(sum(self.counts)))
        self.round += 1
        self._begin()
        return [step, Publish(self.round, self.present)]

    def _begin(self) -> None:
        """Begin a round with counts of zero."""
        self.counts = [0] * self.groups
        self.total = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the index of the round.

        Counts of an unfinished round are not part of the state, since its gradients are not either.
        """
        return {"round": self.round}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.round = int(state["round"])
        self._begin()


def share(target: int, groups: int) -> int:
    """Return an equal share of a round's trajectories, rounded up."""
    return math.ceil(target / groups)
