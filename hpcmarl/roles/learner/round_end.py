"""Detect that a group has delivered everything it had begun in a round (rounds.admission: all_begun)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class RoundEnd:
    """Compare the trajectories that actors report as sent with those that have arrived.

    Attributes:
        actors: Ranks of the living actors.
        arrived: Trajectories of the present version that have arrived, by rank of the actor.
    """

    def __init__(self, actors: Iterable[int]) -> None:
        self.actors = set(actors)
        self.arrived: Counter[int] = Counter()
        self._sent: dict[int, int] = {}
        self._version: int | None = None  # version of the round that is closing or closed
        self._has_reported = False

    @property
    def closing(self) -> bool:
        """Whether the round is closing or closed, and the next version has not come yet."""
        return self._version is not None

    def on_version(self, version: int) -> None:
        """Begin the round of new parameters.

        The CLOSE of that round may have arrived before its parameters; it is then kept.
        """
        self.arrived.clear()
        if self._version is not None and self._version < version:
            self._version = None

    def begin(self, version: int) -> None:
        """Begin to close the round of `version`, as the server requested."""
        self._version, self._sent, self._has_reported = version, {}, False

    def closed(self, actor: int, version: int, sent: int) -> None:
        """Record that an actor has no trajectory of the round under way any more.

        Args:
            actor: Its rank.
            version: Version of the round.
            sent: Trajectories of this version that the actor has sent.
        """
        if version == self._version:
            self._sent[actor] = sent

    def due(self) -> int | None:
        """Return the version whose round is now complete in this group, once; otherwise None."""
        waits = any(
            self.arrived[actor] < self._sent.get(actor, self.arrived[actor] + 1) for actor in self.actors
        )
        if self._version is None or self._has_reported or waits:
            return None
        self._has_reported = True
        return self._version
