"""What the files of commands share: argument types, loading with threads set, starting ranks, printing.
Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcmarl.errors import HpcmarlError, UsageError

if TYPE_CHECKING:
    from hpcmarl.config import Config

OptionalConfig = Annotated[str | None, typer.Argument(metavar="CONFIG", help="YAML file", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="key.sub=value", help="changes to the configuration", show_default=False),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--ranks",
        min=1,
        metavar="RANKS",
        help="start that many ranks here with mpiexec; without: this world",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
WITHOUT_FILE = (
    "it can be left out where the changes say all, as in preset=mappo "
    "env.id=mpe2.simple_spread_v3 stop.env_steps=1000000"
)
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="how long to measure")]


def _trust(ids: list[str] | None) -> list[str] | None:
    """Note what the user vouches for, before anything is imported."""
    if ids:
        from hpcmarl.envs.trust import trust

        trust(ids)
    return ids


Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="ID",
        help="import this environment, wherever it comes from (repeatable)",
        callback=_trust,
        show_default=False,
    ),
]


def split_overrides(config: str | None, overrides: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Without CONFIG the first override stands in its place: something with "=" that is no file."""
    changes = list(overrides or ())
    if config is not None and "=" in config and not Path(config).exists():
        return None, [config, *changes]
    return config, changes


def names_environment(changes: Sequence[str]) -> bool:
    """Whether changes alone can be a configuration: with a preset they need no file."""
    return any(change.partition("=")[0].strip() in ("env", "env.id") for change in changes)


def file_and_changes(config: str | None, overrides: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """Tell a file from a first change in its place.

    Returns:
        The file, None where the changes alone are the configuration, and the changes.

    Raises:
        UsageError: If there is neither a file nor an environment among the changes.
    """
    path, changes = split_overrides(config, overrides)
    if path is None and not names_environment(changes):
        raise UsageError(f"CONFIG is missing; {WITHOUT_FILE}")
    return (Path(path) if path is not None else None), changes


def load(config: str | None, overrides: Sequence[str]) -> Config:
    """The configuration; threads are set before torch can load."""
    from hpcmarl.config.file import load_config

    settings = load_config(Path(config) if config is not None else None, overrides)
    set_threads(settings.topology.threads)
    return settings


def set_threads(threads: int) -> None:
    from hpcmarl.launch.threads import set_thread_environment

    set_thread_environment(threads, os.environ)


def start(
    ranks: int,
    arguments: Sequence[str],
    *,
    trains: bool = False,
    source: Callable[[], Path | None] = lambda: None,
) -> None:
    """Run this command on ranks started here and leave with their exit code.

    Args:
        ranks: how many.
        arguments: of the command.
        trains: whether it writes a run.
        source: the run directory or checkpoint that it is to go on from; None: it begins.
    """
    from hpcmarl.launch.mpiexec import run_ranks

    raise typer.Exit(run_ranks(ranks, arguments, os.environ, _resumable if trains else None, source))


def resume_source(run_dir: str | None, resume: str | None, name: str | None) -> Path | None:
    """Return what a command goes on from; None where it begins. `name`: of the run, for `auto` without a
    directory."""
    if resume is None:
        return None
    if resume != "auto":
        return Path(resume)
    if run_dir is not None:
        return Path(run_dir)
    from hpcmarl.opening import newest_run

    return None if name is None else newest_run(name)


def _resumable(source: Path) -> bool:
    from hpcmarl.io.checkpoint import find_checkpoint

    try:
        return find_checkpoint(source) is not None
    except HpcmarlError:
        return False


def check_single(ranks: int | None) -> None:
    from hpcmarl.launch.world import launcher_world

    world = launcher_world(os.environ)
    if ranks == 1 and world is not None and world.size > 1:
        raise UsageError(
            f"-n 1 inside a world of {world.size} ranks started by {world.launcher.name}; leave -n out to "
            "join that world"
        )


def print_result(result: dict[str, Any] | None, as_json: bool) -> None:
    """A result as JSON or as aligned lines; ranks other than 0 have none."""
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result))
        return
    width = max(map(len, result), default=0)
    for key, value in result.items():
        typer.echo(f"{key:{width}}  {value:.6g}" if isinstance(value, float) else f"{key:{width}}  {value}")


def print_rows(name: str, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({name: list(rows)}))
    else:
        print_table(rows)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Aligned columns under a heading, one line a row so that grep works."""
    words = {True: "yes", False: "no"}
    cells = [
        list(rows[0]),
        *(
            [words[value] if isinstance(value, bool) else str(value) for value in row.values()]
            for row in rows
        ),
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        typer.echo("  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip())


def print_json(result: dict[str, Any]) -> None:
    """One line. Raises ValueError for numbers that JSON has not; see `finite`."""
    typer.echo(json.dumps(result, allow_nan=False))


def finite(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def print_columns(rows: Sequence[Sequence[str]], heading: Sequence[str], right: Sequence[int] = ()) -> None:
    """A table by rich, folded to the terminal's width; whole lines elsewhere, so that grep and cut work.
    right: columns of numbers."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(heading):
        table.add_column(name, justify="right" if number in right else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell), overflow="fold") for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 2000
    console.print(table)


def new_run_dir(name: str) -> Path:
    """Where a run goes that was not told: runs/NAME-DATE-TIME."""
    from datetime import datetime

    first = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    candidates = (first, *(first.with_name(f"{first.name}-{number}") for number in range(2, 1000)))
    return next(path for path in candidates if not path.exists())


def printable(text: str) -> str:
    """The text with what could steer a terminal (control characters, marks that reverse its order) written
    out: names come from files."""
    return "".join(
        letter if letter.isprintable() or letter == " " else f"\\x{ord(letter):02x}" for letter in text
    )


def config_of(path: str | None) -> Path:
    """The config.yaml of a run directory, or of the run that a checkpoint file lies in. Raises UsageError
    where there is none."""
    if path is None or path == "auto":
        raise UsageError(f"CONFIG is missing; {WITHOUT_FILE}, and with --resume RUN or --resume CHECKPOINT")
    start = Path(path)
    if not start.exists():
        raise UsageError(f"{path}: no such run directory or checkpoint")
    for directory in (start, *start.resolve().parents[:2]):
        if (directory / "config.yaml").is_file():
            return directory / "config.yaml"
    raise UsageError(f"{path}: no config.yaml there, so this is no run directory and no checkpoint of one")


def trust_options(ids: Sequence[str] | None) -> list[str]:
    """The options of `--trust`, for ranks that are started here."""
    return [word for id in ids or () for word in ("--trust", id)]


def option(name: str, value: str | None) -> list[str]:
    """An option of a command line, where it has a value."""
    return [name, value] if value is not None else []
