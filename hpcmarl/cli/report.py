"""The command `hpcmarl report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli.common import Json, print_json
from hpcmarl.cli.progress import Progress

if TYPE_CHECKING:
    from hpcmarl.report.report import Written


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run directories, or directories that hold runs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.html",
            help="File to write. Default: RUN/report.html for one path, else report.html.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option("--title", help="Title. Default: the names of the runs.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Write the report again and again until all runs have ended.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", min=1.0, help="Seconds between two reports of --follow.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Make one HTML file about runs: curves, speed, what each rank did, leagues, faults, configurations.

    The file needs no server and no network. Runs that differ in nothing but their seed are grouped. Runs may
    still be running, or have been killed.

    \b
    hpcmarl report runs/quickstart-20260101-120000
    hpcmarl report runs/seed-0 runs/seed-1 runs/seed-2 --out seeds.html
    hpcmarl report runs --out all.html --follow
    """
    from hpcmarl.report.report import check_target, follow_report, write_report

    target = out if out is not None else (runs[0] if len(runs) == 1 else Path()) / "report.html"
    if out is not None or target.parent.is_dir():
        check_target(target)
    if follow:
        written = follow_report(runs, target, title, every, _nothing if as_json else _show)
    else:
        with Progress("runs") as progress:
            written = write_report(runs, target, title, on_progress=progress.at)
    if as_json:
        print_json({**vars(written), "path": str(written.path)})
    elif not follow:
        _show(written)
    for problem in written.problems:
        print(problem, file=sys.stderr)


def _show(written: Written) -> None:
    count = "1 run" if len(written.runs) == 1 else f"{len(written.runs)} runs"
    typer.echo(f"{written.path}: {count}, {written.file_bytes / 1e6:.1f} MB")


def _nothing(written: Written) -> None:
    """Show nothing, since --json prints the last report."""
