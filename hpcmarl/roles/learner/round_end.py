"""Know when everything that a group had begun in a round has arrived at its learner (rounds.admission:
all_begun).
"""

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
        self._version: int | None = None  # whose round is being closed, or is closed
        self._told = False

    @property
    def closing(self) -> bool:
        """Whether the round is being closed, or is closed, and the next version has not come yet."""
        return self._version is not None

    def on_version(self, version: int) -> None:
        """New parameters have come. The word that their round has enough may have come before them."""
        self.arrived.clear()
        if self._version is not None and self._version < version:
            self._version = None

    def begin(self, version: int) -> None:
        """The server wants the round of `version` closed."""
        self._version, self._sent, self._told = version, {}, False

    def closed(self, actor: int, version: int, sent: int) -> None:
        """An actor has nothing under way any more; it has sent so many trajectories of the version."""
        if version == self._version:
            self._sent[actor] = sent

    def due(self) -> int | None:
        """Return the version whose round is closed here, once; None where something is still to come."""
        waits = any(
            self.arrived[actor] < self._sent.get(actor, self.arrived[actor] + 1) for actor in self.actors
        )
        if self._version is None or self._told or waits:
            return None
        self._told = True
        return self._version
