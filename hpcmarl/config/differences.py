"""Differences between the present configuration of a run and that of an earlier start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hpcmarl.config import Config
from hpcmarl.config.file import dump_config
from hpcmarl.config.yaml_text import inline, parse


class Difference(NamedTuple):
    """A key and its two values as YAML; "-" if a configuration does not have the key."""

    key: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def differences(before: str, config: Config) -> list[Difference]:
    """List the keys whose values differ.

    Args:
        before: Earlier configuration, resolved, as YAML text.
        config: Present configuration.

    Returns:
        One entry for each key, in the order of the present configuration; removed keys come last.

    Raises:
        ConfigError: If `before` is not valid YAML.
    """
    old, new = (
        flat(parse(before, "the earlier configuration")[0]),
        flat(parse(dump_config(config), "the configuration")[0]),
    )
    return changed_keys(old, new)


def changed_keys(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    """List the keys whose values differ between two flat configurations (`flat`).

    Returns:
        One entry for each key, in the order of `new`; removed keys come last.
    """
    keys = [*new, *(key for key in old if key not in new)]
    return [
        Difference(key, old.get(key, "-"), new.get(key, "-"))
        for key in keys
        if old.get(key, "-") != new.get(key, "-")
    ]


def flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Return the values of a configuration in YAML's short form by dotted key; a list is one value.

    Args:
        tree: Configuration as plain values.
        prefix: Dotted key of the tree.
    """
    if not isinstance(tree, dict) or not tree:
        return {prefix: inline(tree)} if prefix else {}
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
