"""The commands `hpcmarl league …`.

cli/league_play.py has match and tournament, cli/league_show.py prints the result of show. With --json one
object goes to standard output and everything else to standard error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hpcmarl.cli.common import (
    Json,
    Overrides,
    Ranks,
    Trust,
    check_single,
    config_of,
    finite,
    load,
    option,
    print_json,
    printable,
    resume_source,
    set_threads,
    start,
    trust_options,
)
from hpcmarl.cli.league_play import Run, match, tournament
from hpcmarl.cli.progress import Progress
from hpcmarl.errors import UsageError

league_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Show a league, play matches and tournaments, train exploiters, or export and transfer policies.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

league_app.command()(match)
league_app.command()(tournament)


@league_app.command()
def show(
    run: Run,
    plots: Annotated[
        Path | None,
        typer.Option("--plots", metavar="DIR", help="Directory for plots, which need hpcmarl[analysis]."),
    ] = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Show a league's members with ratings, payoffs, opponents and exploitability.

    Ratings are Elo points with intervals of 95 %. Scores are 1 for a win, 0.5 for a draw and 0 for a loss.
    docs/league.md describes all figures.

    \b
    hpcmarl league show runs/rps
    hpcmarl league show runs/rps --json | python -m json.tool
    hpcmarl league show runs/rps --plots pictures
    """
    set_threads(1)
    from hpcmarl.league.commands.exploit import trained_responses, with_trained
    from hpcmarl.league.commands.exploitability import exploitability
    from hpcmarl.league.commands.reader import read_league
    from hpcmarl.league.core.summary import summarise

    if plots is not None:
        _check_plots(plots)
    league = read_league(run)
    facts = {
        "run": run,
        "checkpoint": str(league.checkpoint),
        "name": league.config.name,
        "env": league.config.env.id,
    }
    result: dict[str, Any] = {**facts, **summarise(league.state)}
    exact, reason = exploitability(league, result["nash"])
    result["exploitability"] = with_trained(exact, trained_responses(league))
    if reason:
        result["reasons"]["exploitability"] = reason
    written = []
    if plots is not None:
        from hpcmarl.analysis.league import plot_league

        written = [str(path) for path in plot_league(result, plots)]
    if as_json:
        print_json(finite({**result, "plots": written}))
        return
    from hpcmarl.cli.league_show import print_league

    print_league(result)
    for path in written:
        typer.echo(f"wrote {path}")


@league_app.command()
def export(
    run: Run,
    member: Annotated[
        str | None,
        typer.Option("--member", metavar="NAME", help="Export the newest snapshot of this member."),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", metavar="NAME", help="Export this snapshot.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.npz", help="File for the parameters; it must not exist."),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="FILE.csv", help="File for the payoff table; it must not exist."),
    ] = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Write a snapshot's parameters for use elsewhere, or the payoff table.

    FILE.npz holds the parameters by name. FILE.json beside it describes the networks. docs/league.md
    describes both formats.

    \b
    hpcmarl league export runs/rps --member main --out main.npz
    hpcmarl league export runs/rps --table payoff.csv
    """
    named = [name for name in (member, snapshot) if name is not None]
    if len(named) > 1 or bool(named) != (out is not None) or (out is None and table is None):
        raise UsageError(
            "league export needs --member NAME or --snapshot NAME with --out FILE.npz, or --table FILE.csv, "
            "or both"
        )
    set_threads(1)
    from hpcmarl.analysis.league_export import check_outputs, write_parameters, write_payoff
    from hpcmarl.league.commands.reader import describe_networks, read_league
    from hpcmarl.league.core.summary import summarise

    league = read_league(run)
    if member is not None and member not in league.game.members:
        raise UsageError(
            f"--member {member}: {run} has no such member; allowed: {', '.join(league.game.members)}"
        )
    check_outputs(out, table)
    result: dict[str, Any] = {}
    if out is not None:
        chosen = league.snapshot(named[0])
        parameters, description = describe_networks(league, chosen)
        result["parameters"] = write_parameters(out, parameters, description)
    if table is not None:
        summary = summarise(league.state)
        names = [each["name"] for each in summary["snapshots"]]
        result["table"] = write_payoff(
            table, names, summary["games"], summary["payoff"], summary["mean_return"]
        )
    if as_json:
        print_json(result)
        return
    for what in result.values():
        typer.echo(
            ", ".join(
                f"{key} {value}" if isinstance(value, int) else str(value) for key, value in what.items()
            )
        )


@league_app.command()
def transfer(
    run: Run,
    snapshot: Annotated[
        str, typer.Argument(metavar="SNAPSHOT", help="Snapshot, or member for its newest one.")
    ],
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG", help="YAML file of the league to transfer it to, with the new observations."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE.h5", help="File for the new snapshot; it must not exist."),
    ],
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--features",
            metavar="POLICY=LIST",
            help="Old number of each new feature, or new, as in prey=0-9,new*2,10 (repeatable).",
            show_default=False,
        ),
    ] = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Make a snapshot fit changed observations without changing its outputs.

    New features begin with weights of zero. The command checks that the outputs stay the same. A member of a
    new league starts from the snapshot with league.members.NAME.start: FILE.h5.

    \b
    hpcmarl league transfer runs/tag prey configs/tag_with_wind.yaml --features prey=0-13,new*2 --out prey.h5
    """
    set_threads(1)
    from hpcmarl.cli.common import load
    from hpcmarl.league.commands.reader import read_league
    from hpcmarl.league.commands.transfer import transfer_snapshot

    result = transfer_snapshot(read_league(run), snapshot, load(config, []), features or [], out)
    if as_json:
        print_json(result)
        return
    typer.echo(f"{result['snapshot']} to {result['file']}: {result['parameters']} parameters")
    typer.echo(f"outputs change by at most {result['difference']:.1e} of the largest output")
    for what in ("widened", "begun"):
        if result[what]:
            typer.echo(f"{what}: {', '.join(result[what])}")


@league_app.command()
def exploit(
    run: Run,
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Policy to exploit: a snapshot, or a member for its newest one."),
    ],
    overrides: Overrides = None,
    ranks: Ranks = None,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="Run directory. Default: RUN/exploiters/SNAPSHOT."),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="auto|DIR|CHECKPOINT", help="Resume from a checkpoint.")
    ] = None,
    episodes: Annotated[
        int, typer.Option("--episodes", min=2, help="Episodes against the target at the end.")
    ] = 1000,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Train an opponent against one frozen policy.

    The opponent's gain is a lower bound of a best response's gain. The opponent trains with RUN's
    configuration and the given changes. It stops at RUN's limit, unless stop.updates, stop.env_steps or
    stop.seconds is given. Without -n the command runs in the MPI world around it, or in one process. The
    result is in exploit.json, and in `hpcmarl league show RUN`.

    \b
    hpcmarl league exploit runs/connect_four main -n 4 stop.seconds=600
    srun --mpi=pmix hpcmarl league exploit runs/tag prey-000012 --resume auto
    hpcmarl league exploit runs/rps main optimizer.step_size=0.002 --run-dir runs/rps/exploiters/main-slow

    --resume auto takes the newest checkpoint of the directory. Exit codes are those of hpcmarl train.
    """
    changes = list(overrides or ())
    load(str(config_of(run)), [])  # sets the number of threads
    if ranks is not None and ranks > 1:
        flags = [
            *option("--run-dir", run_dir),
            *option("--resume", resume),
            "--episodes",
            str(episodes),
            *(["--json"] if as_json else []),
        ]
        arguments = ["league", "exploit", run, name, *changes, *flags, *trust_options(trusted)]
        start(ranks, arguments, trains=True, source=lambda: resume_source(run_dir, resume, None))
    check_single(ranks)
    from hpcmarl.league.commands.exploit import Exploitation
    from hpcmarl.training import train_planned

    exploitation = Exploitation(run, name, changes, run_dir, resume, episodes)

    def finish(directory: Path) -> None:
        with Progress("episodes") as progress:
            result = exploitation.judge(directory, progress.at)
        _print_exploit(result, as_json)

    raise typer.Exit(train_planned(exploitation.plan, resume, finish))


def _print_exploit(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    target, baseline = printable(result["target"]), printable(result["baseline"])
    trained = f"{result['updates']:,} updates, {result['env_steps']:,} environment steps"
    typer.echo(
        f"{result['exploiter']} ({trained}) against {target}, {result['episodes']} episodes, "
        f"{'greedy' if result['greedy'] else 'sampled'}"
    )
    typer.echo(
        f"score of the exploiter: {result['score']:.3f} (95 % from {result['score_low']:.3f} to "
        f"{result['score_high']:.3f})"
    )
    typer.echo(
        f"mean return of the exploiter: {result['return_mean']:.4g} (standard error "
        f"{result['return_sem']:.2g})"
    )
    typer.echo(
        f"mean return of {baseline} against {target}: {result['baseline_return_mean']:.4g} (standard error "
        f"{result['baseline_return_sem']:.2g})"
    )
    typer.echo(
        f"a best response to {target} gains at least {result['gain']:.4g} (95 % from "
        f"{result['gain_low']:.4g} to {result['gain_high']:.4g})"
    )
    typer.echo(f"wrote {printable(result['file'])}")


def _check_plots(directory: Path) -> None:
    """Check that plots can be written, before the league is read.

    Raises:
        MissingPackageError: matplotlib is missing.
        UsageError: The path is not a directory.
    """
    from hpcmarl.analysis.simulation import INSTALL, plots_possible
    from hpcmarl.errors import MissingPackageError

    if not plots_possible():
        raise MissingPackageError(f"--plots {directory}: {INSTALL}")
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--plots {directory}: not a directory; name an existing directory or a new one")
