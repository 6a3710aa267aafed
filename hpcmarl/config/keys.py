"""Keys of a configuration, their allowed values and meanings, derived from the models.

Error messages and `hpcmarl config schema` use them. In all functions, `root` is the model of the whole file:
of a run or of a simulation.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpcmarl.config import Config
from hpcmarl.config.base import ONE_LINE
from hpcmarl.config.choice import Choice, choice_of

CLASS = "package.module:Class or a section with name"


@dataclass(frozen=True)
class KeyRow:
    """One row of the printed schema.

    Attributes:
        key: Dotted key.
        allowed: Allowed values, in words.
        default: Default value, or "required".
        description: Meaning of the key.
        only: Members of a choice (algo.name, optimizer.name) that have the key; empty if all have it.
    """

    key: str
    allowed: str
    default: str
    description: str
    only: tuple[str, ...] = ()


def schema_rows(root: type[BaseModel] = Config) -> list[KeyRow]:
    """List every key of the configuration in the order of the models.

    Keys write items of lists as `0` and items of dictionaries as `<name>`.
    """
    return list(_all_rows(root))


@cache
def _all_rows(root: type[BaseModel]) -> tuple[KeyRow, ...]:
    return tuple(_rows(root, ""))


def describe(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return the values that a type allows, in words.

    Examples: "a whole number >= 1", "one of sync, rennala, malenia", "a list of numbers or null".

    Args:
        annotation: A type or an Annotated type.
        metadata: Bounds on the values, in addition to those in `annotation`.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        if (choice := choice_of(annotation)) is None:
            return describe(arguments[0], [*arguments[1:], *metadata])
        return CLASS if choice.own is None else describe(choice.own)
    if origin in (Union, types.UnionType):
        words = [describe(member) for member in arguments if member is not type(None)]
        if all(_is_model(member) for member in arguments):
            words = [f"a section with name: {' or '.join(_members(annotation))}"]
        return " or ".join(dict.fromkeys([*words, *(["null"] if type(None) in arguments else [])]))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
    if origin is tuple:
        items = _plural(describe(arguments[0]))
        if items.startswith("lists"):  # bounds of the inner lists, not of the outer one
            items = items.replace(", at ", ", each with at ")
        return f"a list of {items}{_bounds(metadata, 'item')}"
    if origin is dict or annotation is dict:
        return "a section of keys"
    if _is_model(annotation):
        return f"a section with the keys {', '.join(annotation.model_fields)}"
    words_of: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words_of.get(annotation, "any value") + _bounds(metadata)


def field_at(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> Any:
    """Return the type of the values at a place.

    Args:
        path: Keys and item numbers from the root on.
        data: Values of the configuration; their `name` keys decide between models.
        root: Model of the whole file.

    Returns:
        The type, Annotated if it has bounds; None if every value is allowed.
    """
    expected: Any = root
    value = data
    for key in path:
        expected = _step(expected, key, value)
        if expected is None:
            return None
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            value = None
    return expected


def keys_at(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> list[str]:
    """Return the keys that the section at `path` may have, for the choices (`name`) in `data`."""
    model = _model(field_at(path, data, root), _lookup(data, path))
    return list(model.model_fields) if model is not None else []


def nearest(key: str, siblings: list[str], section: str, root: type[BaseModel] = Config) -> list[str]:
    """Suggest valid keys for an unknown key.

    The first rule that finds a key decides: the key is a whole dotted path; a key of the same section has
    nearly the same spelling; another section has a key of that name; a whole path has nearly the same
    spelling; the last part of a path has nearly the same spelling.

    Args:
        key: Unknown key, without its section.
        siblings: Valid keys of the section.
        section: Dotted path of the section; empty at the top level.
        root: Model of the whole file.

    Returns:
        At most three dotted keys, the best first.
    """
    prefix = f"{section}." if section else ""
    close = [prefix + name for name in difflib.get_close_matches(key, siblings, n=2, cutoff=0.6)]
    paths = list(dict.fromkeys(row.key for row in schema_rows(root)))
    same_leaf = [path for path in paths if path.rsplit(".", 1)[-1] == key]
    # a dotted key in the file, which has nested sections instead
    exact = [path for path in paths if path == key]
    found = exact or close or same_leaf or difflib.get_close_matches(prefix + key, paths, n=1, cutoff=0.85)
    if not found:
        leaves = {path.rsplit(".", 1)[-1]: path for path in reversed(paths)}
        found = [leaves[leaf] for leaf in difflib.get_close_matches(key, list(leaves), n=1, cutoff=0.8)]
    return found[:3]


def members_of(section: str, root: type[BaseModel] = Config) -> dict[str, type[BaseModel]]:
    """Return the models that the `name` of a top-level section chooses from.

    Returns:
        Models by name, for `algo` {"reinforce": ..., "ma_trace": ...}; empty for a section without a choice.
    """
    field = root.model_fields.get(section)
    return _members(field.annotation) if field is not None and _chooses(field) else {}


def model_of(section: str, name: Any, root: type[BaseModel] = Config) -> type[BaseModel] | None:
    """Return the model that a `name` of a top-level section chooses, also outside hpcmarl.

    Returns:
        The model; None if there is none.
    """
    field = root.model_fields.get(section)
    found = members_of(section, root).get(name) if isinstance(name, str) else None
    if field is None:
        return None
    choice = choice_of(_with_metadata(field))
    return choice.model({"name": name}) if found is None and choice is not None else found


def rows_of(section: str, model: type[BaseModel]) -> list[KeyRow]:
    """List the keys of one model of a top-level section."""
    return list(_rows(model, f"{section}."))


def allows_classes(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> str | None:
    """Return the kind of classes outside hpcmarl that the value at `path` may name; None: none."""
    choice = choice_of(field_at(path, data, root))
    return None if choice is None else choice.kind


def _chooses(field: FieldInfo) -> bool:
    """Return whether a field is a section whose `name` decides which keys it has."""
    direct = any(isinstance(item, Choice) for item in field.metadata)
    return bool(field.discriminator) or (direct and bool(_members(field.annotation)))


def key_type(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> Any:
    """Return the type of the keys in the dictionary at `path`; None if it is no dictionary."""
    plain = _plain(field_at(path, data, root))
    return next((get_args(each)[0] for each in plain if get_origin(each) is dict), None)


def field_of(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> FieldInfo | None:
    """Return the field of a model at `path`, with its description and default; None if there is no field."""
    model = _model(field_at(path[:-1], data, root), _lookup(data, path[:-1])) if path else None
    return None if model is None else model.model_fields.get(str(path[-1]))


def choices_at(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> list[str]:
    """Return the allowed values of `name` in the section at `path`; empty for a section without a choice."""
    return list(_members(field_at(path, data, root)))


def literals(annotation: Any) -> list[str]:
    """Return the texts that a type allows by name; empty if it allows other values, too."""
    return [
        str(value)
        for plain in _plain(annotation)
        if get_origin(plain) is Literal
        for value in get_args(plain)
    ]


def _members(annotation: Any) -> dict[str, type[BaseModel]]:
    """Return the models of a union by their `name`; empty unless there are several."""
    models = [member for member in _plain(annotation) if _is_model(member) and "name" in member.model_fields]
    return {str(model.model_fields["name"].default): model for model in models} if len(models) > 1 else {}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _plain(annotation: Any) -> list[Any]:
    """Return the alternatives of a type, without Annotated and None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [
            plain for member in get_args(annotation) if member is not type(None) for plain in _plain(member)
        ]
    return [annotation]


def _model(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the model among a type's alternatives; `value["name"]` chooses one of several."""
    if (choice := choice_of(annotation)) is not None and (foreign := choice.model(value)) is not None:
        return foreign
    models: list[type[BaseModel]] = [plain for plain in _plain(annotation) if _is_model(plain)]
    if len(models) > 1 and isinstance(value, dict):
        models = [
            model for model in models if model.model_fields["name"].default == value.get("name")
        ] or models
    return models[0] if models else None


def _lookup(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _step(expected: Any, key: str | int, value: Any) -> Any:
    model = _model(expected, value)
    if model is not None and isinstance(key, str):
        field = model.model_fields.get(key)
        return None if field is None else _with_metadata(field)
    for plain in _plain(expected):
        arguments = get_args(plain)
        if get_origin(plain) is tuple and isinstance(key, int):
            return arguments[0]
        if get_origin(plain) is dict:
            return None if arguments[1] is Any else arguments[1]
    return None


def _with_metadata(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _bounds(metadata: Iterable[Any], unit: str = "") -> str:
    words = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            words.append(_bounds(item.metadata, unit))
            continue
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(item, attribute, None) is not None:
                words.append(f" {sign} {getattr(item, attribute)}")
        for attribute, limit in (("min_length", "at least"), ("max_length", "at most")):
            if (length := getattr(item, attribute, None)) is not None:
                words.append(f", {limit} {length} {unit or 'character'}{'s' * (length != 1)}")
        if (pattern := getattr(item, "pattern", None)) is not None:
            words.append(" on one line" if pattern == ONE_LINE else f" matching {pattern}")
    return " and".join(word for word in words if word).replace(" and,", ",")


def _plural(words: str) -> str:
    plurals = {
        "a whole number": "whole numbers",
        "a number": "numbers",
        "a section": "sections",
        "a list": "lists",
        "text": "texts",
    }
    for singular, plural in plurals.items():
        if words.startswith(singular):
            return plural + words[len(singular) :]
    return words


def _rows(model: type[BaseModel], prefix: str) -> Iterator[KeyRow]:
    for name, field in model.model_fields.items():
        key = prefix + name
        if _chooses(field):
            yield from _choice_rows(key, field)
            continue
        annotation = _with_metadata(field)
        nested = _model(annotation, None)
        if nested is not None and len(_plain(annotation)) == 1 and not _optional(annotation):
            yield from _rows(nested, key + ".")
            continue
        yield KeyRow(key, describe(annotation), _default(field), field.description or "")
        if (choice := choice_of(annotation)) is not None and choice.short:
            continue
        if _members(annotation):
            yield from _choice_rows(key, field)
        elif nested is not None:
            yield from _rows(nested, key + ".")
        for plain in _plain(annotation):
            item = _item_model(plain)
            if item is not None:
                yield from _rows(item, f"{key}.{'0' if get_origin(plain) is tuple else '<name>'}.")


def _choice_rows(key: str, field: FieldInfo) -> Iterator[KeyRow]:
    """Yield the row of `name`, then a row for each key of its members, with the members that have the key."""
    members = _members(field.annotation)
    default = getattr(field.get_default(call_default_factory=True), "name", "required")
    meanings = "; ".join(f"{name}: {first_line(member)}" for name, member in members.items())
    yield KeyRow(f"{key}.name", f"one of {', '.join(members)}", default, meanings)
    seen: dict[KeyRow, list[str]] = {}
    for name, member in members.items():
        for row in _rows(member, key + "."):
            if row.key != f"{key}.name":
                seen.setdefault(row, []).append(name)
    for row, names in seen.items():
        yield KeyRow(
            row.key,
            row.allowed,
            row.default,
            row.description,
            () if len(names) == len(members) else tuple(names),
        )


def _item_model(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) is tuple and _is_model(get_args(annotation)[0]):
        return get_args(annotation)[0]  # type: ignore[no-any-return]
    if get_origin(annotation) is dict and _is_model(get_args(annotation)[1]):
        return get_args(annotation)[1]  # type: ignore[no-any-return]
    return None


def _optional(annotation: Any) -> bool:
    return type(None) in get_args(annotation)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple):
        return str(list(value))
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


def first_line(model: type[Any]) -> str:
    """Return the first line of a class's docstring, without its full stop."""
    return (model.__doc__ or "").strip().splitlines()[0].rstrip(".")
