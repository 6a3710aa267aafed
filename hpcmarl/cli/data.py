"""The commands `hpcmarl data …`, which inspect and process HDF5 files.

The work is done in io/ and analysis/export.py. Errors are hpcmarl.errors; cli/main.py turns them into one
line and an exit code. With --json one object goes to standard output and everything else to standard error.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hpcmarl.cli.common import finite, print_columns, print_json
from hpcmarl.cli.progress import BYTES, Progress

data_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Inspect, verify, salvage, merge or export HDF5 files.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Paths = Annotated[list[Path], typer.Argument(metavar="PATH…", exists=True, help="Files or run directories.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Superseded = Annotated[
    bool,
    typer.Option("--superseded", help="Include trajectories that later starts of a run have superseded."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write; it must not exist.")]


class Compression(StrEnum):
    """Values of trajectories.compression."""

    none = "none"
    lzf = "lzf"
    gzip = "gzip"
    zstd = "zstd"
    blosc_lz4 = "blosc_lz4"


class Form(StrEnum):
    """Formats of `hpcmarl data export`."""

    npz = "npz"
    csv = "csv"


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [
            line
            for key, item in value.items()
            for line in _flat(f"{prefix}.{key}" if prefix else str(key), item)
        ]
    if isinstance(value, list) and len(value) > 4:
        return [(prefix, f"{', '.join(map(str, value[:3]))}, … {value[-1]} ({len(value)})")]
    return [
        (
            prefix,
            ", ".join(map(str, value))
            if isinstance(value, list)
            else f"{value:.6g}"
            if isinstance(value, float)
            else str(value),
        )
    ]


@data_app.command()
def inspect(paths: Paths, as_json: Json = False) -> None:
    """Show the contents of files and run directories.

    Several runs, or a directory that holds runs, give a table with a row for each run. Its return is that of
    the newest training episodes.

    \b
    hpcmarl data inspect runs/quickstart-20260101-120000
    hpcmarl data inspect runs/seed-0 runs/seed-1 runs/seed-2
    hpcmarl data inspect runs --json
    hpcmarl data inspect runs/*/checkpoints/checkpoint-0000000100.h5 --json
    """
    from hpcmarl.cli.inspect_runs import runs_to_compare, show_runs
    from hpcmarl.io.describe import describe

    if runs := runs_to_compare(paths):
        show_runs(runs, as_json=as_json)
        return
    found = [finite(describe(path)) for path in paths]
    if as_json:
        print_json({"files": found})
        return
    for number, item in enumerate(found):
        if number:
            typer.echo()
        print_columns(_flat("", item), ("key", "value"))


@data_app.command()
def verify(paths: Paths, as_json: Json = False) -> None:
    """Read every file completely and check it.

    The command exits with code 1 if a file is bad. Temporary files of running or killed writers count as
    open, not as bad. Superseded trajectories are reported: those played after the checkpoint that a later
    start resumed from.

    \b
    hpcmarl data verify runs/quickstart-20260101-120000
    """
    from hpcmarl.io.describe import BAD, verify_paths
    from hpcmarl.io.trajectories.live_segments import as_plain, describe_superseded

    with Progress(BYTES, None) as progress:
        found, gone = verify_paths(paths, progress.at)
    counts = {status: sum(item["status"] == status for item in found) for status in ("good", "bad", "open")}
    if as_json:
        print_json({"files": found, **counts, "superseded": as_plain(gone)})
    else:
        if found:
            print_columns(
                [(item["status"], item["path"], item["reason"]) for item in found],
                ("status", "file", "reason"),
            )
        for line in describe_superseded(gone):
            typer.echo(line)
        typer.echo(f"{counts['good']} good, {counts['bad']} bad, {counts['open']} open")
    if any(item["status"] == BAD for item in found):
        raise typer.Exit(1)


@data_app.command()
def salvage(
    paths: Paths,
    remove: Annotated[
        bool, typer.Option("--remove", help="Delete temporary files once all recoverable data has been read.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Recover open and damaged shards after kills and disk failures.

    The recovered data becomes valid shards. No existing file is overwritten, and files of running writers are
    left alone. The command reports lost data, and exits with code 1 if a file could not be recovered. A
    damaged shard is kept as *.damaged. A shard that is named is read completely; shards of a run only if
    their structure is damaged.

    \b
    hpcmarl data salvage runs/quickstart-20260101-120000
    hpcmarl data salvage runs/quickstart-20260101-120000 --remove
    """
    from hpcmarl.io.trajectories.salvage import salvage as recover

    found = []
    for path in paths:
        with Progress(f"files of {path}") as progress:
            found += recover(path, remove=remove, on_progress=progress.at)
    if as_json:
        steps, lost = sum(item.steps for item in found), sum(item.lost_steps for item in found)
        print_json(
            {"files": [item.as_dict() for item in found], "recovered_steps": steps, "lost_steps_known": lost}
        )
    elif not found:
        typer.echo(
            "no shard is open or cut short: nothing to recover (`hpcmarl data verify` reads all bytes and "
            "names bad shards)"
        )
    else:
        rows = []
        for item in found:
            note = (item.note or f"now {item.output}") + (", removed" if item.removed else "")
            rows.append(
                (item.status, item.path, str(item.steps), str(item.segments), str(item.lost_steps), note)
            )
        print_columns(rows, ("status", "file", "steps", "segments", "lost steps", "note"))
    if any(item.status == "failed" for item in found):
        raise typer.Exit(1)


@data_app.command()
def merge(
    paths: Paths,
    out: Out,
    compression: Annotated[
        Compression, typer.Option("--compression", help="Compression of the merged file.")
    ] = Compression.none,
    with_superseded: Superseded = False,
    as_json: Json = False,
) -> None:
    """Merge many shards into one file of the same layout, with bounded memory.

    \b
    hpcmarl data merge runs/quickstart-20260101-120000 --out all.h5 --compression zstd
    """
    from hpcmarl.io.trajectories.merge import merge_shards

    with Progress(BYTES) as progress:
        result = merge_shards(
            paths, out, compression.value, superseded=with_superseded, on_progress=progress.at
        )
    if as_json:
        print_json({"path": str(out), **result})
    else:
        left_out = (
            f", {result['superseded_segments']} superseded segments left out"
            if result["superseded_segments"]
            else ""
        )
        typer.echo(
            f"{out}: {result['steps']} steps in {result['segments']} segments of {result['shards']} shards, "
            f"{result['bytes']} bytes{left_out}"
        )


@data_app.command(name="export")
def export_table(
    paths: Paths,
    out: Out,
    form: Annotated[
        Form | None,
        typer.Option(
            "--format", help="Format of the file. Default: the ending of --out.", show_default=False
        ),
    ] = None,
    table: Annotated[
        str, typer.Option("--table", help="segments, env, or the name of a policy for its steps.")
    ] = "segments",
    with_superseded: Superseded = False,
    as_json: Json = False,
) -> None:
    """Write one table of trajectories as npz or csv.

    \b
    hpcmarl data export runs/quickstart-20260101-120000 --out episodes.csv
    hpcmarl data export runs/quickstart-20260101-120000 --table agent --out steps.npz
    """
    from hpcmarl.analysis.export import export
    from hpcmarl.errors import UsageError

    if form is None:
        if out.suffix not in (".npz", ".csv"):
            raise UsageError(
                f"--out {out}: the ending is neither .npz nor .csv; add --format npz or --format csv"
            )
        form = Form(out.suffix[1:])
    with Progress("parts of shards") as progress:
        result = export(
            paths,
            out,
            form=form.value,
            table=table,
            superseded=with_superseded,
            on_progress=progress.at,
        )
    if as_json:
        print_json({"path": str(out), **result})
    else:
        typer.echo(f"{out}: {result['rows']} rows, {len(result['columns'])} columns, {result['bytes']} bytes")
