"""The tables of docs/presets.md: the values of each preset with their sources, and its gaps.

`hpcmarl list presets --markdown` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcmarl.config.presets import PRESETS, Preset
from hpcmarl.config.yaml_text import inline

# a preset that differs from an earlier one in at most this many values lists only these
FEW = 3


def markdown() -> str:
    """Return the Markdown text of all presets, one section each."""
    presets = list(PRESETS.values())
    return "\n".join(_section(preset, presets[:number]) for number, preset in enumerate(presets))


def _section(preset: Preset, earlier: Sequence[Preset]) -> str:
    papers = ", ".join(
        f"[arXiv {number}](https://arxiv.org/abs/{number})"
        for number in preset.paper.removeprefix("arXiv ").split(", ")
    )
    code = f"[{preset.repository}](https://github.com/{preset.repository})"
    lines = [
        f"## {preset.name}",
        "",
        f"{preset.summary[:1].upper()}{preset.summary[1:]}. {papers}; code: {code}.",
        "",
    ]
    keys = list(preset.settings)
    for other in earlier:
        own = [key for key in keys if preset.settings[key] != other.settings.get(key)]
        if len(own) <= FEW and set(keys) == set(other.settings):
            lines, keys = [*lines, f"All other values are those of [{other.name}](#{other.name}).", ""], own
            break
    rows = [
        (
            f"`{key}`",
            f"`{inline(preset.settings[key].value)}`",
            _where(preset.settings[key].source),
            preset.settings[key].note,
        )
        for key in keys
    ]
    lines += _table(("key", "value", "their code", "translation"), rows)
    lines += ["No key yet:", ""]
    lines += _table(
        ("their code", "here", "where"), [(gap.theirs, gap.ours, _where(gap.source)) for gap in preset.gaps]
    )
    used = ", ".join(f"`{path}` at {commit[:7]}" for path, commit in preset.files.items())
    return "\n".join([*lines, f"Files: {used}.", ""])


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *rows)] + [""]


def _where(source: str) -> str:
    """Format a source ("path: words") with only the last part of its path."""
    path, _, words = source.partition(": ")
    return f"`{path.rpartition('/')[2]}`: {words}"
