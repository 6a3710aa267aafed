"""Sparse networks, faults and starts, configuration and versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcmarl.config.differences import changed_keys, flat
from hpcmarl.config.yaml_text import parse
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.atomic import read_bytes
from hpcmarl.report.blocks import Listing, Part, Section, Table, Text, number, percent
from hpcmarl.report.curves import Curves
from hpcmarl.report.grouping import RunGroup
from hpcmarl.report.runs import LARGEST_CONFIG, ReportedRun

FAULTS = (
    ("lost_ranks", "lost ranks, not replaced"),
    ("replaced_ranks", "replaced ranks"),
    ("actors/restarts", "environment restarts"),
    ("actors/hangs", "environment hangs"),
    ("actors/bad_numbers", "episodes with bad numbers"),
    ("actors/quarantined", "excluded slots"),
)
SEEN_IN_CURVES = ("lost_ranks", "actors/restarts", "actors/hangs", "actors/bad_numbers")


def sparsity_section(runs: Sequence[ReportedRun]) -> Section | None:
    """Return densities and operations of sparse runs, beside those of the dense ones among the others."""
    if not any(_is_sparse(run) for run in runs):
        return None
    rows, of_rows, densities = [], [], []
    for place, run in enumerate(runs):
        summary = run.summary
        if not summary.get("training_flops"):
            continue
        training, dense = summary["training_flops"], summary["dense_training_flops"]
        acting, dense_acting = summary["acting_flops_per_step"], summary["dense_acting_flops_per_step"]
        of_rows.append(place)
        rows.append(
            [
                run.label,
                run.setting("algo.sparse.sparsity") or "dense",
                number(training, ".3e"),
                percent(training / dense if dense else None),
                number(acting, ",.0f"),
                percent(acting / dense_acting if dense_acting else None),
                number(run.last("seconds"), ",.0f"),
                number(run.last("eval_return_mean")),
            ]
        )
        densities += [
            [run.label, layer, percent(share)]
            for layer, share in (summary.get("layer_densities") or {}).items()
        ]
    if not rows:
        return Section("Sparsity", "sparsity", [Text("Operations are counted when a run ends.")])
    heading = [
        "run",
        "sparsity",
        "training, operations",
        "of dense",
        "acting, operations a step",
        "of dense",
        "training time, s",
        "evaluated return",
    ]
    caption = "Floating-point operations of sparse training, beside those of the same run with dense layers."
    parts: list[Part] = [Table(heading, rows, caption, numeric=range(2, 8), run_of_row=of_rows)]
    if densities:
        parts.append(
            Table(
                ["run", "layer", "active weights"],
                densities,
                "Active weights of each layer",
                (2,),
                folded=True,
            )
        )
    return Section("Sparsity", "sparsity", parts)


def _is_sparse(run: ReportedRun) -> bool:
    return any(key.startswith("algo.sparse.") for key in run.settings)


def faults_section(runs: Sequence[ReportedRun], curves: Curves) -> Section:
    """Return what went wrong in each run, and its starts."""
    parts: list[Part] = []
    rows = [
        [
            run.label,
            *(number(run.last(column), ",.0f") for column, _ in FAULTS),
            number(run.summary.get("bad_gradients")),
        ]
        for run in runs
    ]
    heading = ["run", *(title for _, title in FAULTS), "rejected gradients"]
    if any(cell not in ("0", "–") for row in rows for cell in row[1:]):
        caption = "Faults of each run. Lost ranks and excluded slots are those of the newest start."
        parts.append(Table(heading, rows, caption, range(1, len(heading)), range(len(runs))))
    else:
        parts.append(Text("No rank was lost, no environment failed and no gradient was rejected."))
    lost = [
        [
            run.label,
            str(entry["rank"]),
            str(entry["roles"]),
            number(entry["seconds"]),
            "yes" if entry["replaced"] else "no",
        ]
        for run in runs
        for entry in run.summary.get("lost_ranks") or ()
    ]
    if lost:
        caption = "Ranks lost in the newest start."
        parts.append(Table(["run", "rank", "roles", "at, s", "replaced"], lost, caption, (1, 3)))
    for column, title in FAULTS:
        if column in SEEN_IN_CURVES and any((run.last(column) or 0) > 0 for run in runs):
            plot = curves.plot(column, title[:1].upper() + title[1:], "", least=0.0)
            parts += [] if plot is None else [plot]
    parts += [
        Text(f"{run.label}: the last checkpoint failed: {error}", "warning")
        for run in runs
        if (error := run.summary.get("checkpoint_error"))
    ]
    parts.append(_starts(runs))
    return Section("Faults and starts", "faults", parts)


def _starts(runs: Sequence[ReportedRun]) -> Table:
    rows, of_rows = [], []
    for place, run in enumerate(runs):
        for start in run.starts:
            facts = start.facts
            ranks = run.activity[start.number].ranks if start.number in run.activity else ()
            of_rows.append(place)
            rows.append(
                [
                    run.label,
                    str(start.number),
                    str(facts.get("created", "–")),
                    str(facts.get("host", "–")),
                    str(facts.get("job") or "–"),
                    str(facts.get("ranks") or len(ranks) or "–"),
                    "the beginning"
                    if start.parent is None
                    else f"version {start.version} of start {start.parent}",
                    _changes(run, start.number),
                ]
            )
    heading = ["run", "start", "began", "host", "job", "ranks", "from", "changed keys"]
    return Table(heading, rows, "Starts of each run", (1, 5), of_rows, folded=len(rows) > 12)


def _changes(run: ReportedRun, number: int) -> str:
    """Return the keys in which a start's configuration differs from that of the start before."""
    if number <= 1:
        return "–"
    texts = [_config_of(run, each) for each in (number - 1, number)]
    try:
        before, now = (flat(parse(text, "config.yaml")[0]) for text in texts)
    except HpcmarlError:
        return "unknown"
    return ", ".join(str(each) for each in changed_keys(before, now)) or "none"


def _config_of(run: ReportedRun, start: int) -> str:
    """Return the configuration of a start; the newest is config.yaml, earlier ones are kept in starts/."""
    if start == max(each.number for each in run.starts):
        return run.config_text
    try:
        return read_bytes(run.path / "starts" / f"start-{start:04d}.yaml", LARGEST_CONFIG).decode()
    except (OSError, HpcmarlError, UnicodeDecodeError):
        return ""


def configuration_section(runs: Sequence[ReportedRun], groups: Sequence[RunGroup]) -> Section:
    """Return the configuration of each group and the versions of each run."""
    parts: list[Part] = []
    for group in groups:
        first = runs[group.runs[0]]
        if first.config_text:
            others = f" and {len(group.runs) - 1} more" if len(group.runs) > 1 else ""
            parts.append(Listing(f"{group.name}: config.yaml of {first.label}{others}", first.config_text))
    versions: list[dict[str, Any]] = [run.summary.get("versions") or _facts(run) for run in runs]
    names = list(dict.fromkeys(name for each in versions for name in each))
    if names:
        rows = [
            [run.label, *(str(each.get(name, "–")) for name in names)]
            for run, each in zip(runs, versions, strict=True)
        ]
        parts.append(Table(["run", *names], rows, "Versions", run_of_row=range(len(runs)), folded=True))
    places = [[run.label, str(run.path.absolute())] for run in runs]
    parts.append(Table(["run", "directory"], places, "Directories", folded=True))
    return Section("Configuration", "configuration", parts)


def _facts(run: ReportedRun) -> dict[str, Any]:
    """Return the versions in the record of the newest start, for a run without a summary."""
    facts = run.starts[-1].facts if run.starts else {}
    names = {"hpcmarl": "hpcmarl_version", "MPI": "library"}
    return {name: facts[key] for name, key in names.items() if facts.get(key)}
