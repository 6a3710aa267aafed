"""Trace of one rank (`logging.trace`): its recorder, its clock, and the transport that records messages."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, replace
from typing import Any

from hpcmarl.comm.protocol import Kind
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.roles.base import Context
from hpcmarl.tracing.clock import Alignment, align, align_again, own_alignment
from hpcmarl.tracing.part_files import PARTS, PartFiles
from hpcmarl.tracing.spans import IN_OTHER_THREADS, LABELS, Tracer
from hpcmarl.tracing.transport import TracedTransport

FORMAT_VERSION = 1
MEGABYTE = 1_000_000


def traced(context: Context, origin: float = math.nan) -> Context:
    """Return the context with a recorder, if the run has `logging.trace`. Collective then.

    A process that replaces a dead rank cannot take part in the alignment of clocks.

    Args:
        context: Context of this rank.
        origin: Time of rank 0 that timelines show as zero; NaN in a replacement.
    """
    settings = context.config.logging
    if not settings.trace:
        return context
    alignment = own_alignment() if context.replaces else align(context.transport, origin)
    name = f"rank-{context.rank:04d}" + (f"-{os.getpid()}" if context.replaces else "")
    directory = RunDirectory(context.run_directory).trace_directory(context.start_number)
    files = PartFiles(directory, name, _header(context, alignment), settings.trace_megabytes * MEGABYTE)
    trace = Tracer(files)
    transport = TracedTransport(context.transport, trace, alignment, numbered=not context.replaces)
    return replace(context, transport=transport, trace=trace)


def measure_clocks_again(context: Context) -> None:
    """Measure the clocks of all hosts at the end of a run, so that readers can remove their drift.

    All ranks call it. It ends within seconds, even if ranks are gone.
    """
    if context.trace is None:
        return
    assert isinstance(context.transport, TracedTransport)
    clocks = align_again(context.transport.inner, context.transport.alignment)
    context.trace.flush()
    if clocks:
        context.trace.files.add_clocks({"clocks": clocks})


def _header(context: Context, alignment: Alignment) -> dict[str, Any]:
    """Return the facts that each file of this rank begins with."""
    facts = asdict(alignment)
    del facts["leaders"]
    clock = {name: None if value != value else value for name, value in facts.items()}
    return {
        "format": "hpcmarl-trace",
        "format_version": FORMAT_VERSION,
        "rank": context.rank,
        "ranks": context.transport.size,
        "roles": list(context.topology.roles_of(context.rank)),
        "host": context.transport.host,
        "process": os.getpid(),
        "run": context.run_id,
        "start": context.start_number,
        "keeps": f"the newest {PARTS} parts",
        "clock": clock,
        "spans": {str(int(span)): label for span, label in LABELS.items()},
        "other_threads": [int(span) for span in IN_OTHER_THREADS],
        "kinds": {str(int(kind)): kind.name for kind in Kind},
    }
