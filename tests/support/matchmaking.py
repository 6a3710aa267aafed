"""Helpers for tests of matchmaking."""

from pydantic import TypeAdapter

from hpcmarl.config.league import MatchmakingConfig
from hpcmarl.league.core.matchmaking import SELF


def section(**keys):
    """Return a validated matchmaking section."""
    return TypeAdapter(MatchmakingConfig).validate_python(keys)


def probabilities(mixture):
    """Return a mixture as a dictionary: snapshot number (or SELF) -> probability."""
    return {SELF: mixture.self_share} | dict(
        zip(mixture.snapshots.tolist(), mixture.weights.tolist(), strict=True)
    )
