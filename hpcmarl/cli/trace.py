"""The command that makes a timeline of all ranks: trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hpcmarl.cli.common import Json, finite, print_json
from hpcmarl.errors import UsageError

LARGE_BYTES = 1_000_000_000  # browsers cannot load much larger timelines


def trace(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE.json[.gz]",
            help="File to write. Default: RUN/trace/timeline.json.gz.",
            show_default=False,
        ),
    ] = None,
    begin: Annotated[
        float, typer.Option("--from", metavar="SECONDS", min=0.0, help="Begin of the shown part.")
    ] = 0.0,
    end: Annotated[
        float | None,
        typer.Option(
            "--to",
            metavar="SECONDS",
            min=0.0,
            help="End of the shown part. Default: the end of the run.",
            show_default=False,
        ),
    ] = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            "--ranks", metavar="0,3-5", help="Ranks to show. Default: all ranks.", show_default=False
        ),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(
            "--start", min=1, help="Start of a resumed run. Default: the newest.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a timeline of all ranks, for ui.perfetto.dev or chrome://tracing.

    The run needs logging.trace=true. It may still be running, or have been killed.

    \b
    hpcmarl train configs/quickstart.yaml -n 4 logging.trace=true --run-dir runs/traced
    hpcmarl trace runs/traced --out timeline.json.gz
    hpcmarl trace runs/traced --from 10 --to 12 --ranks 0,3-5 --out part.json
    """
    from hpcmarl.analysis.timeline import Selection, trace_directory, write_timeline

    directory = trace_directory(Path(run), start)
    target = directory.parent / "timeline.json.gz" if out is None else Path(out)
    if not target.name.endswith((".json", ".json.gz")):
        raise UsageError(f"--out {out}: allowed: a name that ends with .json or .json.gz")
    if end is not None and end <= begin:
        raise UsageError(f"--to {end:g}: must be larger than --from ({begin:g})")
    chosen = None if ranks is None else parse_ranks(ranks)
    found = write_timeline(directory, target, Selection(begin, end, chosen))
    result = {**vars(found), "file": str(target), "ranks": len(found.ranks)}
    result["seconds"] = found.seconds
    result["older_dropped"] = len(found.older_dropped)
    if as_json:
        print_json(finite(result))
    else:
        error = "unknown" if found.clock_error is None else f"{found.clock_error * 1e6:.0f} µs"
        typer.echo(
            f"{target}: {found.spans:,} spans of {len(found.ranks)} ranks in {found.seconds:.1f} s, "
            f"{found.arrows:,} messages, {found.bytes_written:,} bytes; error of clocks {error}"
        )
    for remark in _remarks(found.damaged, found.ignored_bytes, len(found.older_dropped), found.bytes_written):
        print(remark, file=sys.stderr)


def _remarks(damaged: list[str], ignored: int, dropped: int, written: int) -> list[str]:
    """Return remarks on what the timeline lacks."""
    remarks = [f"{len(damaged)} damaged files are left out: {', '.join(damaged[:3])}"] if damaged else []
    if ignored:
        remarks.append(
            f"{ignored:,} bytes after the last whole block are left out (the run was killed, or still runs)"
        )
    if dropped:
        remarks.append(
            f"the oldest spans of {dropped} ranks were replaced by newer ones; raise logging.trace_megabytes"
        )
    if written > LARGE_BYTES:
        remarks.append("the timeline is too large for most browsers; use --from, --to or --ranks")
    return remarks


def parse_ranks(text: str) -> set[int]:
    """Return the ranks of a list such as 0,3-5.

    Raises:
        UsageError: The list is not of this form.
    """
    found: set[int] = set()
    for item in text.split(","):
        first, dash, last = item.strip().partition("-")
        low, high = first, last if dash else first
        if not (low.isdecimal() and high.isdecimal() and int(low) <= int(high) < 10_000_000):
            raise UsageError(f"--ranks {text}: allowed: ranks and ranges, as in 0,3-5")
        found.update(range(int(low), int(high) + 1))
    return found
