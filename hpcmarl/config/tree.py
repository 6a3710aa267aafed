"""Values of a configuration before validation: where each was written, and how overrides change them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from hpcmarl.config import Config, keys, yaml_text
from hpcmarl.config.yaml_text import Place
from hpcmarl.errors import ConfigError

COMMAND_LINE = "command line"
LARGEST_GROUPS = 65_536
# sections whose `name` decides which keys they have
CHOICES = ("algo", "objective", "optimizer")


@dataclass
class Tree:
    """Unvalidated values of a configuration, and the origin of each.

    Attributes:
        data: Values by key, nested.
        source: File that the values come from, for messages.
        root: Model of the whole file: of a run or of a simulation.
        changed_by: Origin of the overrides, for messages.
        lines: Line of each key in the file, counted from 1.
        overridden: Places that an override has set.
        preset: Name of the preset whose values were filled in; empty without one.
    """

    data: dict[str, Any]
    source: str
    root: type[BaseModel] = Config
    changed_by: str = COMMAND_LINE
    lines: dict[Place, int] = field(default_factory=dict)
    overridden: set[Place] = field(default_factory=set)
    preset: str = ""

    def origin(self, place: Place) -> str:
        """Return the origin of the value at `place`, for messages.

        Returns:
            "command line", or the file with the line of the key. If that line is not known, it is the line of
            the section around the key.
        """
        if any(place[: len(key)] == key or key[: len(place)] == place for key in self.overridden if place):
            return self.changed_by
        known = next(
            (place[:length] for length in range(len(place), 0, -1) if place[:length] in self.lines), None
        )
        return f"{self.source}, line {self.lines[known]}" if known else self.source


def apply_changes(tree: Tree, changes: Sequence[tuple[Place, Any]]) -> None:
    """Apply overrides to a tree.

    Args:
        tree: Changed in place.
        changes: Places and their new values.

    Raises:
        ConfigError: If a place leads into a value that has no keys, or names a list item that does not exist.
    """
    # A switch (algo.name, optimizer.name) drops the keys that the new choice does not have. Switches come
    # first, so that they drop keys of the file only and never an override.
    for place, value in sorted(changes, key=lambda item: not _is_switch(item[0])):
        if _is_switch(place):
            _switch(tree, str(place[0]), value)
        _assign(tree, place, value)


def parse_override(text: str) -> tuple[Place, Any]:
    """Parse `key.sub=value`.

    Returns:
        The place, and the value read as YAML.

    Raises:
        ConfigError: If the text has no key or no `=`, or if the value is not valid YAML.
    """
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(
            f"{COMMAND_LINE}: {show(text)} is not an override; write key.sub=value, for instance "
            "stop.seconds=60"
        )
    value, _ = yaml_text.parse(value_text, f"{COMMAND_LINE}: {key}={short(value_text)}")
    return place_of(key), value


def place_of(key: str) -> Place:
    """Return the parts of a dotted key; decimal numbers become item numbers."""
    return tuple(int(part) if part.isdecimal() and part.isascii() else part for part in key.split("."))


def _is_switch(place: Place) -> bool:
    return len(place) == 2 and place[0] in CHOICES and place[1] == "name"


def _switch(tree: Tree, section: str, name: Any) -> None:
    """Drop the keys of a section that its former choice has and the new one does not have.

    Keys that neither choice has stay, so that validation reports them.
    """
    values = tree.data.get(section)
    if section not in tree.root.model_fields or not isinstance(values, dict):
        return
    chosen = keys.model_of(section, name, tree.root)
    former = keys.model_of(section, values.get("name", _default_name(section, tree.root)), tree.root)
    if former is not None and chosen is not None:
        dropped = set(former.model_fields) - set(chosen.model_fields)
        tree.data[section] = {key: value for key, value in values.items() if key not in dropped}


def _assign(tree: Tree, place: Place, value: Any) -> None:
    """Write one override into the tree, and create the sections that its path needs.

    Raises:
        ConfigError: If the path leads through a value without keys or names a list item that does not exist.
    """
    container: Any = tree.data
    for depth, key in enumerate(place):
        last = depth == len(place) - 1
        if isinstance(container, list):
            if not isinstance(key, int) or key >= len(container):
                here = ".".join(map(str, place[:depth]))
                allowed = (
                    f"an item number from 0 to {len(container) - 1}"
                    if container
                    else "none, because the list is empty"
                )
                raise ConfigError(
                    f"{COMMAND_LINE}: {dotted(place)}: {here} has no item {key}; allowed: {allowed}"
                )
        elif isinstance(container, dict):
            # A number stays a number if the file has that key (in env.kwargs, say). Other keys are text.
            key = key if key in container else str(key)
        else:
            here = ".".join(map(str, place[:depth]))
            raise ConfigError(
                f"{COMMAND_LINE}: {dotted(place)}: {here} is {show(container)}, which has no keys; set "
                f"{here} itself"
            )
        if last:
            container[key] = value
            tree.overridden.add((*place[:depth], key))
            return
        below = container.get(key) if isinstance(container, dict) else container[key]
        if place[: depth + 1] == ("topology", "groups") and _is_group_count(below):
            below = [{} for _ in range(below or 1)]
        container[key] = {} if below is None else below
        container = container[key]


def _is_group_count(value: Any) -> bool:
    """Return whether `topology.groups` is a number of groups that can become a list.

    A number that is too large stays, so that the schema refuses it.
    """
    return value is None or (
        isinstance(value, int) and not isinstance(value, bool) and value <= LARGEST_GROUPS
    )


def fill_names(tree: Tree) -> None:
    """Set the default `name` in every section that has choices and leaves its name out."""
    for section in CHOICES:
        if isinstance(tree.data.get(section), dict) and section in tree.root.model_fields:
            tree.data[section] = {"name": _default_name(section, tree.root), **tree.data[section]}


def _default_name(section: str, root: type[BaseModel]) -> str:
    return str(root.model_fields[section].get_default(call_default_factory=True).name)


def dotted(place: Place) -> str:
    """Return the dotted key of a place, at most 120 characters."""
    return short(".".join(str(key) for key in place), 120)


def show(value: Any) -> str:
    """Return a value as messages show it: null, true, false, or Python's repr, at most 60 characters."""
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    return short(repr(value))


def short(text: str, limit: int = 60) -> str:
    """Return the text on one line, cut to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
