"""The trace of a run as one file in the trace event format, which Perfetto and Chrome show.

Files are read block by block and events are written as they come, so memory does not grow with the trace. A
rank is a process of the timeline, named after its roles and host.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from hpcmarl.errors import FormatError, UsageError
from hpcmarl.io.atomic import partial_path, storage_error
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.tracing.blocks import CLOCKS, HEAD, SPANS, read_blocks
from hpcmarl.tracing.clock import aligned
from hpcmarl.tracing.spans import NO_NUMBER, NO_PEER, RECORD_DTYPE, Span
from hpcmarl.types import Array

NAME = re.compile(r"rank-(\d+)(-\d+)?\.(\d+)\.trace")
START = re.compile(r"start-(\d+)")
NUMBERS_OF_A_PAIR = 1 << 22  # numbers of flows stay below 2^53 for 30,000 ranks
FACTS = {"rank", "ranks", "roles", "host", "clock", "spans", "kinds", "other_threads"}
SENT, RECEIVED = int(Span.SEND), int(Span.RECEIVE)


@dataclass(frozen=True)
class Selection:
    """Part of a trace.

    Attributes:
        begin: First second shown, from the start of the run.
        end: Last second; None: no limit.
        ranks: Ranks that are shown; None: all.
    """

    begin: float = 0.0
    end: float | None = None
    ranks: Collection[int] | None = None

    def shows(self, rank: int) -> bool:
        """Return whether a rank is shown."""
        return self.ranks is None or rank in self.ranks


@dataclass
class Part:
    """One file of a rank.

    Attributes:
        path: The file.
        header: Its HEAD block.
    """

    path: Path
    header: dict[str, Any]

    @property
    def rank(self) -> int:
        return int(self.header["rank"])

    @property
    def title(self) -> str:
        """Name of the rank in the timeline."""
        return f"rank {self.rank}: {'+'.join(self.header['roles'])} ({self.header['host']})"


@dataclass
class Summary:
    """Figures of a written timeline.

    Attributes:
        spans: Number of spans.
        arrows: Number of received messages with an arrow from their sender.
        first: Begin of the first span, seconds from the start of the run.
        last: End of the last span, likewise.
        files: Number of files read.
        bytes_read: Their size.
        bytes_written: Size of the timeline.
        ranks: Ranks that are shown.
        ignored_bytes: Bytes after the last whole block of a file.
        damaged: Files without a readable header.
        older_dropped: Ranks whose oldest spans were replaced by newer ones.
        clock_error: Largest uncertainty of a clock, seconds; None: a clock could not be measured.
    """

    spans: int = 0
    arrows: int = 0
    first: float = float("inf")
    last: float = float("-inf")
    files: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    ranks: set[int] = field(default_factory=set)
    ignored_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    older_dropped: set[int] = field(default_factory=set)
    clock_error: float | None = 0.0

    @property
    def seconds(self) -> float:
        """Time from the first to the last span."""
        return max(0.0, self.last - self.first)


def trace_directory(run: Path, start: int | None) -> Path:
    """Return the directory of the trace of a start.

    Args:
        run: Run directory.
        start: Number of the start; None: the newest with a trace.

    Raises:
        UsageError: There is no such run, or it has no trace.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such run directory; name the directory of a run")
    traces = RunDirectory(run).traces
    found = {int(match[1]): path for path in traces.glob("start-*") if (match := START.fullmatch(path.name))}
    if not found:
        raise UsageError(f"{run}: the run has no trace; set logging.trace=true and train again")
    if start is not None and start not in found:
        raise UsageError(f"--start {start}: no trace of this start; allowed: {sorted(found)}")
    return found[max(found) if start is None else start]


def write_timeline(directory: Path, out: Path, selection: Selection) -> Summary:
    """Write the timeline of a directory of traces.

    Args:
        directory: Directory of one start.
        out: The file; compressed if its name ends with .gz. It is replaced when the new one is complete.
        selection: What to show.

    Returns:
        Figures of the timeline.

    Raises:
        FormatError: No file can be read.
        StorageError: A file cannot be read or written.
        UsageError: No rank is selected.
    """
    summary = Summary()
    parts = _parts(directory, selection, summary)
    clocks = _clocks_at_end(directory)
    offset_of = _Offsets([part.header for part in parts])
    partial = partial_path(out)
    try:
        with _open(partial) as stream:
            stream.write('{"displayTimeUnit":"ms","traceEvents":[\n')
            _write_names(stream, parts)
            for part in parts:
                _write_part(stream, part, offset_of, clocks, selection, summary)
            stream.write("\n]}\n")
        summary.bytes_written = partial.stat().st_size
        os.replace(partial, out)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise storage_error(out, "write the timeline", error) from error
    return summary


def _open(path: Path) -> TextIO:
    """Open the timeline for writing; `path` is its temporary name."""
    if path.name.removesuffix(".partial").endswith(".gz"):
        return gzip.open(path, "wt", compresslevel=4, encoding="utf-8")
    return path.open("w", encoding="utf-8")


def _parts(directory: Path, selection: Selection, summary: Summary) -> list[Part]:
    """Return the selected files in the order of ranks and time; note damaged files."""
    parts, seen = [], set()
    named = [(match, path) for path in directory.iterdir() if (match := NAME.fullmatch(path.name))]
    for match, path in sorted(named, key=lambda each: (int(each[0][1]), each[0][2] or "", int(each[0][3]))):
        seen.add(int(match[1]))
        if not selection.shows(int(match[1])):
            continue
        try:
            tag, content = next(_blocks(path), (b"", b""))
            header = json.loads(content) if tag == HEAD else None
        except (FormatError, ValueError):
            header = None
        if not (isinstance(header, dict) and header.keys() >= FACTS and header["rank"] == int(match[1])):
            summary.damaged.append(path.name)
            continue
        parts.append(Part(path, header))
    if not seen:
        raise UsageError(f"{directory}: no trace of a rank; set logging.trace=true and train again")
    if not parts and summary.damaged:
        raise FormatError(f"{directory}: no file can be read; all {len(summary.damaged)} are damaged")
    if not parts:
        raise UsageError(f"--ranks: no trace of these ranks; allowed: {min(seen)} to {max(seen)}")
    return parts


def _blocks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    try:
        with path.open("rb") as stream:
            yield from read_blocks(stream, str(path))
    except OSError as error:
        raise storage_error(path, "read the trace", error) from error


def _clocks_at_end(directory: Path) -> dict[int, tuple[float, float]]:
    """Return number of the clock -> its time and offset at the end of the run, from rank 0's parts."""
    for path in sorted(directory.glob("rank-0000.*.trace"), reverse=True):  # the newest has it in most cases
        with contextlib.suppress(FormatError, ValueError):
            for tag, content in _blocks(path):
                if tag == CLOCKS:
                    return {int(row[0]): (row[1], row[2]) for row in json.loads(content)["clocks"]}
    return {}


class _Offsets:
    """Offsets of clocks. A rank whose clock was not measured has that of its host, or its wall clock.

    Args:
        headers: Headers of all selected files.
    """

    def __init__(self, headers: Collection[Mapping[str, Any]]) -> None:
        measured = [header for header in headers if header["clock"]["offset"] is not None]
        self._of_hosts = {header["host"]: header["clock"] for header in measured}
        self._reference = measured[0]["clock"] if measured else next(iter(headers))["clock"]
        self.origin = float(self._reference["origin"] or self._reference["read_at"])

    def __call__(self, header: Mapping[str, Any]) -> tuple[Mapping[str, Any], float, float | None]:
        """Return the clock of a rank, its offset and the uncertainty; None: unknown."""
        clock = header["clock"]
        if clock["offset"] is None:
            clock = self._of_hosts.get(header["host"], clock)
        if clock["offset"] is not None:
            return clock, float(clock["offset"]), clock["uncertainty"]
        other = self._reference
        by_wall = (clock["wall"] - clock["read_at"]) - (other["wall"] - other["read_at"])
        return clock, by_wall + float(other["offset"] or 0.0), None


def _write_names(stream: TextIO, parts: Collection[Part]) -> None:
    """Write the names of processes and threads. Of several files of a rank the last one counts."""
    events: list[dict[str, Any]] = []
    for rank, part in {part.rank: part for part in parts}.items():
        names: list[tuple[str, int, dict[str, Any]]] = [
            ("process_name", 0, {"name": part.title}),
            ("process_sort_index", 0, {"sort_index": rank}),
            ("thread_name", 0, {"name": "roles"}),
            ("thread_name", 1, {"name": "background"}),
        ]
        for name, thread, arguments in names:
            events.append({"ph": "M", "pid": rank, "tid": thread, "name": name, "args": arguments})
    stream.write(",\n".join(json.dumps(event) for event in events))


def _write_part(
    stream: TextIO,
    part: Part,
    offset_of: _Offsets,
    clocks: Mapping[int, tuple[float, float]],
    selection: Selection,
    summary: Summary,
) -> None:
    """Write the events of one file, and add its figures to the summary."""
    header = part.header
    clock, offset, uncertainty = offset_of(header)
    read = 8
    write = _event_writer(header, selection)
    for tag, content in _blocks(part.path):
        read += 12 + len(content)
        if tag != SPANS or len(content) % RECORD_DTYPE.itemsize:
            continue
        records = np.frombuffer(content, RECORD_DTYPE)
        begun = float(clock["read_at"])
        later = None if clock["offset"] is None else clocks.get(int(clock["group"]))
        began = aligned(records["began"], offset, begun, later) - offset_of.origin
        ended = aligned(records["ended"], offset, begun, later) - offset_of.origin
        shown = (ended >= selection.begin) & (ended >= began)
        if selection.end is not None:
            shown &= began <= selection.end
        if shown.any():
            summary.first = min(summary.first, float(began[shown].min()))
            summary.last = max(summary.last, float(ended[shown].max()))
            summary.spans += int(shown.sum())
            summary.arrows += write(stream, records[shown], began[shown], ended[shown])
    size = part.path.stat().st_size
    summary.files += 1
    summary.bytes_read += size
    summary.ignored_bytes += max(0, size - read)
    summary.ranks.add(part.rank)
    if part.path.name.endswith(".0000.trace"):
        summary.older_dropped.discard(part.rank)
    elif not part.path.with_name(re.sub(r"\.\d+\.trace$", ".0000.trace", part.path.name)).exists():
        summary.older_dropped.add(part.rank)
    if uncertainty is None:
        summary.clock_error = None
    elif summary.clock_error is not None:
        summary.clock_error = max(summary.clock_error, float(uncertainty))


def _event_writer(
    header: Mapping[str, Any], selection: Selection
) -> Callable[[TextIO, Array, Array, Array], int]:
    """Return a function that writes the events of some records of a rank, and returns the arrows to it."""
    rank, ranks = int(header["rank"]), int(header["ranks"])
    names = {int(number): _escaped(name) for number, name in header["spans"].items()}
    kinds = {int(number): _escaped(name) for number, name in header["kinds"].items()}
    others = set(header["other_threads"])
    category = _escaped("+".join(header["roles"]))

    def arrow(phase: str, pair: int, number: int, at: float, kind: str) -> str:
        flow = pair * NUMBERS_OF_A_PAIR + number % NUMBERS_OF_A_PAIR
        bound = ',"bp":"e"' if phase == "f" else ""
        return (
            f',\n{{"ph":"{phase}"{bound},"id":{flow},"pid":{rank},"tid":0,"ts":{at:.3f},"name":"{kind}",'
            f'"cat":"message"}}'
        )

    def write(stream: TextIO, records: Array, began: Array, ended: Array) -> int:
        arrows, lines = 0, []
        rows = zip(records.tolist(), (began * 1e6).tolist(), (ended * 1e6).tolist(), strict=True)
        for (_, _, number, peer, span, kind), start, end in rows:
            name, arguments = names.get(span, f"span {span}"), ""
            if span in (SENT, RECEIVED):
                text = kinds.get(kind, str(kind))
                name = f"{name} {text}"
                if peer != NO_PEER:
                    arguments = f'"from":{peer}' if span == RECEIVED else f'"to":{peer}'
                if number != NO_NUMBER and peer != NO_PEER and selection.shows(peer):
                    pair = rank * ranks + peer if span == SENT else peer * ranks + rank
                    lines.append(arrow("s" if span == SENT else "f", pair, number, start, text))
                    arrows += span == RECEIVED
            elif number != NO_NUMBER:
                arguments = f'"version":{number}'
            lines.append(
                f',\n{{"ph":"X","pid":{rank},"tid":{int(span in others)},"ts":{start:.3f},'
                f'"dur":{end - start:.3f},"name":"{name}","cat":"{category}","args":{{{arguments}}}}}'
            )
        stream.write("".join(lines))
        return arrows

    return write


def _escaped(text: str) -> str:
    """Return a text as it stands between the quotes of JSON."""
    return json.dumps(str(text))[1:-1]
