"""The command `hpcmarl watch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli.common import Json, finite, print_json

if TYPE_CHECKING:
    from hpcmarl.analysis.watch import View


ENDINGS = (".yaml", ".yml", ".json", ".h5", ".csv", ".html")  # of files that users confuse with a run


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory; it need not exist yet.")],
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 2.0,
    through_restarts: Annotated[
        bool,
        typer.Option("--through-restarts", help="Go on after an interruption, as of a requeued job."),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
    as_json: Json = False,
) -> None:
    """Follow a run from another shell or node, through its files on shared storage.

    The command waits for a run that has not started, and ends when the run has ended. In a terminal it draws
    the returns; elsewhere it prints a line whenever something has changed. --json looks once.

    \b
    hpcmarl watch runs/quickstart-20260101-120000
    hpcmarl watch runs/quickstart-20260101-120000 --once --json

    Exit codes: 0 finished or still running, 75 interrupted after a good checkpoint, 1 failed or killed.
    """
    from hpcmarl.analysis.watch import follow, look
    from hpcmarl.errors import EXIT_FAILURE, EXIT_TRY_AGAIN

    _check(run)
    if as_json:
        view = look(run)
        last = {name: float(values[-1]) for name, values in view.columns.items() if len(values)}
        figures = {"share": view.share, "seconds_left": view.seconds_left, "last_row": last}
        print_json(finite({"path": str(run), "state": view.state.state, **figures}))
    elif once:
        view = look(run)
        typer.echo(view.line())
    else:
        view = follow(run, every, Screen(), through_restarts=through_restarts)
    code = {"failed": EXIT_FAILURE, "killed": EXIT_FAILURE, "interrupted": EXIT_TRY_AGAIN}
    raise typer.Exit(code.get(view.state.state, 0))


def _check(run: Path) -> None:
    """Refuse a path that no run can have, which would be waited for without end.

    Raises:
        UsageError: The path is a file, has the name of one, or its parent directory does not exist.
    """
    from hpcmarl.errors import UsageError

    if run.is_dir():
        return
    if run.exists():
        raise UsageError(f"{run}: a file; allowed: the directory of a run (--run-dir)")
    if run.suffix.lower() in ENDINGS:
        raise UsageError(
            f"{run}: does not exist and has the name of a file; allowed: the directory of a run (--run-dir)"
        )
    if not run.parent.is_dir():
        raise UsageError(
            f"{run}: {run.parent} is no directory, so no run can begin in it; allowed: the directory of a "
            "run; create its parent for a run that is queued"
        )


class Screen:
    """Shows views: redrawn in a terminal, as lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._last = ""

    def __call__(self, view: View) -> None:
        from rich.text import Text

        line = view.line()
        if not self._console.is_terminal:
            if line != self._last:
                typer.echo(line)
            self._last = line
            return
        self._console.clear()
        self._console.print(Text(line))
        if curve := view.curve(min(100, self._console.width)):
            self._console.print(Text(curve))
