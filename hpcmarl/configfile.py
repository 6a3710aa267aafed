"""From a YAML file and command-line overrides to a Config, and back. Every mistake is one line that names the place and the remedy.

Called by the commands in cli.py and by whoever reads the config.yaml of a run. Needs PyYAML and pydantic only: knows no
environment, no rank and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpcmarl import configkeys, configyaml
from hpcmarl.config import Config, EnvConfig
from hpcmarl.configyaml import Place
from hpcmarl.errors import ConfigError

COMMAND_LINE = "command line"
LARGEST_GROUPS = 65_536
_CHOICES = ("algo", "optimizer")  # sections whose `name` decides which keys they have


@dataclass
class _Tree:
    """The values gathered so far, and where each came from."""

    data: dict[str, Any]
    source: str
    lines: dict[Place, int] = field(default_factory=dict)
    overridden: set[Place] = field(default_factory=set)

    def origin(self, place: Place) -> str:
        """Where the value at `place` was written: "command line", or the file with the line of the key or of its section."""
        if any(place[: len(key)] == key or key[: len(place)] == place for key in self.overridden if place):
            return COMMAND_LINE
        known = next((place[:length] for length in range(len(place), 0, -1) if place[:length] in self.lines), None)
        return f"{self.source}, line {self.lines[known]}" if known else self.source


def load_config(path_or_text: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, changed by `key.sub=value` overrides (values are YAML; list items by number).

    A Path, or text of one line, is a file; text with a line break is YAML itself (an empty section line "{}\\n" is the least).
    An override that switches algo.name or optimizer.name keeps the keys of that section which the new choice has too; its
    others fall back to the new choice's defaults. An override under topology.groups turns a number of groups into a list.

    Raises ConfigError, one line: file and line (or "command line"), dotted key, value, what is allowed, the nearest valid key.
    """
    if isinstance(path_or_text, Path) or "\n" not in path_or_text:
        content: bytes | str = configyaml.read_file(Path(path_or_text))
        source = str(path_or_text)
    else:
        content, source = path_or_text, "configuration text"
    data, lines = configyaml.parse(content, source)
    if data is None:
        raise ConfigError(f"{source}: empty; a configuration needs at least env.id and one of stop's keys (examples: configs/)")
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: holds {_kind(data)} where sections like env: and stop: are expected")
    tree = _Tree(data, source, lines)
    _apply_overrides(tree, overrides)
    _fill_names(tree.data)
    try:
        config = Config.model_validate(tree.data)
    except ValidationError as error:
        raise ConfigError(_explain(error, tree)) from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None
    _check_group_environments(config, tree)
    return config


def dump_config(config: Config) -> str:
    """YAML text of all values, defaults included, in the order of the schema. load_config gives an equal Config back."""
    return configyaml.write(_listed(config.model_dump(mode="python")))


def _check_group_environments(config: Config, tree: _Tree) -> None:
    """What differs in a group's environment is checked against the schema of `env`. Raises ConfigError."""
    for index, group in enumerate(config.topology.group_list):
        try:
            EnvConfig.model_validate({**config.env.model_dump(), **group.env})
        except ValidationError as error:
            raise ConfigError(_explain(error, tree, ("topology", "groups", index, "env"))) from None


def _listed(value: Any) -> Any:
    """Tuples as lists, which is all that YAML knows."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


# --- overrides -------------------------------------------------------------------------------------------------------


def _apply_overrides(tree: _Tree, overrides: Sequence[str]) -> None:
    parsed = [_parse_override(text) for text in overrides]
    # Switches first: what the new choice does not have is dropped from the file's keys, never from the other overrides.
    for place, value in sorted(parsed, key=lambda item: not _is_switch(item[0])):
        if _is_switch(place):
            _switch(tree.data, str(place[0]), value)
        _assign(tree, place, value)


def _parse_override(text: str) -> tuple[Place, Any]:
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(f"{COMMAND_LINE}: {_show(text)} is no override; write key.sub=value, for instance stop.seconds=60")
    value, _ = configyaml.parse(value_text, f"{COMMAND_LINE}: {key}={_short(value_text)}")
    return tuple(int(part) if part.isdecimal() and part.isascii() else part for part in key.split(".")), value


def _is_switch(place: Place) -> bool:
    return len(place) == 2 and place[0] in _CHOICES and place[1] == "name"


def _switch(data: dict[str, Any], section: str, name: Any) -> None:
    """Drop from a section the keys that its former choice has and the new one has not. Unknown keys stay, to be reported."""
    members = configkeys.members_of(section)
    values = data.get(section)
    if name not in members or not isinstance(values, dict):
        return
    former = members.get(values.get("name", _default_name(section)))
    if former is not None:
        dropped = set(former.model_fields) - set(members[name].model_fields)
        data[section] = {key: value for key, value in values.items() if key not in dropped}


def _assign(tree: _Tree, place: Place, value: Any) -> None:
    """Write one override into the tree, making sections on the way. Raises ConfigError where the way is blocked."""
    container: Any = tree.data
    for depth, key in enumerate(place):
        last = depth == len(place) - 1
        if isinstance(container, list):
            if not isinstance(key, int) or key >= len(container):
                here = ".".join(map(str, place[:depth]))
                allowed = f"an item number from 0 to {len(container) - 1}" if container else "none, the list is empty"
                raise ConfigError(f"{COMMAND_LINE}: {_dotted(place)}: {here} has no item {key}; allowed: {allowed}")
        elif isinstance(container, dict):
            # Keys that are numbers, as in env.kwargs, keep the kind they have in the file; elsewhere keys are text.
            key = key if key in container else str(key)
        else:
            here = ".".join(map(str, place[:depth]))
            raise ConfigError(f"{COMMAND_LINE}: {_dotted(place)}: {here} is {_show(container)}, which has no parts; set {here} itself")
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
    """Whether the groups are given as a number that may become a list: one that is too large is left for the schema to refuse."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value <= LARGEST_GROUPS)


def _fill_names(data: dict[str, Any]) -> None:
    """A section that leaves out `name` means the default choice, as a configuration without the section does."""
    for section in _CHOICES:
        if isinstance(data.get(section), dict):
            data[section] = {"name": _default_name(section), **data[section]}


def _default_name(section: str) -> str:
    return str(Config.model_fields[section].default.name)


# --- errors ----------------------------------------------------------------------------------------------------------


def _explain(error: ValidationError, tree: _Tree, section: Place = ()) -> str:
    """All of pydantic's findings in a section as one line: the first in full, the others by key."""
    found: dict[Place, dict[str, Any]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(section + _place(detail, _value_at(tree.data, section)), dict(detail))
    # The alternatives of a type each complain: what is wrong inside the one that was meant says more than the whole.
    places = [place for place in found if not any(other[: len(place)] == place and other != place for other in found)]
    first = places[0]
    message = _one_finding(first, found[first], tree)
    if len(places) > 1:
        others = [_dotted(place) for place in places[1:]]
        message += f" (and {len(others)} more: {_short(', '.join(others), 200)})"
    return " ".join(message.split())


def _place(detail: Any, data: Any) -> Place:
    """pydantic's location without the names of alternatives ("ma_trace", "tuple[GroupConfig, ...]") that are no keys of the file."""
    place: Place = ()
    location = detail["loc"]
    for position, key in enumerate(location):
        known = (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int) and key < len(data))
        if known:
            data = data[key]
            place = (*place, key)
        elif detail["type"] == "missing" and position == len(location) - 1:
            place = (*place, key)
    return (*place, "name") if detail["type"].startswith("union_tag") else place


def _one_finding(place: Place, detail: dict[str, Any], tree: _Tree) -> str:
    origin, key, kind = tree.origin(place), _dotted(place), detail["type"]
    value = detail["input"].get("name") if kind.startswith("union_tag") and isinstance(detail["input"], dict) else detail["input"]
    if kind == "value_error":
        return f"{origin if place else _sources(tree)}: {detail['ctx']['error']}"
    if kind == "extra_forbidden":
        return _unknown_key(place, tree)
    if "[key]" in detail["loc"] or kind == "invalid_key":
        words = "keys must be text" if kind in ("string_type", "invalid_key") else f"a name {_lower(detail['msg'])}"
        return f"{origin}: {key}: the key {_show(place[-1])} is not allowed; {words}"
    expected = configkeys.field_at(_schema_place(place), tree.data)
    allowed = configkeys.describe(expected) if expected is not None else _lower(detail["msg"])
    if kind.startswith("union_tag"):
        allowed = f"one of {', '.join(configkeys.members_of(str(place[0])))}"
    if kind == "missing":
        return f"{origin}: {key} is missing; allowed: {allowed}{_meaning(place)}"
    if value is None and "null" not in allowed:
        return f"{origin}: {key} is empty; allowed: {allowed}{_meaning(place)}; or remove the line"
    return f"{origin}: {key} is {_show(value)}; allowed: {allowed}{_meaning(place)}"


def _unknown_key(place: Place, tree: _Tree) -> str:
    section, key = _schema_place(place[:-1]), str(place[-1])
    siblings = configkeys.keys_at(section, tree.data)
    said = f"{tree.origin(place)}: unknown key {_dotted(place)} (value {_show(_value_at(tree.data, place))})"
    choice = str(section[0]) if len(section) == 1 else ""
    members = configkeys.members_of(choice)
    name = f" with {choice}.name: {tree.data[choice].get('name')}" if members else ""
    owners = [member for member, model in members.items() if key in model.model_fields]
    suggestions = configkeys.nearest(key, siblings, _dotted(place[:-1]))
    hint = f"did you mean {' or '.join(suggestions)}? " if suggestions else ""
    if "." in key and key in suggestions:
        hint = f"sections are nested in a file: {key.replace('.', ': {')}: ...{'}' * key.count('.')}; "
    if owners:
        hint = f"it belongs to {choice}.name: {' and '.join(owners)}; "
    return f"{said}; {hint}allowed here{name}: {', '.join(siblings)}"


def _schema_place(place: Place) -> Place:
    """Where the schema says what may stand at a place: what differs in a group's environment has the keys of `env`."""
    return ("env", *place[4:]) if place[:2] == ("topology", "groups") and place[3:4] == ("env",) else place


def _value_at(data: Any, place: Place) -> Any:
    for key in place:
        data = data[key]
    return data


def _meaning(place: Place) -> str:
    generic = tuple("0" if isinstance(key, int) else str(key) for key in _schema_place(place))
    if len(place) > 1 and place[0] == "policies":
        generic = ("policies", "<name>", *generic[2:])
    row = next((row for row in configkeys.schema_rows() if row.key == ".".join(generic)), None)
    return f" ({_short(row.description, 120)})" if row and row.description and generic[-1] != "name" else ""


def _sources(tree: _Tree) -> str:
    """A contradiction may sit between the file and an override: name both where there are both."""
    changed = ", ".join(sorted(_dotted(place) for place in tree.overridden))
    return f"{tree.source} with {changed} from the {COMMAND_LINE}" if changed else tree.source


def _dotted(place: Place) -> str:
    return _short(".".join(str(key) for key in place), 120)


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}.get(type(value), f"a {type(value).__name__}")


def _show(value: Any) -> str:
    if isinstance(value, bool | None):
        return {None: "null", True: "true", False: "false"}[value]
    return _short(repr(value))


def _short(text: str, limit: int = 60) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
