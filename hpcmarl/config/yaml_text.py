"""YAML reader and writer with guards against large files, duplicate keys, aliases and deep nesting.

Every error is one line with the place in the file.

Reader and writer differ from plain PyYAML in two ways, the same in both so that values survive a round trip:
`1e-3` is a number (as in YAML 1.2), and dates stay text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from hpcmarl.errors import ConfigError

# bytes; a configuration is a page of text, so a larger file is the wrong one
SIZE_LIMIT = 1 << 20
TOO_LARGE = f"larger than {SIZE_LIMIT >> 20} MiB, so it is not a configuration; use another file"
Place = tuple[str | int, ...]

_SHORT_FLOAT = re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _GuardedLoader(yaml.SafeLoader):
    """PyYAML's safe loader that also refuses aliases, duplicate keys and `{a:1}`.

    Aliases can expand to gigabytes. Of duplicate keys PyYAML silently drops the first. `{a:1}` is a key
    `a:1` without a value, because YAML needs a space after the colon.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None,
                None,
                f"the alias *{event.anchor} is not supported, write the value out",
                event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[Hashable, int] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if (
                node.flow_style
                and isinstance(key, str)
                and ":" in key
                and key_node.style is None
                and value_node.value == ""
            ):
                spaced = key.replace(":", ": ", 1)
                message = f"{{{key}}} is a key without a value, write a space after the colon: {{{spaced}}}"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            if isinstance(key, Hashable):
                line = key_node.start_mark.line + 1
                if key in first:
                    message = f"the key {key!r} occurs twice (first on line {first[key]}), remove one of them"
                    raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
                first[key] = line
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper that quotes what `_GuardedLoader` would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_GuardedLoader, _Dumper):
    _class.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in _class.yaml_implicit_resolvers.items()
    }
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _SHORT_FLOAT, list("-+0123456789"))
# Write a list on one line ([64, 64]) unless it holds mappings, which stay in blocks.
_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=not any(isinstance(item, dict) for item in data)
    ),
)


def read_file(path: Path) -> bytes:
    """Return the bytes of a configuration file.

    Raises:
        ConfigError: If the file is a directory, cannot be read or is larger than 1 MiB.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(SIZE_LIMIT + 1)
    except IsADirectoryError:
        raise ConfigError(f"{path}: a directory; use a YAML file (a run directory has config.yaml)") from None
    # ValueError: the path holds a null byte
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}; use a readable file") from None
    if len(content) > SIZE_LIMIT:
        raise ConfigError(f"{path}: {TOO_LARGE}")
    return content


def parse(content: bytes | str, source: str) -> tuple[Any, dict[Place, int]]:
    """Parse a YAML text.

    Args:
        content: The text.
        source: Name of the file or other origin, for messages.

    Returns:
        The value (None if the text is empty), and the line of each key, counted from 1.

    Raises:
        ConfigError: With line and column, if the text is not valid YAML, has duplicate keys, aliases, tags or
            several documents, or is nested too deeply.
    """
    if len(content) > SIZE_LIMIT:
        raise ConfigError(f"{source}: {TOO_LARGE}")
    loader = None
    try:
        loader = _GuardedLoader(content)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        value = loader.construct_document(node)
        lines: dict[Place, int] = {}
        _collect_lines(loader, node, (), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}, line {mark.line + 1}, column {mark.column + 1}" if mark else source
        problem = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: not valid YAML: {_one_line(problem)}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not valid YAML: {_one_line(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply; remove levels of nesting") from None
    # a number with thousands of digits, or a broken !!tag
    except (ValueError, OverflowError) as error:
        # without advice about Python's limit
        problem = str(error).partition("; use sys.")[0]
        raise ConfigError(f"{source}: not valid YAML: {_one_line(problem)}") from None
    finally:
        if loader is not None:
            loader.dispose()
    return value, lines


def write(value: Any) -> str:
    """Return dicts, lists, text, numbers, booleans and None as YAML text; keys keep their order."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False
    )


def inline(value: Any) -> str:
    """Return one value as YAML on one line: null, true, [64, 64], 1.0e-05."""
    return (
        yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    )


def _collect_lines(loader: _GuardedLoader, node: yaml.Node, place: Place, lines: dict[Place, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                key = loader.construct_object(key_node)
                lines[(*place, key)] = key_node.start_mark.line + 1
                _collect_lines(loader, value_node, (*place, key), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*place, index)] = item.start_mark.line + 1
            _collect_lines(loader, item, (*place, index), lines)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:197] + "..."
