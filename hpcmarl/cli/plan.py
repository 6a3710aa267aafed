"""Predict other numbers or mixes of groups from a run's measured times (`hpcmarl simulate --from-run`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from hpcmarl.cli.common import print_table
from hpcmarl.errors import UsageError

if TYPE_CHECKING:
    from hpcmarl.sim.plan import Measured

LARGEST = 100_000  # most groups


def plan(run: str, groups: int | None, slow: str | None, rules: Sequence[str], as_json: bool) -> None:
    """Read a run's metrics, predict the throughput of each rule, and print it.

    Args:
        run: Run directory.
        groups: Number of groups; None: as in the run.
        slow: Share and factor of slower groups, SHARE:FACTORx; None: no further slow groups.
        rules: Rules to predict; empty: all.
        as_json: Whether to print one JSON object.

    Raises:
        UsageError: An option is not allowed, or the run has measured too little.
    """
    from hpcmarl.optim.rounds import RULES
    from hpcmarl.sim.plan import Slow, best_rule, predict

    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise UsageError(f"--rule {unknown[0]}: unknown; allowed: {', '.join(RULES)}")
    if groups is not None and not 1 <= groups <= LARGEST:
        raise UsageError(f"--groups {groups}: allowed: a number from 1 to {LARGEST}")
    slower = None if slow is None else Slow.parse(slow)
    measured = measured_run(Path(run))
    group_count = len(measured.groups) if groups is None else groups
    predictions = predict(measured, group_count, list(dict.fromkeys(rules)) or list(RULES), slower)
    best, reason = best_rule(predictions, differ=measured.differ)
    if as_json:
        from hpcmarl.io.metrics import json_text

        typer.echo(
            json_text(
                _inputs(run, measured, group_count, slow)
                | {"rules": predictions, "best_rule": best, "reason": reason}
            )
        )
        return
    print_table([{"rule": rule, **_cells(figures)} for rule, figures in predictions.items()])
    typer.echo(f"best: {best}: {reason}")
    if math.isfinite(measured.rate):
        typer.echo(
            (
                f"measured in the run ({measured.rule}, {len(measured.groups)} groups): {measured.rate:.4g} "
                "trajectories per second"
            ),
            err=True,
        )


def measured_run(run: Path) -> Measured:
    """Return the times that a run has measured.

    Raises:
        UsageError: The directory is not a run, or the run has measured too little.
    """
    from hpcmarl.config.file import load_config
    from hpcmarl.io.metrics import read_groups, read_metrics
    from hpcmarl.io.run_directory import RunDirectory
    from hpcmarl.sim.plan import fit

    paths = RunDirectory(run)
    if not paths.config.is_file():
        raise UsageError(
            f"--from-run {run}: not a run directory, because it has no config.yaml; name a directory that "
            "hpcmarl train has written"
        )
    groups = read_groups(run)
    columns, config = read_metrics(run), load_config(paths.config)
    figures, versions = ({}, columns["version"][:0]) if groups is None else (groups.figures, groups.version)
    return fit(columns, config, f"--from-run {run}", figures, versions)


def _inputs(run: str, measured: Measured, groups: int, slow: str | None) -> dict[str, Any]:
    """Return the inputs of the prediction; the run's own figures are null if it has too few rows."""
    return {
        "from_run": run,
        "groups": groups,
        "slow": slow,
        "measured_rule": measured.rule,
        "measured_groups": len(measured.groups),
        "measured_trajectories_per_second": measured.rate,
        "measured_round_seconds": measured.round_seconds,
        "trajectory_seconds": [group.seconds for group in measured.groups],
        "exchange_seconds": [group.exchange_seconds for group in measured.groups],
        "server_gradient_seconds": measured.server_seconds,
        "trajectories_per_group_and_round": measured.share,
    }


def _cells(figures: dict[str, float]) -> dict[str, str]:
    return {
        "trajectories/s": f"{figures['trajectories_per_second']:.4g}",
        "round [s]": f"{figures['round_seconds']:.4g}",
        "efficiency": f"{figures['efficiency']:.1%}",
    }
