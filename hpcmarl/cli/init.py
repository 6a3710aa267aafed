"""Command `init`: copy a shipped configuration and its batch script into a directory of the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from hpcmarl.errors import UsageError


def init(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Directory to create or to add to.")],
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Shipped configuration (hpcmarl list configs).")
    ] = "quickstart",
) -> None:
    """Copy a shipped configuration and a batch script for Slurm, to start from.

    Existing files are not replaced.

    \b
    hpcmarl init first
    hpcmarl init starcraft smax/3m_mappo
    """
    from hpcmarl.shipped import BATCH_SCRIPT, batch_script, one

    shipped = one(name)
    source = shipped.path
    target = Path(directory)
    files = {target / source.name: _moved(shipped.text, shipped.path.name)}
    if shipped.command == "train":
        files[target / BATCH_SCRIPT] = batch_script().read_text().replace("slurm/", "")
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write(files)
    except OSError as error:
        raise UsageError(
            f"{directory}: cannot write there: {error.strerror}; use another directory"
        ) from None
    ranks = f" -n {shipped.ranks}" if shipped.ranks else ""
    typer.echo(f"run it:     hpcmarl {shipped.command} {target / source.name}{ranks}")
    if shipped.command == "train":
        typer.echo(f"on Slurm:   cd {target} && sbatch {BATCH_SCRIPT} {source.name}")


def _write(files: Mapping[Path, str]) -> None:
    """Write the files; one that exists with this content stays.

    Raises:
        UsageError: Another file has one of the names.
    """
    same = [file for file, text in files.items() if file.is_file() and file.read_bytes() == text.encode()]
    new = [file for file in files if file not in same]
    if taken := [str(file) for file in new if file.exists() or file.is_symlink()]:
        raise UsageError(
            f"{' and '.join(taken)}: exists with other content; remove it, or use another directory"
        )
    for file in new:
        file.write_text(files[file], encoding="utf-8")
        typer.echo(f"wrote {file}")


def _moved(text: str, name: str) -> str:
    """Return the text with the new place of the file in the commands of its comments."""
    return re.sub(rf"configs/(?:[\w-]+/)*{re.escape(name)}", name, text)
