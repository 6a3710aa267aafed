"""On-policy episodes counted in the order in which they began, and the allotments of the actors."""

from __future__ import annotations

from collections import Counter, deque
from itertools import count, islice

from hpcmarl.algos.base import Algorithm
from hpcmarl.comm.topology import Group
from hpcmarl.comm.transport import Message
from hpcmarl.optim.rounds import RoundRule
from hpcmarl.roles.base import Context
from hpcmarl.roles.learner.rollout_source import GradientBatch, QueuedRollout, QueuedSource, batch_of_entries
from hpcmarl.types import Rollout

Place = tuple[int, int, int]  # rank of the actor, number of its replacements, number of the episode
WAVES_AHEAD = 2  # without a quota: the wave that is being played, and the next


class StartOrder(QueuedSource):
    """Hold back an episode until all that began before it have arrived.

    If the rule gives a group a quota, its actors begin exactly as many episodes, and all of them count. Under
    Malenia a group has no quota and continues until the round ends. It begins waves of M / n episodes one
    after another, and each wave counts as a whole.

    Attributes:
        allotment_changed: Whether allotments have changed since the learner last sent them to its actors.
    """

    in_order = True

    def __init__(self, context: Context, group: Group, rule: RoundRule, algorithm: Algorithm) -> None:
        super().__init__(context, group, rule, algorithm)
        self.allotment_changed = False
        self._lives = dict.fromkeys(group.actors, 0)  # living actors -> number of replacements so far
        self._replaced: Counter[int] = Counter()
        self._begun = dict.fromkeys(group.actors, 0)  # living actors -> episodes allotted in this version
        # Start of each actor's count; for a replacement, the least count of the others when it came.
        self._ahead = dict.fromkeys(group.actors, 0)
        self._expected: deque[Place] = deque()  # in the order in which they begin
        self._arrived: dict[Place, QueuedRollout] = {}
        self._ready: deque[QueuedRollout] = deque()
        self._version = -1
        self._allotted = 0  # episodes of the present version, without lost and refused ones

    # ---- allotments

    def allotment(self, rank: int) -> int:
        return self._begun.get(rank, 0)

    def on_version(self, version: int) -> None:
        super().on_version(version)
        for entry in (*self._arrived.values(), *self._ready):
            self._drop(entry, late=True)
        self._arrived.clear()
        self._ready.clear()
        self._expected.clear()
        self._begun = dict.fromkeys(self._lives, 0)
        self._ahead = dict.fromkeys(self._lives, 0)
        self._version, self._allotted = version, 0
        self._top_up()

    def on_groups_lost(self, version: int) -> None:  # the shares of the other groups grow
        self._top_up()

    def on_actor_lost(self, rank: int) -> None:  # the other actors play its missing episodes
        life = self._lives.pop(rank, None)
        gone = {place for place in self._expected if place[:2] == (rank, life) and place not in self._arrived}
        self._expected = deque(place for place in self._expected if place not in gone)
        self._allotted -= len(gone)
        self._top_up()

    def on_actor_replaced(self, rank: int) -> None:
        self._replaced[rank] += 1
        self._ahead[rank] = min((self._ahead[other] + self._begun[other] for other in self._lives), default=0)
        self._lives[rank], self._begun[rank] = self._replaced[rank], 0
        self._top_up()

    def _top_up(self) -> None:
        """Allot episodes to living actors until the group's quota, or the waves ahead, are complete."""
        if self._version < 0 or not self._lives:
            return
        quota = self._quota(self._version)
        missing = (
            WAVES_AHEAD * self._wave() - len(self._expected) - len(self._ready)
            if quota is None
            else quota - self._allotted
        )
        for _ in range(missing):
            rank = min(self._lives, key=lambda rank: self._ahead[rank] + self._begun[rank])
            self._expected.append((rank, self._lives[rank], self._begun[rank]))
            self._begun[rank] += 1
            self._allotted += 1
            self.allotment_changed = True

    def _wave(self) -> int:
        """Return the number of episodes in a wave, which make one gradient."""
        return self._outstanding(self._version, 0)

    # ---- episodes

    def add(self, message: Message, rollout: Rollout, version: int) -> None:
        if rollout.version != version:
            # Dropped there with late: cancel; with late: ignore the rule drops its gradient.
            super().add(message, rollout, version)
            return
        place = (message.source, self._lives.get(message.source, 0), rollout.number)
        self._arrived[place] = QueuedRollout(message, rollout, message.source, 1)
        while self._expected and self._expected[0] in self._arrived:
            self._ready.append(self._arrived.pop(self._expected.popleft()))

    def take(self, version: int, delivered: int) -> GradientBatch | None:
        if self.entries:
            return self._take_old()
        quota = self._quota(self._version)
        wanted = self._wave() if quota is None else quota - delivered
        if quota is not None and not self.context.config.deterministic:
            wanted = min(wanted, max(1, self.limit // 2))  # deliver a large share in parts
        if wanted <= 0 or len(self._ready) < wanted:
            return None
        taken = [self._ready.popleft() for _ in range(wanted)]
        self._top_up()
        return batch_of_entries(taken)

    def refuse(self, work: GradientBatch) -> None:
        super().refuse(work)
        if work.versions[0] == self._version:
            self._allotted -= work.count  # other episodes replace them
            self._top_up()

    def _take_old(self) -> GradientBatch | None:
        """Return the queued episodes of one older version. The rule drops their gradient."""
        first = self.entries[0].rollout.version
        same = next(
            (
                index
                for index, entry in zip(count(), self.entries, strict=False)
                if entry.rollout.version != first
            ),
            len(self.entries),
        )
        taken = list(islice(self.entries, same))
        for _ in taken:
            self.entries.popleft()
        return batch_of_entries(taken)

    def is_behind(self, version: int) -> bool:  # allotments already bound the number of rollouts
        return False

    def _has_plenty(self, version: int) -> bool:
        return False
