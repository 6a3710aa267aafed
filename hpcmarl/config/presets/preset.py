"""What a preset is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A value of a preset.

    Attributes:
        value: Value of our key.
        source: "FILE: what it says there", FILE being a key of Preset.files.
        note: How their value became ours, where the two differ.
    """

    value: Any
    source: str
    note: str = ""


@dataclass(frozen=True)
class Gap:
    """Something in the authors' code that no key of ours expresses yet.

    Attributes:
        theirs: What their code does.
        ours: What happens here instead.
        source: As of a Setting.
        change: What would set it, "key=value", and is refused today; a test says when it no longer is. Empty:
            nothing comes near.
    """

    theirs: str
    ours: str
    source: str
    change: str = ""


@dataclass(frozen=True)
class Preset:
    """The settings of an algorithm as its authors' code has them.

    Attributes:
        name: Value of the key `preset`.
        summary: One line for lists.
        paper: Where the algorithm was published.
        repository: GitHub repository of the code, owner/name.
        files: Files of the repository that sources name, with the commit at which each was read.
        settings: Values by dotted key.
        gaps: What cannot be set.
    """

    name: str
    summary: str
    paper: str
    repository: str
    files: Mapping[str, str]
    settings: Mapping[str, Setting]
    gaps: tuple[Gap, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Values by dotted key, without where they are from."""
        return {key: setting.value for key, setting in self.settings.items()}

    @property
    def sources(self) -> dict[str, str]:
        """By dotted key: the file, the commit at which it was read, and what it says there."""
        return {key: self.cite(setting.source) for key, setting in self.settings.items()}

    def cite(self, source: str) -> str:
        """A source with its commit: "FILE@COMMIT: what it says there"."""
        path, _, words = source.partition(": ")
        return f"{path}@{self.files[path][:7]}: {words}"

    @property
    def choices(self) -> dict[str, str]:
        """What the preset chooses by name: {"algo": ..., "optimizer": ...}."""
        named = {
            key.removesuffix(".name"): setting.value
            for key, setting in self.settings.items()
            if key.endswith(".name")
        }
        return {section: name for section, name in named.items() if "." not in section}
