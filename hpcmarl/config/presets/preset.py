"""Data classes of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """A value of a preset.

    Attributes:
        value: Value of hpcmarl's key.
        source: "FILE: the setting there"; FILE is a key of Preset.files.
        note: How the authors' value was translated, if the two values differ.
    """

    value: Any
    source: str
    note: str = ""


@dataclass(frozen=True)
class Gap:
    """A behaviour of the authors' code that no key of hpcmarl expresses yet.

    Attributes:
        theirs: Behaviour of the authors' code.
        ours: Behaviour of hpcmarl.
        source: As in Setting.
        change: "key=value" that would close the gap but is not accepted yet; a test fails once it is. Empty:
            there is no such key.
    """

    theirs: str
    ours: str
    source: str
    change: str = ""


@dataclass(frozen=True)
class Preset:
    """Settings of an algorithm in the code of its authors.

    Attributes:
        name: Value of the key `preset`.
        summary: One line for lists.
        paper: Publication of the algorithm.
        repository: GitHub repository of the code, owner/name.
        files: Files that the sources name, each with the commit at which it was read.
        settings: Settings by dotted key.
        gaps: Behaviours that hpcmarl cannot express.
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
        """Values by dotted key, without their sources."""
        return {key: setting.value for key, setting in self.settings.items()}

    @property
    def sources(self) -> dict[str, str]:
        """Source of each value by dotted key: "FILE@COMMIT: the setting there"."""
        return {key: self.cite(setting.source) for key, setting in self.settings.items()}

    def cite(self, source: str) -> str:
        """Return a source with its commit: "FILE@COMMIT: the setting there"."""
        path, _, words = source.partition(": ")
        return f"{path}@{self.files[path][:7]}: {words}"

    @property
    def choices(self) -> dict[str, str]:
        """Names of the sections that the preset chooses: {"algo": ..., "optimizer": ...}."""
        named = {
            key.removesuffix(".name"): setting.value
            for key, setting in self.settings.items()
            if key.endswith(".name")
        }
        return {section: name for section, name in named.items() if "." not in section}
