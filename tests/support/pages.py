"""Code blocks of the documentation's pages, and how the tests apply and run them.

A block with a title is a file: ```` ```python title="hpcmarl/algos/own.py" ````. With the language `diff` it
changes that file. Blocks marked `bash {.run}` are commands. One marked `text {.output}` is what they print.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"(?ms)^(`{3,})(\w+)([^\n`]*)\n(.*?)^\1$")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        title: File name; empty for blocks that are no file.
        is_run: Whether it holds commands to run.
        is_output: Whether it shows what the commands before it print, word for word.
    """

    language: str
    title: str
    text: str
    is_run: bool
    is_output: bool


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = []
    for _, language, info, text in FENCE.findall(page.read_text()):
        title = re.search(r'title="([^"]+)"', info)
        found.append(Block(language, title[1] if title else "", text, "{.run}" in info, "{.output}" in info))
    return found


def apply(block: Block, root: Path) -> None:
    """Write the file of a titled block below `root`, or change it as a `diff` block says.

    Raises:
        ValueError: If the old lines of a diff are not exactly once in the file.
    """
    path = root / block.title
    if block.language != "diff":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
        return
    lines = block.text.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{block.title}: these lines are {text.count(old)} times in it, not once:\n{old}")
    path.write_text(text.replace(old, new))
