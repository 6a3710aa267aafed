"""Conversion of a checked configuration to JSON and back, without a second check.

Rank 0 sends the configuration to the other ranks in this form (runtime/entry.py). Each section carries the
name of its class, because an `algo` or `optimizer` section alone does not say which class it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hpcmarl import plugins
from hpcmarl.config.base import Section

SECTION, SET, TUPLE, DICTIONARY = "section", "set", "tuple", "dictionary"


def to_json(section: Section) -> str:
    """Return a section and everything in it as JSON text."""
    return json.dumps(_plain(section))


def from_json(text: str) -> Any:
    """Return the section that `to_json` wrote.

    Args:
        text: Trusted output of `to_json`. The values are not validated again.
    """
    classes = {cls.__name__: cls for cls in _subclasses(Section) if not _is_outside(cls)}
    return _restored(json.loads(text), classes)


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        fields = {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        return {SECTION: _class_name(type(value)), DICTIONARY: fields, SET: sorted(value.model_fields_set)}
    if isinstance(value, dict):
        return {DICTIONARY: {key: _plain(each) for key, each in value.items()}}
    if isinstance(value, tuple):
        return {TUPLE: [_plain(each) for each in value]}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _restored(value: Any, classes: dict[str, type[Section]]) -> Any:
    if isinstance(value, list):
        return [_restored(each, classes) for each in value]
    if not isinstance(value, dict):
        return value
    if TUPLE in value:
        return tuple(_restored(each, classes) for each in value[TUPLE])
    inside = {key: _restored(each, classes) for key, each in value[DICTIONARY].items()}
    if SECTION not in value:
        return inside
    name = value[SECTION]
    cls = plugins.load(name) if ":" in name else classes[name]
    return cls.model_construct(set(value[SET]), **inside)


def _class_name(cls: type[Section]) -> str:
    """Return the name of a section's class: with its module if it lies outside hpcmarl."""
    return f"{cls.__module__}:{cls.__qualname__}" if _is_outside(cls) else cls.__name__


def _is_outside(cls: type[Section]) -> bool:
    return not cls.__module__.startswith("hpcmarl.")


def _subclasses(cls: type[Section]) -> Iterator[type[Section]]:
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)
