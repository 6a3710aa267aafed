"""What keys a configuration may have: walked from the models of config.py, for error messages and for the
printed schema.

Called by file.py and cli/main.py. Knows pydantic's field descriptions; reads no file and checks no value.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpcmarl.config import Config


@dataclass(frozen=True)
class KeyRow:
    """One line of the schema: dotted key, what is allowed, the default ("required" where there is none), what
    it means.

    `only` names the members of a choice (algo.name, optimizer.name) that have the key; empty where all have
    it.
    """

    key: str
    allowed: str
    default: str
    description: str
    only: tuple[str, ...] = ()


def schema_rows(root: type[BaseModel] = Config) -> list[KeyRow]:
    """Every key of the configuration in the order of the file, items of lists and dictionaries as `0` and
    `<name>`.

    `root`, here and below: the model of the whole file, of a run or of a simulation."""
    return list(_rows(root, ""))


def describe(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a type allows, in words: "a whole number >= 1", "one of sync, rennala, malenia", "a list of ... or
    empty"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(arguments[0], [*arguments[1:], *metadata])
    if origin in (Union, types.UnionType):
        words = [describe(member) for member in arguments if member is not type(None)]
        if all(_is_model(member) for member in arguments):
            words = [f"a section with name: {' or '.join(_members(annotation))}"]
        return " or ".join(dict.fromkeys([*words, *(["null"] if type(None) in arguments else [])]))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}" if len(arguments) > 1 else str(arguments[0])
    if origin is tuple:
        return f"a list of {_plural(describe(arguments[0]))}{_bounds(metadata, ' items')}"
    if origin is dict or annotation is dict:
        return "a section of keys"
    if _is_model(annotation):
        return f"a section with the keys {', '.join(annotation.model_fields)}"
    words_of: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words_of.get(annotation, "any value") + _bounds(metadata)


def field_at(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> Any:
    """The type expected at a place of a configuration whose values are `data`, as one Annotated type or bare;
    None where anything goes."""
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
    """The keys that may stand in the section at `path`, given the algorithm and optimizer that `data`
    chooses."""
    model = _model(field_at(path, data, root), _lookup(data, path))
    return list(model.model_fields) if model is not None else []


def nearest(key: str, siblings: list[str], section: str, root: type[BaseModel] = Config) -> list[str]:
    """Dotted keys that someone who wrote an unknown key may have meant, best first, at most three.

    A dotted path itself, then the neighbours in the same section by spelling, then keys of that very name
    elsewhere, then by the spelling of whole paths and of last parts.
    """
    prefix = f"{section}." if section else ""
    close = [prefix + name for name in difflib.get_close_matches(key, siblings, n=2, cutoff=0.6)]
    paths = list(dict.fromkeys(row.key for row in schema_rows(root)))
    same_leaf = [path for path in paths if path.rsplit(".", 1)[-1] == key]
    exact = [path for path in paths if path == key]  # a dotted key in the file, where sections are nested
    found = exact or close or same_leaf or difflib.get_close_matches(prefix + key, paths, n=1, cutoff=0.85)
    if not found:
        leaves = {path.rsplit(".", 1)[-1]: path for path in reversed(paths)}
        found = [leaves[leaf] for leaf in difflib.get_close_matches(key, list(leaves), n=1, cutoff=0.8)]
    return found[:3]


def members_of(section: str, root: type[BaseModel] = Config) -> dict[str, type[BaseModel]]:
    """The choices of a section with a `name`: algo -> {"reinforce": ..., "ma_trace": ...}; empty for other
    sections."""
    field = root.model_fields.get(section)
    return _members(field.annotation) if field is not None and field.discriminator else {}


def choices_at(path: tuple[str | int, ...], data: Any, root: type[BaseModel] = Config) -> list[str]:
    """The names among which the `name` of the section at `path` chooses; empty for other sections."""
    return list(_members(field_at(path, data, root)))


def _members(annotation: Any) -> dict[str, type[BaseModel]]:
    """The models of a union that a `name` tells apart, by that name."""
    models = [member for member in _plain(annotation) if _is_model(member) and "name" in member.model_fields]
    return {str(model.model_fields["name"].default): model for model in models} if len(models) > 1 else {}


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _plain(annotation: Any) -> list[Any]:
    """The alternatives of a type, without Annotated and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [
            plain for member in get_args(annotation) if member is not type(None) for plain in _plain(member)
        ]
    return [annotation]


def _model(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model among a type's alternatives; of several the one that the value's `name` chooses."""
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
        if getattr(item, "min_length", None) is not None:
            words.append(f", at least {item.min_length}{unit or ' characters'}")
        if getattr(item, "max_length", None) is not None:
            words.append(f", at most {item.max_length}{unit or ' characters'}")
        if getattr(item, "pattern", None) is not None:
            words.append(f" matching {item.pattern}")
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
        if field.discriminator:
            yield from _choice_rows(key, field)
            continue
        annotation = _with_metadata(field)
        nested = _model(annotation, None)
        if nested is not None and len(_plain(annotation)) == 1 and not _optional(annotation):
            yield from _rows(nested, key + ".")
            continue
        yield KeyRow(key, describe(annotation), _default(field), field.description or "")
        if _members(annotation):
            yield from _choice_rows(key, field)
        elif nested is not None:
            yield from _rows(nested, key + ".")
        for plain in _plain(annotation):
            item = _item_model(plain)
            if item is not None:
                yield from _rows(item, f"{key}.{'0' if get_origin(plain) is tuple else '<name>'}.")


def _choice_rows(key: str, field: FieldInfo) -> Iterator[KeyRow]:
    """Rows of a section whose `name` chooses its keys: the name, then each key once, with the members that
    have it."""
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
    return (model.__doc__ or "").strip().splitlines()[0].rstrip(".")
