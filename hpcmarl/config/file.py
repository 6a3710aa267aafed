"""Load a configuration from a YAML file and command-line overrides, and write it back.

Every mistake raises a ConfigError of one line that names the place and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from hpcmarl import plugins
from hpcmarl.config import Config, EnvConfig, choice, keys, yaml_text
from hpcmarl.config.foreign import present_key, present_option, present_value
from hpcmarl.config.preset_layer import choose_preset, fill_preset
from hpcmarl.config.presets import PRESETS
from hpcmarl.config.renamed import renamed_key, renamed_value
from hpcmarl.config.search import SearchConfig
from hpcmarl.config.simulation import SimulationConfig
from hpcmarl.config.tree import (
    COMMAND_LINE,
    Tree,
    apply_changes,
    dotted,
    fill_names,
    parse_override,
    place_of,
    short,
    show,
)
from hpcmarl.config.yaml_text import Place
from hpcmarl.errors import ConfigError
from hpcmarl.shipped import file_of

Root = TypeVar("Root", bound=BaseModel)


def load_config(path_or_text: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    r"""Load the configuration of a run.

    An override that switches `algo.name` or `optimizer.name` keeps the keys that the new choice has, too. All
    other keys of the section get the new choice's defaults. An override below `topology.groups` turns a
    number of groups into a list.

    Args:
        path_or_text: A Path, or text without a line break, names a YAML file. Text with a line break is YAML
            itself ("{}\n" is the shortest). None: the overrides hold the whole configuration.
        overrides: Changes `key.sub=value`. Values are YAML; list items are addressed by number.

    Returns:
        The configuration. A `preset` supplies the keys that neither the file nor the overrides set
        (preset_layer.py).

    Raises:
        ConfigError: With one line: file and line (or "command line"), dotted key, value, allowed values and
            the nearest valid key.
    """
    return _run_config(_read(path_or_text, Config), overrides)


def load_simulation(path_or_text: str | Path, overrides: Sequence[str] = ()) -> SimulationConfig:
    """Load the configuration of a simulation: a file with a section `sim`.

    Args:
        path_or_text: As for `load_config`.
        overrides: As for `load_config`.

    Raises:
        ConfigError: As for `load_config`, or if the file has no section `sim`.
    """
    return _simulation_config(_read(path_or_text, SimulationConfig), overrides)


def load_sweep(path: Path) -> SearchConfig:
    """Load the file of a sweep.

    Raises:
        ConfigError: As for `load_config`.
    """
    data, lines = yaml_text.parse(yaml_text.read_file(path), str(path))
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: holds {_kind(data)}; a sweep needs parameters, as in parameters: "
            "{optimizer.step_size: [0.001, 0.01]}"
        )
    return _validated(Tree(data, str(path), SearchConfig, lines=lines), SearchConfig)


def load_either(path_or_text: str | Path | None, overrides: Sequence[str] = ()) -> Config | SimulationConfig:
    """Load a simulation if the file has a section `sim`, else a run; arguments as for `load_config`."""
    tree = _read(path_or_text, None)
    return _run_config(tree, overrides) if tree.root is Config else _simulation_config(tree, overrides)


def vary(config: SimulationConfig, changes: Mapping[str, Any], source: str) -> SimulationConfig:
    """Return a copy of a simulation's configuration with other values for some keys.

    Args:
        config: Stays unchanged.
        changes: New values by dotted key.
        source: Origin of the changes; messages begin with it.

    Raises:
        ConfigError: If the changed configuration is not valid.
    """
    tree = Tree(
        _listed(config.model_dump(mode="python", exclude_unset=True)), source, SimulationConfig, source
    )
    apply_changes(tree, [(place_of(key), value) for key, value in changes.items()])
    return _validated(tree, SimulationConfig)


def _read(path_or_text: str | Path | None, root: type[BaseModel] | None) -> Tree:
    """Return the tree of a file, with line numbers.

    Args:
        path_or_text: As for `load_config`.
        root: Expected model. None: the file decides, by its section `sim`.

    Raises:
        ConfigError: If the file cannot be read, is not valid YAML or describes the other kind of model.
    """
    if path_or_text is None:
        return Tree({}, COMMAND_LINE)
    if isinstance(path_or_text, Path) or "\n" not in path_or_text:
        path = file_of(str(path_or_text))
        content: bytes | str = yaml_text.read_file(path)
        source = str(path)
    else:
        content, source = path_or_text, "configuration text"
    data, lines = yaml_text.parse(content, source)
    if data is None:
        raise ConfigError(
            f"{source}: empty; a configuration needs at least env.id and one key of stop (examples: hpcmarl "
            "list configs)"
        )
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: holds {_kind(data)}; a configuration needs sections such as env: and stop:"
        )
    actual = SimulationConfig if "sim" in data else Config
    if root is Config and actual is not root:
        raise ConfigError(
            f"{source}: the section sim describes a simulation, not a run; use hpcmarl simulate "
            f"{short(source)}"
        )
    if root is SimulationConfig and actual is not root:
        raise ConfigError(
            f"{source}: no section sim, so it is not a simulation; for a run use hpcmarl train "
            f"{short(source)}"
        )
    return Tree(data, source, actual, lines=lines)


def _run_config(tree: Tree, overrides: Sequence[str]) -> Config:
    changes = [parse_override(text) for text in overrides]
    with plugins.with_threads(_threads(tree.data, changes)):
        preset = choose_preset(tree, changes)
        apply_changes(tree, changes)
        if preset is not None:
            fill_preset(tree, preset)
        config = _validated(tree, Config)
    _check_changed_environments(config, tree)
    return config


def _simulation_config(tree: Tree, overrides: Sequence[str]) -> SimulationConfig:
    apply_changes(tree, [parse_override(text) for text in overrides])
    return _validated(tree, SimulationConfig)


def _validated(tree: Tree, root: type[Root]) -> Root:
    if tree.root is SimulationConfig and tree.data.get("preset") is not None:
        named = show(tree.data["preset"]).strip("'")
        raise ConfigError(
            f"{tree.origin(('preset',))}: preset: {named} is for runs (hpcmarl train), and this is a "
            "simulation; remove preset"
        )
    fill_names(tree)
    try:
        return root.model_validate(tree.data)
    except ValidationError as error:
        raise ConfigError(_explain(error, tree)) from None
    except RecursionError:
        raise ConfigError(f"{tree.source}: nested too deeply; remove levels of nesting") from None


def _threads(data: Mapping[str, Any], changes: Sequence[tuple[Place, Any]]) -> int:
    """Return topology.threads before validation; 1 if it is not set or not valid."""
    topology = data.get("topology")
    found = [topology.get("threads")] if isinstance(topology, dict) else []
    found += [value for place, value in changes if place == ("topology", "threads")]
    return found[-1] if found and isinstance(found[-1], int) and found[-1] > 0 else 1


def dump_config(config: Config | SimulationConfig) -> str:
    """Return a configuration as YAML text: all values with their defaults, in the order of the schema.

    Loading the text gives an equal configuration.
    """
    return yaml_text.write(_listed(config.model_dump(mode="python")))


def _check_changed_environments(config: Config, tree: Tree) -> None:
    """Check the keys of each `topology.groups.N.env` and `topology.workers.N.env` against those of `env`.

    Raises:
        ConfigError: If the environment of a group or of a kind of workers is not valid.
    """
    topology = config.topology
    changes: dict[Place, dict[str, Any]] = {
        ("topology", "groups", index, "env"): group.env for index, group in enumerate(topology.group_list)
    }
    changes |= {
        ("topology", "workers", index, "env"): kind.env for index, kind in enumerate(topology.workers)
    }
    for place, changed in changes.items():
        try:
            EnvConfig.model_validate({**config.env.model_dump(), **changed})
        except ValidationError as error:
            raise ConfigError(_explain(error, tree, place)) from None


def _listed(value: Any) -> Any:
    """Return the value with lists instead of tuples, for YAML."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


# --- errors ---


def _explain(error: ValidationError, tree: Tree, section: Place = ()) -> str:
    """Return the errors of pydantic as one line: the first in full, the others as a list of keys.

    Args:
        error: Errors of one section.
        tree: Values that were validated.
        section: Place of the validated section in the tree.
    """
    found: dict[Place, dict[str, Any]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(section + _place(detail, _value_at(tree.data, section)), dict(detail))
    # Every alternative of a union reports an error. An error inside one alternative is more helpful than the
    # error at the union itself, so it replaces the latter.
    places = [
        place
        for place in found
        if not any(other[: len(place)] == place and other != place for other in found)
    ]
    first = places[0]
    message = _one_finding(first, found[first], tree)
    if len(places) > 1:
        others = [dotted(place) for place in places[1:]]
        message += f" (and {len(others)} more: {short(', '.join(others), 200)})"
    return " ".join(message.split())


def _place(detail: Any, data: Any) -> Place:
    """Return the place in the file that pydantic's location stands for.

    Pydantic's location also holds names of union members ("ma_trace", "tuple[GroupConfig, ...]").
    """
    place: Place = ()
    location = detail["loc"]
    for position, key in enumerate(location):
        known = (isinstance(data, dict) and key in data) or (
            isinstance(data, list) and isinstance(key, int) and key < len(data)
        )
        if known:
            data = data[key]
            place = (*place, key)
        elif detail["type"] == "missing" and position == len(location) - 1:
            place = (*place, key)
    of_name = detail["type"].startswith("union_tag") or (
        detail["type"] == choice.ERROR and isinstance(detail["input"], dict)
    )
    return (*place, "name") if of_name else place


def _one_finding(place: Place, detail: dict[str, Any], tree: Tree) -> str:
    origin, key, kind = tree.origin(place), dotted(place), detail["type"]
    value = (
        detail["input"].get("name")
        if kind.startswith("union_tag") and isinstance(detail["input"], dict)
        else detail["input"]
    )
    if kind == "value_error":
        return f"{origin if place else _sources(tree)}: {detail['ctx']['error']}"
    if kind == choice.ERROR:
        return f"{origin}: {key}: {detail['ctx']['text']}"
    if kind == "extra_forbidden":
        return _unknown_key(place, tree)
    if "[key]" in detail["loc"] or kind == "invalid_key":
        is_text = kind not in ("string_type", "invalid_key")
        type_ = keys.key_type(_schema_place(place[:-1]), tree.data, tree.root) if is_text else None
        words = f"allowed: {keys.describe(type_)}" if type_ is not None else "keys must be text"
        return f"{origin}: {key}: the key {show(place[-1])} is not allowed; {words}"
    expected = keys.field_at(_schema_place(place), tree.data, tree.root)
    allowed = keys.describe(expected) if expected is not None else _lower(detail["msg"])
    if kind.startswith("union_tag"):
        allowed = f"one of {', '.join(keys.choices_at(place[:-1], tree.data, tree.root))}"
        if (outside := keys.allows_classes(place[:-1], tree.data, tree.root)) is not None:
            allowed += f"; or a class outside hpcmarl ({', '.join(plugins.others(outside))})"
        allowed += _meant(place, value, keys.choices_at(place[:-1], tree.data, tree.root), origin)
    if kind in ("missing", "union_tag_not_found"):
        return f"{origin}: {key} is missing; allowed: {allowed}{_meaning(place, tree)}"
    if value is None and "null" not in allowed:
        field = keys.field_of(_schema_place(place), tree.data, tree.root)
        if field is not None and field.is_required():
            remedy = ""
        elif origin != COMMAND_LINE:
            remedy = "; or remove the line for the default"
        elif "section" in allowed:
            remedy = f"; use {key}={{}} for the defaults"
        else:
            remedy = f"; remove {key}= for the default"
        return f"{origin}: {key} is empty; allowed: {allowed}{_meaning(place, tree)}{remedy}"
    if (outside := keys.allows_classes(_schema_place(place), tree.data, tree.root)) is not None:
        allowed += f"; or a class outside hpcmarl ({', '.join(plugins.others(outside))})"
    renamed = renamed_value(place, value)
    hint = "" if renamed is None else f"; {value} was renamed to {renamed}"
    if not hint and not kind.startswith("union_tag"):
        hint = _meant(place, value, keys.literals(expected), origin)
    return f"{origin}: {key} is {show(value)}; allowed: {allowed}{_meaning(place, tree)}{hint}"


def _foreign(place: Place, tree: Tree) -> str:
    """Return the key or option that an unknown key of another library stands for; empty if there is none."""
    name = str(place[-1])
    if (option := present_option(name)) is not None:
        return f"{name} is the option {option} of the command line; "
    meant = present_key(name)
    if meant is None or meant == dotted(place):
        return ""
    key, _, meaning = meant.partition(" ")
    section = tuple(key.split(".")[:-1])
    if not meaning and key.split(".")[-1] not in keys.keys_at(section, tree.data, tree.root):
        meant += f" with another {section[0]}.name" if section else ""
    return f"{name} is called {meant} here; "


def _meant(place: Place, value: Any, allowed: Sequence[str], origin: str) -> str:
    """Return which allowed value, preset or key a wrong value probably means; empty if none is near.

    Args:
        place: Place of the value.
        value: The value.
        allowed: Allowed values.
        origin: File and line of the value, or COMMAND_LINE.
    """
    key = dotted(place)
    if not isinstance(value, str):
        return ""
    if key in ("env", "algo", "optimizer"):
        inner = f"{key}.{'id' if key == 'env' else 'name'}"
        return f"; write {inner}={value}" if origin == COMMAND_LINE else f"; write {inner}: {value}"
    if key == "algo.name" and (name := value.lower()) in PRESETS and name not in allowed:
        line = f"preset={name}" if origin == COMMAND_LINE else f"preset: {name}"
        return f"; {value} is a preset: write {line} instead of algo.name"
    meant = present_value(place, value, allowed)
    return "" if meant is None else f"; did you mean {meant}?"


def _unknown_key(place: Place, tree: Tree) -> str:
    section, key = _schema_place(place[:-1]), str(place[-1])
    siblings = keys.keys_at(section, tree.data, tree.root)
    said = f"{tree.origin(place)}: unknown key {dotted(place)} (value {show(_value_at(tree.data, place))})"
    choice = str(section[0]) if len(section) == 1 else ""
    members = keys.members_of(choice, tree.root)
    name = f" with {choice}.name: {tree.data[choice].get('name')}" if members else ""
    owners = [member for member, model in members.items() if key in model.model_fields]
    suggestions = keys.nearest(key, siblings, dotted(place[:-1]), tree.root)
    others = [name for name in suggestions if name != dotted(place)]
    hint = f"did you mean {' or '.join(others)}? " if others else ""
    if len(others) < len(suggestions):  # the key exists with another choice of its section
        hint = f"it belongs to another {dotted(place[:-1])}.name; "
    hint = _foreign(place, tree) or hint
    if (renamed := renamed_key((*section, key))) is not None:
        hint = f"it was renamed to {renamed}; "
    if "." in key and key in suggestions:
        hint = f"sections are nested in a file: {key.replace('.', ': {')}: ...{'}' * key.count('.')}; "
    if owners:
        hint = f"it belongs to {choice}.name: {', '.join(owners)}; "
    return f"{said}; {hint}allowed here{name}: {', '.join(siblings)}"


def _schema_place(place: Place) -> Place:
    """Return the place in the schema that describes `place`.

    `topology.groups.N.env` and `topology.workers.N.env` have the keys of `env`, and `objective.workers.N.env`
    those of `objective.env`.
    """
    parents = (("topology", "groups"), ("topology", "workers"), ("objective", "workers"))
    if place[3:4] == ("env",) and place[:2] in parents:
        return (*(("objective",) if place[0] == "objective" else ()), "env", *place[4:])
    return place


def _value_at(data: Any, place: Place) -> Any:
    for key in place:
        data = data[key]
    return data


def _meaning(place: Place, tree: Tree) -> str:
    field = keys.field_of(_schema_place(place), tree.data, tree.root)
    return f" ({short(field.description, 160)})" if field is not None and field.description else ""


def _sources(tree: Tree) -> str:
    """Name the file, its preset and the overrides: a contradiction may involve any of them."""
    changed = ", ".join(sorted(dotted(place) for place in tree.overridden if place != ("preset",)))
    layers = [f"preset: {tree.preset}"] if tree.preset else []
    if changed and tree.changed_by == COMMAND_LINE != tree.source:
        layers.append(f"{changed} from the {COMMAND_LINE}")
    return f"{tree.source} with {' and '.join(layers)}" if layers else tree.source


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}.get(
        type(value), f"a {type(value).__name__}"
    )


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
