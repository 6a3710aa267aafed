"""Sweeps on this machine (`hpcmarl train --sweep`), and the trial of a job array (`hpcmarl sweep-trial`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hpcmarl.cli.common import trust_options
from hpcmarl.cli.progress import Progress
from hpcmarl.errors import UsageError


def train_sweep(
    file: Path,
    config: Path | None,
    changes: Sequence[str],
    ranks: int | None,
    run_dir: str | None,
    trusted: Sequence[str] | None,
) -> int:
    """Train all trials of a sweep here; a directory with some of them is continued.

    Args:
        file: The sweep.
        config: File of the configuration that it varies; None: the changes are all of it.
        changes: Changes to that configuration.
        ranks: Ranks of each trial; None: one process without MPI.
        run_dir: Directory of the sweep; None: a new one.
        trusted: Environments that may be imported.

    Returns:
        Exit code.

    Raises:
        ConfigError, UsageError: The sweep, a trial or the directory is not usable.
    """
    from hpcmarl.config.file import load_config, load_sweep
    from hpcmarl.io.run_directory import new_run_directory
    from hpcmarl.launch.world import launcher_world
    from hpcmarl.sweeps.directory import SweepDirectory, best_of, outcomes, prepare, values_text
    from hpcmarl.sweeps.local import LocalSweep

    if launcher_world(os.environ) is not None:
        raise UsageError(
            "--sweep inside an MPI world: each trial starts its own ranks; start one process, with -n RANKS "
            "for each trial, or use hpcmarl submit --sweep"
        )
    sweep, base = load_sweep(file), load_config(config, changes)
    path = Path(run_dir) if run_dir is not None else new_run_directory(f"{base.name}-sweep")
    directory = SweepDirectory(path)
    prepare(directory, sweep, base)
    begun = sum(each.ended for each in outcomes(directory, sweep))
    typer.echo(
        f"{sweep.count} trials, {begun} of them done, {sweep.parallel} at a time; each is a run in {path}"
    )
    with Progress("trials", sweep.count, begun) as progress:

        def say(line: str, done: int, count: int) -> None:
            progress.say(line)
            progress.at(done)

        local = LocalSweep(directory, sweep, ranks, trust_options(list(trusted or ())), say)
        code = local.run()
    if local.usage_error:
        raise UsageError(local.usage_error)
    best = best_of(sweep, list(outcomes(directory, sweep)))
    if best is not None and best.value is not None:
        values = values_text(best.trial.values)
        typer.echo(f"best: trial {best.trial.number} ({values}), {sweep.metric} {best.value:.5g}")
    typer.echo(f"table: {directory.table}; hpcmarl report {path}")
    return code


def sweep_trial(
    path: Annotated[Path, typer.Argument(metavar="SWEEP", help="Directory of the sweep.")],
    number: Annotated[int, typer.Argument(min=1, help="Number of the trial.")],
) -> None:
    """Choose the values of a trial of a sweep and write its configuration.

    The batch script of hpcmarl submit --sweep calls this command before it trains.
    """
    from hpcmarl.config.file import load_config
    from hpcmarl.sweeps.directory import SweepDirectory, is_sweep, read_trial

    directory = SweepDirectory(path)
    if not is_sweep(path):
        raise UsageError(f"{path}: not the directory of a sweep (sweep.yaml, base.yaml)")
    sweep = directory.read_sweep()
    if number > sweep.count:
        raise UsageError(f"trial {number}: {path} has {sweep.count}; allowed: 1 to {sweep.count}")
    if read_trial(directory, number) is None:
        from hpcmarl.sweeps.optuna_search import ask

        ask(directory, sweep, load_config(directory.base_file), number)
