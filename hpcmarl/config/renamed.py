"""Former names of keys and values of the configuration, for error messages. None of them is accepted."""

from __future__ import annotations

from collections.abc import Sequence

# (section, old key) -> new key of the same section
RENAMED_KEYS = {
    ("topology", "silence_seconds"): "heartbeat_timeout_seconds",
    ("env", "past_restarts"): "on_restart_limit",
    ("replay", "starts"): "learning_starts",
    ("replay", "ratio"): "samples_per_insert",
    ("sparse", "acting"): "inference",
    ("sparse", "learning"): "training",
    ("network", "recurrent"): "body",
    ("critic_network", "recurrent"): "body",
}

# key -> old value -> new value
RENAMED_VALUES = {
    "critic": {"obs": "joint_observation", "full": "state", "dec": "independent"},
    "mixer_state": {"obs": "joint_observation", "full": "state"},
    "placement": {"beside": "colocated", "apart": "separate"},
}


def renamed_key(path: Sequence[object]) -> str | None:
    """Return the present name of a key that was renamed, or None.

    Args:
        path: Sections from the root on, then the unknown key.
    """
    section, key = ([""] + [str(part) for part in path])[-2:]
    return RENAMED_KEYS.get((section, key))


def renamed_value(path: Sequence[object], value: object) -> str | None:
    """Return the present name of a value that was renamed, or None.

    Args:
        path: Sections from the root on, then the key.
        value: Value that the key does not allow.
    """
    return RENAMED_VALUES.get(str(path[-1]), {}).get(value) if path and isinstance(value, str) else None
