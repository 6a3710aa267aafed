"""The commands of `hpcmarl`, for the console script and `python -m hpcmarl`.

A command parses arguments, prints, and returns an exit code (errors.py); other packages do the work. It
imports what it needs when it runs, so that `--help` loads nothing heavy. With --json a command prints one
JSON object on standard output and everything else on standard error.

A new command is one function in this file or in another one. cli/show.py has the commands that only show
values, cli/bench.py those that measure. Larger commands have separate files, such as cli/submit.py.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl import __version__
from hpcmarl.cli.bench_ranks import bench_app
from hpcmarl.cli.common import (
    Json,
    OptionalConfig,
    Overrides,
    Ranks,
    Trust,
    check_single,
    config_of,
    load,
    names_environment,
    option,
    print_frames,
    print_result,
    printable,
    resume_source,
    say_first_line,
    set_threads,
    split_overrides,
    start,
    trust_options,
)
from hpcmarl.cli.export import export
from hpcmarl.cli.hints import WithOverrides
from hpcmarl.cli.init import init
from hpcmarl.cli.progress import Progress
from hpcmarl.cli.replay import replay
from hpcmarl.cli.report import report
from hpcmarl.cli.show import config_app, list_app
from hpcmarl.cli.simulate import simulate
from hpcmarl.cli.submit import submit
from hpcmarl.cli.sweep import sweep_trial
from hpcmarl.cli.trace import trace
from hpcmarl.cli.watch import watch
from hpcmarl.errors import HpcmarlError, UsageError

if TYPE_CHECKING:
    from hpcmarl.config import Config

# New objects between two garbage collections. With Python's default of 700, collections took a tenth of the
# time of imports.
NEW_OBJECTS = 50_000

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train multi-agent reinforcement-learning policies on one machine and on Slurm clusters over MPI.",
    epilog="First run: hpcmarl train quickstart -n 4",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(config_app, name="config")
app.add_typer(list_app, name="list")
app.add_typer(bench_app, name="bench")
app.command()(simulate)
app.command(cls=WithOverrides)(submit)
app.command()(watch)
app.command()(report)
app.command()(replay)
app.command()(init)
app.command()(trace)
app.command(name="sweep-trial", hidden=True)(sweep_trial)
app.command()(export)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hpcmarl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options before the command."""


@app.command(cls=WithOverrides)
def train(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    ranks: Ranks = None,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="Run directory. Default: runs/NAME-DATE-TIME."),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            metavar="auto|RUN|CHECKPOINT",
            help="Resume from a checkpoint; with another --run-dir, fork the run.",
        ),
    ] = None,
    trusted: Trust = None,
    accept_changes: Annotated[
        bool,
        typer.Option(
            "--accept-changes", help="Resume even if the environment or the name of the run has changed."
        ),
    ] = False,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep", metavar="FILE", help="Train the trials of a sweep, each in -n ranks of its own."
        ),
    ] = None,
) -> None:
    """Train policies.

    Without -n the command runs in the MPI world around it (mpirun, srun), or in one process. A bare mpirun of
    Open MPI needs --oversubscribe for more ranks than cores and --allow-run-as-root as root; -n adds both.

    \b
    hpcmarl train quickstart -n 4 stop.seconds=30
    mpirun -n 8 hpcmarl train configs/quickstart.yaml rounds.rule=rennala
    hpcmarl train --resume runs/quickstart-20260101-120000 -n 4
    hpcmarl train preset=mappo env.id=mpe2.simple_spread_v3 stop.env_steps=2000000 -n 4

    Overrides are YAML values. Items of a list are addressed by number; topology.groups.0.delay.step=0.1 also
    turns a number of groups into a list. Switching algo.name or optimizer.name keeps the keys that the old
    and the new choice share; other keys of that section get the new choice's defaults. An override preset=...
    sets the values of an algorithm's authors, unless the file or another override sets them (hpcmarl list
    presets).

    --resume auto takes the run in --run-dir, else the newest run of the same name. With --resume RUN or
    --resume CHECKPOINT, CONFIG may be left out. Differences from the checkpoint's configuration are logged.
    --resume A --run-dir B forks: B continues from a checkpoint of A, and A stays as it is.
    Another environment, or the directory of another run, is refused without --accept-changes.

    --sweep FILE trains CONFIG with other values for some keys: all combinations of a grid, random draws, or
    what Optuna chooses. --run-dir is the directory of the sweep; the same command continues it.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 stopped by a signal after a good
    checkpoint.
    """
    config, changes = split_overrides(config, overrides)
    if sweep is not None:
        if resume is not None:
            raise UsageError("--resume with --sweep: the same command with --run-dir continues a sweep")
        from hpcmarl.cli.sweep import train_sweep

        file = None if config is None else Path(config)
        raise typer.Exit(train_sweep(sweep, file, changes, ranks, run_dir, trusted))

    def read() -> Config:
        from hpcmarl.config.file import load_config

        alone = config is None and not (resume in (None, "auto") and names_environment(changes))
        return load_config(config_of(resume) if alone else config and Path(config), changes)

    from hpcmarl.launch.signals import StopSignals
    from hpcmarl.runtime.entry import shared_config

    signals = StopSignals()
    settings = shared_config(read, signals)
    set_threads(settings.topology.threads)
    if ranks is not None and ranks > 1:
        if run_dir is None and resume is None:
            from hpcmarl.io.run_directory import new_run_directory

            run_dir = str(new_run_directory(settings.name))
        say_first_line(settings, ranks, run_dir, resume)
        options = [
            *option("--run-dir", run_dir),
            *option("--resume", resume),
            *(["--accept-changes"] if accept_changes else []),
        ]
        options += trust_options(trusted)
        arguments = ["train", *([config] if config else []), *changes, *options]
        start(ranks, arguments, trains=True, source=lambda: resume_source(run_dir, resume, settings.name))
    check_single(ranks)
    say_first_line(settings, ranks, run_dir, resume)
    from hpcmarl.training import train as train_ranks

    raise typer.Exit(train_ranks(settings, run_dir, resume, accept_changes=accept_changes, signals=signals))


@app.command(name="eval")
def evaluate(
    path: Annotated[str, typer.Argument(metavar="RUN|CHECKPOINT", help="Run directory or checkpoint file.")],
    episodes: Annotated[
        int | None,
        typer.Option(
            "--episodes",
            min=1,
            help="Episodes to play. Default: eval.episodes of the run.",
            show_default=False,
        ),
    ] = None,
    greedy: Annotated[
        bool | None,
        typer.Option(
            "--greedy/--sample",
            help="Take greedy or sampled actions. Default: eval.greedy of the run.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Seed of the episodes. Default: eval.seed of the run.", show_default=False
        ),
    ] = None,
    random: Annotated[
        list[str] | None,
        typer.Option("--random", metavar="AGENT", help="Let this agent act at random (repeatable)."),
    ] = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Play episodes with trained policies, without learning.

    The environment must be that of the run's config.yaml, or belong to a package that depends on PettingZoo
    or Gymnasium. --trust ID allows any other environment.

    \b
    hpcmarl eval runs/quickstart-20260101-120000 --episodes 200 --json
    hpcmarl eval runs/tictactoe --random player_2 --episodes 500
    """
    config_of(path)
    set_threads(1)
    from hpcmarl.evaluation import evaluate_checkpoint

    with Progress("episodes") as progress:
        result = evaluate_checkpoint(path, episodes, greedy, seed, random or (), on_progress=progress.at)
    print_result(result, as_json)


@app.command(cls=WithOverrides)
def doctor(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    ranks: Ranks = None,
    run_dir: Annotated[
        str, typer.Option("--run-dir", metavar="DIR", help="Directory that runs will be written to.")
    ] = "runs",
    as_json: Json = False,
) -> None:
    """Check for problems that would make a run fail.

    The command checks MPI, the launcher, roles, messages between all ranks, storage and packages. It exits
    with code 1 if a line says BAD.

    \b
    hpcmarl doctor
    hpcmarl doctor configs/quickstart.yaml -n 4
    srun --mpi=pmix hpcmarl doctor configs/quickstart.yaml --run-dir /scratch/me/runs
    """
    config, changes = split_overrides(config, overrides)
    settings = load(config, changes) if config is not None or changes else None
    if ranks is not None and ranks > 1:
        flags = ["--json"] if as_json else []
        start(ranks, ["doctor", *([config] if config else []), *changes, "--run-dir", run_dir, *flags])
    check_single(ranks)
    from hpcmarl.doctor import examine

    raise typer.Exit(examine(settings, Path(run_dir), as_json))


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    },
    add_help_option=False,
)
def data(context: typer.Context) -> None:
    """Inspect, verify, salvage, merge or export HDF5 files."""
    from hpcmarl.cli.data import data_app

    data_app(context.args, prog_name="hpcmarl data")


@app.command(
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
        "help_option_names": [],
    },
    add_help_option=False,
)
def league(context: typer.Context) -> None:
    """Show a league, play matches between its policies, train exploiters, or export policies."""
    from hpcmarl.cli.league import league_app

    league_app(context.args, prog_name="hpcmarl league")


def main() -> None:
    """Run a command as the console script.

    An error that the user can fix is printed as one line and sets the exit code. Other errors show a
    traceback.
    """
    gc.set_threshold(NEW_OBJECTS)
    try:
        app(prog_name="hpcmarl")
    except HpcmarlError as error:
        sys.stdout.flush()
        if not (error.everywhere and _rank_label()):  # rank 0 prints an error that all ranks raise
            print_frames(error)
            whole = f" (whole traceback: {error.recorded})" if error.recorded else ""
            print(
                f"{_rank_label()}error: {printable(' '.join(str(error).split()) + whole)}",
                file=sys.stderr,
                flush=True,
            )
        sys.exit(error.exit_code)


def _rank_label() -> str:
    """Return a label of the rank that prints; empty for rank 0."""
    from hpcmarl.launch.world import launcher_world

    world = launcher_world(os.environ)
    return f"rank {world.rank}: " if world is not None and world.rank > 0 else ""
