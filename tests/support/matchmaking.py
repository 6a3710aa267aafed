"""A validated matchmaking section, and a mixture as a dictionary."""

from pydantic import TypeAdapter

from hpcmarl.config.league import MatchmakingConfig
from hpcmarl.league.core.matchmaking import SELF


def section(**keys):
    return TypeAdapter(MatchmakingConfig).validate_python(keys)


def chances(mixture):
    return {SELF: mixture.self_share} | dict(
        zip(mixture.snapshots.tolist(), mixture.weights.tolist(), strict=True)
    )
