"""Know when everything that a group had begun in a round has arrived at its learner (rounds.admission: all_begun)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class RoundEnd:
    """Compare what actors say they have sent with what has arrived.

    Attributes:
        actors: Ranks of the living actors.
        arrived: Trajectories of the present version by actor.
    """

    def __init__(self, actors: Iterable[int]) -> None:
        self.actors = set(actors)
        self.arrived: Counter[int] = Counter()
        self._sent: dict[int, int] = {}
        self._version: int | None = None  # that is being closed

    def reset(self) -> None:
        """A new version has come."""
        self.arrived.clear()
        self._sent.clear()
        self._version = None

    def begin(self, version: int) -> None:
        """The server wants the round of `version` closed."""
        self._version = version

    def closed(self, actor: int, version: int, sent: int) -> None:
        """An actor has nothing under way any more; it has sent so many trajectories of the version."""
        if version == self._version:
            self._sent[actor] = sent

    def due(self) -> bool:
        """Whether all has arrived; true once a round."""
        if self._version is None or any(self.arrived[actor] < self._sent.get(actor, self.arrived[actor] + 1) for actor in self.actors):
            return False
        self._version = None
        return True
