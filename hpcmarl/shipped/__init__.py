"""Configurations and batch scripts that are shipped with the package, found by name.

In a clone they are the directories configs/ and slurm/. setup.py copies these directories into a wheel,
beside this file.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpcmarl.errors import ConfigError

HERE = Path(__file__).parent
ENDING = ".yaml"
BATCH_SCRIPT = "train.sbatch"
_RANKS = re.compile(r"hpcmarl train \S+.* -n (\d+)")
_DURATION = re.compile(r"(?:[Aa]bout|in about) ((?:[\w]+ to )?[\w]+\s+(?:minutes?|hours?))")
_NEEDS = re.compile(r"Needs hpcmarl\[([\w,]+)\]")
_FIRST_SENTENCE = re.compile(r"(.+?\.)(?:\s|$)", re.DOTALL)


def directory(name: str) -> Path:
    """Return a shipped directory.

    Args:
        name: configs or slurm.
    """
    installed = HERE / name
    return installed if installed.is_dir() else HERE.parents[1] / name


@dataclass(frozen=True)
class Shipped:
    """A shipped configuration, with the facts that its first comment states.

    Attributes:
        name: Path below configs/ without its ending.
        path: The file.
        text: Its content.
    """

    name: str
    path: Path
    text: str

    @property
    def comment(self) -> str:
        """The prose of the first comment on one line, without its commands."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("#") or line.startswith("#   "):
                break
            lines.append(line.lstrip("# "))
        return " ".join(lines)

    @property
    def summary(self) -> str:
        """First sentence of the comment."""
        match = _FIRST_SENTENCE.match(self.comment)
        return (match[1] if match else self.comment).rstrip(".")

    @property
    def command(self) -> str:
        """The command that runs it: train or simulate."""
        return "simulate" if re.search(r"(?m)^sim:", self.text) else "train"

    @property
    def ranks(self) -> int | None:
        """Number of ranks in its example; None: it states none."""
        match = _RANKS.search(self.text)
        return int(match[1]) if match else None

    @property
    def duration(self) -> str:
        """Time that a run takes, in words; empty if it is not documented."""
        match = _DURATION.search(self.comment)
        return " ".join(match[1].split()) if match else ""

    @property
    def extras(self) -> str:
        """Extras of hpcmarl that the comment names, separated by commas; empty if it names none."""
        match = _NEEDS.search(self.comment)
        return match[1] if match else ""


@cache
def configurations() -> tuple[Shipped, ...]:
    """Return all shipped configurations by name; empty if the package was copied without them."""
    root = directory("configs")
    return tuple(
        Shipped(path.relative_to(root).with_suffix("").as_posix(), path, path.read_text(encoding="utf-8"))
        for path in sorted(root.rglob(f"*{ENDING}"))
    )


def find(name: str) -> list[Shipped]:
    """Return the shipped configurations that a name stands for.

    Args:
        name: Path below configs/, or its last part alone; a leading configs/ and the ending may be present.

    Returns:
        One configuration; several if the last part alone is ambiguous; none if nothing has this name.
    """
    plain = name.removeprefix("configs/").removesuffix(ENDING)
    exact = [each for each in configurations() if each.name == plain]
    return exact or [each for each in configurations() if each.name.rsplit("/", 1)[-1] == plain]


def file_of(name: str) -> Path:
    """Return the file of a configuration: one of the user, else the shipped one of this name.

    Args:
        name: Path of a file, or name of a shipped configuration.

    Raises:
        ConfigError: The name is ambiguous, or nothing has it.
    """
    if "\0" in name or Path(name).exists():
        return Path(name)
    return one(name, "no such file; ", "the path of a YAML file, or ").path


def one(name: str, problem: str = "", also: str = "") -> Shipped:
    """Return the shipped configuration of a name.

    Args:
        name: Path below configs/, or its last part.
        problem: Words before those about shipped configurations.
        also: Other allowed values.

    Raises:
        ConfigError: The name is ambiguous, or no shipped configuration has it.
    """
    found = find(name)
    if len(found) == 1:
        return found[0]
    names = [each.name for each in found] or near(name)
    reason = "several shipped configurations have" if found else f"{problem}no shipped configuration has"
    hint = f"did you mean {' or '.join(names)}? " if names else ""
    raise ConfigError(
        f"{name}: {reason} this name; {hint}allowed: {also}a name of hpcmarl list configs, such as quickstart"
    )


def near(name: str) -> list[str]:
    """Return the names of shipped configurations that resemble a name, the best first."""
    plain = Path(name).stem
    leaf_of = {each.name: each.name.rsplit("/", 1)[-1] for each in configurations()}
    close = difflib.get_close_matches(plain, list(leaf_of.values()), n=2, cutoff=0.6)
    return [each for leaf in dict.fromkeys(close) for each, own in leaf_of.items() if own == leaf][:3]


def batch_script() -> Path:
    """Return the batch script for one training run on Slurm."""
    return directory("slurm") / BATCH_SCRIPT
