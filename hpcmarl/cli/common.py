"""Helpers of all commands: argument types, loading of configurations, starting of ranks, printing.

The module imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcmarl.errors import EnvironmentFailure, HpcmarlError, UsageError

if TYPE_CHECKING:
    from hpcmarl.config import Config

OptionalConfig = Annotated[
    str | None,
    typer.Argument(
        metavar="CONFIG", help="YAML file, or the name of a shipped configuration.", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="key.sub=value", help="Changes to the configuration, as YAML values.", show_default=False
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--ranks",
        min=1,
        metavar="RANKS",
        help="Number of ranks to start here with mpiexec.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
WITHOUT_FILE = (
    "name a YAML file, or set the environment among the overrides, as in preset=mappo "
    "env.id=mpe2.simple_spread_v3 stop.env_steps=1000000"
)
Seconds = Annotated[float, typer.Option("--seconds", min=0.1, help="Measuring time in seconds.")]


def _trust(ids: list[str] | None) -> list[str] | None:
    """Record trusted environments before anything is imported."""
    if ids:
        from hpcmarl.envs.trust import trust

        trust(ids)
    return ids


Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="ID",
        help="Allow this environment or class to be imported from any package (repeatable).",
        callback=_trust,
        show_default=False,
    ),
]


def split_overrides(config: str | None, overrides: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Separate the file from the overrides.

    Without CONFIG the first override is in its place. It contains "=" and is not the name of a file.

    Returns:
        The file (None: none was given), and the overrides.
    """
    changes = list(overrides or ())
    if config is not None and "=" in config and not Path(config).exists():
        return None, [config, *changes]
    return config, changes


def names_environment(changes: Sequence[str]) -> bool:
    """Return whether the overrides set the environment, so that no file is needed."""
    return any(change.partition("=")[0].strip() in ("env", "env.id") for change in changes)


def file_and_changes(config: str | None, overrides: Sequence[str] | None) -> tuple[Path | None, list[str]]:
    """Separate the file from the overrides, and check that they can form a configuration.

    Returns:
        The file (None: the overrides alone are the configuration), and the overrides.

    Raises:
        UsageError: There is neither a file nor an environment among the overrides.
    """
    path, changes = split_overrides(config, overrides)
    if path is None and not names_environment(changes):
        raise UsageError(f"CONFIG is missing; {WITHOUT_FILE}")
    return (Path(path) if path is not None else None), changes


def load(config: str | None, overrides: Sequence[str]) -> Config:
    """Load a configuration, and set the number of threads before torch can be loaded."""
    from hpcmarl.config.file import load_config

    settings = load_config(Path(config) if config is not None else None, overrides)
    set_threads(settings.topology.threads)
    return settings


def set_threads(threads: int) -> None:
    """Set the environment variables that limit the threads of numerical libraries."""
    from hpcmarl.threads import set_thread_environment

    set_thread_environment(threads, os.environ)


def start(
    ranks: int,
    arguments: Sequence[str],
    *,
    trains: bool = False,
    source: Callable[[], Path | None] = lambda: None,
) -> None:
    """Run this command on ranks started here, and leave with their exit code.

    Args:
        ranks: Number of ranks.
        arguments: Arguments of the command.
        trains: Whether the command writes a run.
        source: Returns the run directory or checkpoint to resume from; None: a new run.
    """
    from hpcmarl.launch.mpiexec import run_ranks

    raise typer.Exit(run_ranks(ranks, arguments, os.environ, _resumable if trains else None, source))


def say_first_line(config: Config, ranks: int | None, run_dir: str | None, resume: str | None) -> None:
    """Print which training starts, before anything slow happens.

    Only the first process of a job does so: the one that starts the ranks, or else rank 0.

    Args:
        config: Configuration of the run.
        ranks: Ranks that this process starts; None: those of the world around it.
        run_dir: Value of --run-dir.
        resume: Value of --resume.
    """
    from hpcmarl.launch.outcome import OUTCOME
    from hpcmarl.launch.world import launcher_world

    world = launcher_world(os.environ)
    if os.environ.get(OUTCOME) or (world is not None and world.rank > 0) or not config.logging.progress:
        return
    size = ranks or (world.size if world is not None else 1)
    place = f", run directory {run_dir}" if run_dir else ""
    print(
        f"{config.name}: {config.algo.name} on {config.env.id}, starting {size} rank{'s' if size > 1 else ''}"
        f"{f', resuming {resume}' if resume else ''}{place}",
        file=sys.stderr,
        flush=True,
    )


def resume_source(run_dir: str | None, resume: str | None, name: str | None) -> Path | None:
    """Return the run directory or checkpoint that a command resumes from; None: a new run.

    Args:
        run_dir: Value of --run-dir.
        resume: Value of --resume.
        name: Name of the run, for `auto` without a directory.
    """
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
    """Check that -n 1 is not given inside a larger MPI world.

    Raises:
        UsageError: The world has several ranks.
    """
    from hpcmarl.launch.world import launcher_world

    world = launcher_world(os.environ)
    if ranks == 1 and world is not None and world.size > 1:
        raise UsageError(
            f"-n 1 inside a world of {world.size} ranks started by {world.launcher.name}; leave -n out to "
            "join that world"
        )


def print_result(result: dict[str, Any] | None, as_json: bool) -> None:
    """Print a result as JSON or as aligned lines; ranks other than 0 have none."""
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result))
        return
    width = max(map(len, result), default=0)
    for key, value in result.items():
        typer.echo(f"{key:{width}}  {value:.6g}" if isinstance(value, float) else f"{key:{width}}  {value}")


def print_rows(name: str, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print rows as one JSON object or as a table."""
    if as_json:
        typer.echo(json.dumps({name: list(rows)}))
    else:
        print_table(rows)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print aligned columns under a heading, one line for each row, so that grep works."""
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
    """Print one JSON object on one line.

    Raises:
        ValueError: The result holds NaN or infinity; `finite` replaces them.
    """
    typer.echo(json.dumps(result, allow_nan=False))


def finite(value: Any) -> Any:
    """Replace non-finite numbers with None, because JSON has no NaN and no infinity."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def print_columns(rows: Sequence[Sequence[str]], heading: Sequence[str], right: Sequence[int] = ()) -> None:
    """Print a table with rich.

    A terminal folds long cells to its width. Elsewhere each row is one whole line, so that grep and cut work.

    Args:
        rows: Cells of each row.
        heading: Names of the columns.
        right: Numbers of the columns that are aligned right.
    """
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


def printable(text: str) -> str:
    """Escape characters that could control a terminal, because names come from files.

    Such characters are control characters and marks that reverse the direction of text.
    """
    return "".join(
        letter if letter.isprintable() or letter == " " else f"\\x{ord(letter):02x}" for letter in text
    )


def print_frames(error: HpcmarlError) -> None:
    """Print the last frames of an environment that has failed, on standard error."""
    if isinstance(error, EnvironmentFailure):
        from hpcmarl.envs.failure_trace import last_frames

        for line in last_frames(error):
            print(printable(line), file=sys.stderr)


def config_of(path: str | None) -> Path:
    """Return the config.yaml of a run directory, or of the run that a checkpoint belongs to.

    Raises:
        UsageError: No such file exists.
    """
    if path is None or path == "auto":
        raise UsageError(f"CONFIG is missing; {WITHOUT_FILE}, or use --resume RUN or --resume CHECKPOINT")
    start = Path(path)
    if not start.exists():
        raise UsageError(f"{path}: no such run directory or checkpoint")
    for directory in (start, *start.resolve().parents[:2]):
        if (directory / "config.yaml").is_file():
            return directory / "config.yaml"
    raise UsageError(f"{path}: no config.yaml there; name a run directory, or a checkpoint in one")


def trust_options(ids: Sequence[str] | None) -> list[str]:
    """Return the --trust options for ranks that are started here."""
    return [word for id in ids or () for word in ("--trust", id)]


def option(name: str, value: str | None) -> list[str]:
    """Return an option with its value for a command line; empty if it has no value."""
    return [name, value] if value is not None else []
