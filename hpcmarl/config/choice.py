"""Annotation of values that name a part of hpcmarl or a class outside it."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from hpcmarl import plugins
from hpcmarl.config.base import Section
from hpcmarl.errors import HpcmarlError

ERROR = "plugin"


class Choice:
    """Let a section, or a text, also name a class outside hpcmarl.

    The class declares a configuration class, and the section is validated as an instance of it. Names of
    hpcmarl's own parts are validated without a look at anything else.

    Args:
        kind: A key of `plugins.KINDS`.
        own: Type of the values that hpcmarl has itself; None: it has none.
        short: Whether a text is short for a section with this `name` only.
    """

    def __init__(self, kind: str, own: Any = None, *, short: bool = False) -> None:
        self.kind, self.own, self.short = kind, own, short
        self.names = frozenset(_names(own))

    def model(self, value: Any) -> type[BaseModel] | None:
        """Return the configuration class that a value names; None if it names none that can be imported."""
        name = self._foreign_name(value)
        try:
            return None if name is None else plugins.config_class(self.kind, name)
        except HpcmarlError:
            return None

    def _foreign_name(self, value: Any) -> str | None:
        name = value.get("name") if isinstance(value, dict) else value if self.short else None
        return name if isinstance(name, str) and name not in self.names else None

    def _validated(self, value: Any, own: core_schema.ValidatorFunctionWrapHandler) -> Any:
        kind = plugins.KINDS[self.kind]
        if isinstance(value, Section) and not type(value).__module__.startswith("hpcmarl."):
            if isinstance(value, plugins.load(kind.config)):
                return value
            return own(value)
        name = self._foreign_name(value)
        try:
            model = None if name is None else plugins.config_class(self.kind, name)
        except HpcmarlError as error:
            raise _refusal(str(error)) from None
        if model is not None:
            return model.model_validate({"name": value} if isinstance(value, str) else value)
        if self.own is None:
            shown = f"{name} is not known" if name else "no name is given"
            raise _refusal(f"{shown}; allowed: {', '.join(plugins.others(self.kind))}")
        return own(value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        inner = core_schema.any_schema() if self.own is None else handler.generate_schema(self.own)
        return core_schema.no_info_wrap_validator_function(
            self._validated, inner, serialization=core_schema.simple_ser_schema("any")
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add classes outside hpcmarl, whose keys an editor does not know."""
        name = {"type": "string", "not": {"enum": sorted(self.names)}} if self.names else {"type": "string"}
        foreign: list[Any] = [{"type": "object", "properties": {"name": name}, "required": ["name"]}]
        if self.short:
            foreign.append(name)
        return {"anyOf": [*([] if self.own is None else [handler(schema)]), *foreign]}


class Factory:
    """Let a text name a function or class outside hpcmarl that takes no configuration of its own.

    Nothing is imported while the configuration is read. The name is only checked.

    Args:
        kind: A key of `plugins.KINDS`.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    @staticmethod
    def _checked(name: str) -> str:
        try:
            plugins.check_stored(name)
        except HpcmarlError as error:
            raise _refusal(str(error)) from None
        return name


def _refusal(text: str) -> PydanticCustomError:
    return PydanticCustomError(ERROR, "{text}", {"text": text})


def choice_of(annotation: Any) -> Choice | None:
    """Return the choice of a type that may name classes outside hpcmarl; None: it may name none."""
    if get_origin(annotation) is Annotated:
        found = next((item for item in get_args(annotation)[1:] if isinstance(item, Choice)), None)
        return found or choice_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for each in get_args(annotation) if (found := choice_of(each))), None)
    return None


def classes_outside(section: Section) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of everything outside hpcmarl that a section and its sections name."""
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, str) and (factory := _factory_of(field)) is not None:
            yield factory.kind, value
        annotation = (
            field.annotation if get_origin(field.annotation) is not tuple else get_args(field.annotation)[0]
        )
        choice = choice_of(Annotated[annotation, *field.metadata, None])
        for each in _items(value):
            if isinstance(each, Section):
                name = getattr(each, "name", None)
                if choice is not None and isinstance(name, str) and name not in choice.names:
                    yield choice.kind, name
                yield from classes_outside(each)


def _factory_of(field: FieldInfo) -> Factory | None:
    """Return the factory that a field's text may name; None: it names none."""
    marks = [*field.metadata]
    for each in (field.annotation, *get_args(field.annotation)):
        if get_origin(each) is Annotated:
            marks += get_args(each)[1:]
    return next((mark for mark in marks if isinstance(mark, Factory)), None)


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple) else (value,)


def _names(own: Any) -> list[str]:
    """Return the values of a Literal, or the names of the models of a union."""
    if own is None:
        return []
    if get_origin(own) is Annotated:
        return _names(get_args(own)[0])
    return [str(_default_name(each) if isinstance(each, type) else each) for each in get_args(own)]


def _default_name(model: type[Section]) -> Any:
    return model.model_fields["name"].default
