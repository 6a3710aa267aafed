"""Values of a preset for the keys that neither the file nor the command line sets.

The layers, from weakest to strongest: schema defaults, preset, file, command line. A resolved configuration
holds the values of the preset instead of its name. So it keeps its meaning when a later version of hpcmarl
changes the preset.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence
from typing import Any

from hpcmarl.config.presets import PRESETS, Preset
from hpcmarl.config.tree import COMMAND_LINE, Tree, show
from hpcmarl.config.yaml_text import Place
from hpcmarl.errors import ConfigError

KEY: Place = ("preset",)


def choose_preset(tree: Tree, changes: Sequence[tuple[Place, Any]]) -> Preset | None:
    """Find the preset of a configuration, and set the section names that it chooses.

    Overrides of `algo.name` or `optimizer.name` are applied later and switch from these names.

    Args:
        tree: Values of the file. Sections without a name get the name that the preset chooses.
        changes: Places and values from the command line, not applied yet.

    Returns:
        The preset, or None if the configuration names none.

    Raises:
        ConfigError: If there is no preset of that name.
    """
    given = [value for place, value in changes if place == KEY]
    named = given[-1] if given else tree.data.get("preset")
    if named is None:
        return None
    preset = PRESETS.get(named) if isinstance(named, str) else None
    if preset is None:
        raise ConfigError(
            f"{COMMAND_LINE if given else tree.origin(KEY)}: preset is {show(named)}; {_allowed(named)}"
        )
    for section, choice in preset.choices.items():
        values = tree.data.setdefault(section, {})
        if isinstance(values, dict):
            values.setdefault("name", choice)
    return preset


def fill_preset(tree: Tree, preset: Preset) -> None:
    """Set the preset's values for keys that are not set yet, and remove the key `preset` from the tree.

    A section for which the user chose another name gets no values: a step size for RMSprop does not suit
    Adam.

    Args:
        tree: Values of the file and the command line; changed in place.
        preset: Preset found by `choose_preset`.

    Raises:
        ConfigError: If `algo.name` is another algorithm than the preset's, or if every key is set already.
    """
    tree.data.pop("preset", None)
    tree.preset = preset.name
    others = {
        section for section, choice in preset.choices.items() if _name_of(tree, section, choice) != choice
    }
    if "algo" in others:
        raise ConfigError(_other_algorithm(tree, preset))
    filled = 0
    for key, setting in preset.settings.items():
        place = tuple(key.split("."))
        if place[0] not in others:
            filled += _set_where_missing(tree.data, place, setting.value) and place[-1] != "name"
    if not filled:
        raise ConfigError(
            f"{tree.origin(KEY)}: preset: {preset.name} has no effect, because {tree.source} sets all of its "
            "keys; remove preset, or the keys that it should set"
        )


def _set_where_missing(data: dict[str, Any], place: Place, value: Any) -> bool:
    """Set a value unless the key has one, and return whether it was set.

    If the path leads through a value that is not a section, nothing is set; the schema reports the mistake.
    """
    section: Any = data
    for key in place[:-1]:
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            return False
    if place[-1] in section:
        return False
    section[place[-1]] = copy.copy(value)
    return True


def _name_of(tree: Tree, section: str, choice: str) -> Any:
    """Return the `name` of a section, or the preset's choice if the section has none."""
    values = tree.data.get(section)
    return values.get("name", choice) if isinstance(values, dict) else choice


def _other_algorithm(tree: Tree, preset: Preset) -> str:
    actual, own = tree.data["algo"]["name"], preset.choices["algo"]
    shown = show(actual).strip("'")
    fitting = [name for name, other in PRESETS.items() if other.choices["algo"] == actual]
    remedy = f", or use preset: {' or '.join(fitting)}" if fitting else ""
    line = (
        f"{tree.origin(('algo', 'name'))}: algo.name is {shown}, but preset: {preset.name} is for "
        f"algo.name: {own}; remove one of them{remedy}"
    )
    return " ".join(line.split())


def _allowed(named: Any) -> str:
    words = str(named).lower().replace("-", "_")
    near = difflib.get_close_matches(words, list(PRESETS), n=1) if isinstance(named, str) else []
    return (f"did you mean {near[0]}? " if near else "") + f"allowed: {', '.join(PRESETS)} or null"
