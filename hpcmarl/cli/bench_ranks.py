"""Commands of `hpcmarl bench` that start ranks or MPI jobs themselves, and the benchmark of a league."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hpcmarl.cli.bench import bench_app
from hpcmarl.cli.common import Json, print_result, print_rows, set_threads, start

__all__ = ["bench_app"]  # has the commands of both files


@bench_app.command()
def league(
    snapshots: Annotated[int, typer.Option("--snapshots", min=2, max=10_000, help="in the pool")] = 1000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="of measuring, in all, without what solving takes")
    ] = 15.0,
    members: Annotated[
        int | None,
        typer.Option(
            "--members", min=1, max=10_000, help="measure the server beside so many simulated teams"
        ),
    ] = None,
    term_seconds: Annotated[
        float, typer.Option("--term-seconds", min=0.1, help="with --members: how long a simulated term takes")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """What a league's decisions cost its server: one row for each matchmaker, kind of member, evaluation
    strategy and rating.

    `median_ms`: a mixture from new scores and a draw from it; a pair that is chosen, handed out and comes
    back; a rating. `late_ms`: one in twenty took longer. `first_ms`: the first time, in which psro solves for
    its meta-strategy and an evaluation strategy meets the whole pool; of elo, without ratings to start from.
    With `--members` one row: what share of its time a league's server works, in real time.

    \b
    hpcmarl bench league --snapshots 1000 --json
    hpcmarl bench league --members 64 --snapshots 1000 --seconds 30 --json
    """
    from hpcmarl.bench import league as decisions
    from hpcmarl.bench import league_server as server

    print_rows(
        "rows",
        decisions.run(snapshots, seconds)
        if members is None
        else [server.run(members, snapshots, seconds, term_seconds)],
        as_json,
    )


@bench_app.command()
def stragglers(
    ranks: Annotated[
        int,
        typer.Option(
            "-n", "--ranks", min=3, metavar="RANKS", help="the server and a group on each other rank"
        ),
    ] = 9,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of each of ten runs")] = 12.0,
    unit: Annotated[
        float, typer.Option("--unit", min=0.001, help="seconds that a trajectory takes in the fastest group")
    ] = 0.2,
    until_return: Annotated[
        float | None,
        typer.Option(
            "--until-return",
            metavar="RETURN",
            help="instead: seconds until this training return, with each rule",
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option("--limit", min=1.0, help="of each of these runs, in seconds")
    ] = 60.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="of these runs")] = 3,
    as_json: Json = False,
) -> None:
    """How much of the work of unequal groups each round rule uses, on real ranks that sleep.

    Efficiency is used gradients a second over the sum of 1/h, where h is a group's time for a trajectory. At
    the top: one group 10 times slower than the others; under `settings` also h = sqrt(1), sqrt(2), ... times
    the unit.

    With --until-return: training time until the mean return of 100 episodes of a small game reaches a value
    (untrained: about 4), in both settings; null where it does not within the limit. Beside it what the
    simulator predicts of the groups' measured times.

    \b
    hpcmarl bench stragglers -n 9 --json
    hpcmarl bench stragglers --until-return 8 --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    if not under_launcher(os.environ):
        figures = (
            ["--until-return", str(until_return), "--limit", str(limit), "--seeds", str(seeds)]
            if until_return is not None
            else []
        )
        start(
            ranks,
            [
                "bench",
                "stragglers",
                "--seconds",
                str(seconds),
                "--unit",
                str(unit),
                *figures,
                *(["--json"] if as_json else []),
            ],
        )
    if until_return is not None:
        from hpcmarl.bench import returns
        from hpcmarl.cli.plan import measured_run

        print_result(returns.run(until_return, limit, range(seeds), unit, measured_run), as_json)
        return
    from hpcmarl.bench.stragglers import run

    print_result(run(seconds, unit), as_json)


@bench_app.command()
def heterogeneous(
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="of training of each run")] = 30.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each rule that are scored")] = 3,
    unit: Annotated[
        float,
        typer.Option(
            "--unit",
            min=0.001,
            help="seconds that a wave of episodes takes the fast groups; ten times that the slow ones",
        ),
    ] = 0.06,
    as_json: Json = False,
) -> None:
    """Groups with different games, the slow ones unlike the fast ones: what each round rule makes of the mean
    objective, on 5 real ranks.

    Each rule's step size is tuned on another seed. Scores are expected returns by group and their mean with
    equal weights. With the defaults 18 runs, some ten minutes.

    \b
    hpcmarl bench heterogeneous --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    if not under_launcher(os.environ):
        flags = ["--json"] if as_json else []
        start(
            5,
            [
                "bench",
                "heterogeneous",
                "--seconds",
                str(seconds),
                "--seeds",
                str(seeds),
                "--unit",
                str(unit),
                *flags,
            ],
        )
    from hpcmarl.bench.heterogeneous import run

    print_result(run(seconds, seeds, unit), as_json)


@bench_app.command()
def costs(
    ranks: Annotated[
        int | None,
        typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="a server and a group on each other rank"),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="of each of four runs on ranks")
    ] = 10.0,
    as_json: Json = False,
) -> None:
    """What one group more costs: CPU time, round overhead and memory on real ranks (-n), the rules and the
    simulator with virtual workers (without).

    \b
    hpcmarl bench costs -n 8 --json
    hpcmarl bench costs --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    joined = under_launcher(os.environ)
    if ranks is not None and not joined:
        start(
            ranks,
            ["bench", "costs", "-n", str(ranks), "--seconds", str(seconds), *(["--json"] if as_json else [])],
        )
    from hpcmarl.bench.costs import real, virtual

    print_result(real(seconds) if joined else virtual(), as_json)


@bench_app.command()
def startup(
    ranks: Annotated[
        int, typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="of the run that is started")
    ] = 4,
    as_json: Json = False,
) -> None:
    """What it takes to start a run: seconds to the first update; processor time, memory and opened files of
    each role by then.

    It starts its job itself.

    \b
    hpcmarl bench startup -n 64 --json
    """
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    if under_launcher(os.environ):
        raise UsageError("bench startup starts an MPI job of its own; run it outside mpirun and srun")
    set_threads(1)
    from hpcmarl.bench.startup import measure

    result = measure(ranks)
    if as_json:
        print_result(result, as_json)
        return
    print_result({name: value for name, value in result.items() if not isinstance(value, dict)}, as_json)
    print_rows(
        "roles",
        [{"role": role, **figures} for role, figures in result.items() if isinstance(figures, dict)],
        as_json,
    )


@bench_app.command()
def scale(
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="RANKS,RANKS,…", help="sizes; each is an MPI job of its own")
    ] = "8,16,32,64,128",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="of each run; there are 7 cases a size")
    ] = 15.0,
    unit: Annotated[
        float | None,
        typer.Option("--unit", min=0.001, help="seconds of a trajectory; default: 0.01 a rank on a core"),
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="runs of each case")] = 3,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="draw efficiency against ranks; FILE.svg or FILE.png"),
    ] = None,
    as_json: Json = False,
    in_one_world: Annotated[bool, typer.Option("--in-one-world", hidden=True)] = False,
    keep: Annotated[str | None, typer.Option("--keep", hidden=True)] = None,
) -> None:
    """Weak scaling with environments that sleep: every rule and both reductions on real ranks, beside what
    the simulator predicts.

    A size of n ranks has n/2 groups and a server on a rank of its own. Efficiency is used gradients a second
    over groups / unit. The prediction is made from the smallest size, as `hpcmarl simulate --from-run` does.

    \b
    hpcmarl bench scale --ranks 8,16,32 --plot scale.svg --json
    """
    from hpcmarl.bench import scale as benchmark
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    sizes = benchmark.parse_sizes(ranks)
    plan = benchmark.Plan(seconds, benchmark.default_unit(sizes) if unit is None else unit, repetitions)
    if in_one_world:
        if not under_launcher(os.environ):
            kept = ["--keep", keep] if keep is not None else []
            start(
                sizes[0],
                [
                    "bench",
                    "scale",
                    "--ranks",
                    str(sizes[0]),
                    *plan.arguments,
                    *kept,
                    "--in-one-world",
                    "--json",
                ],
            )
        rows = benchmark.run(plan, None if keep is None else Path(keep))
        print_result(None if rows is None else {"rows": rows}, as_json)
        return
    if under_launcher(os.environ):
        raise UsageError("bench scale starts MPI jobs of its own; run it outside mpirun and srun")
    from hpcmarl.analysis.scaling import check_plot, plot_scaling
    from hpcmarl.cli.plan import measured_run

    if plot is not None:
        check_plot(Path(plot))
    result = benchmark.measure(sizes, plan, measured_run, lambda line: typer.echo(line, err=True))
    if plot is not None:
        plot_scaling(result["rows"], Path(plot))
    if as_json:
        print_result(result, as_json)
    else:
        print_rows("rows", result["rows"], as_json)


class Victim(StrEnum):
    """Targets of `bench faults`."""

    job = "job"
    actor = "actor"
    learner = "learner"


class Reduction(StrEnum):
    """Values of rounds.reduce that `bench faults` supports."""

    server = "server"
    mpi = "mpi"


@bench_app.command()
def faults(
    kills: Annotated[int, typer.Option("--kills", min=1, help="how many")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the moments and the victims")] = 0,
    what: Annotated[
        Victim, typer.Option("--what", help="one rank with this role, or every process of the job")
    ] = Victim.job,
    ranks: Annotated[
        int | None,
        typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="of each job; default 4, learner: 5"),
    ] = None,
    reduce: Annotated[
        Reduction, typer.Option("--reduce", help="how gradients are summed (rounds.reduce)")
    ] = Reduction.server,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="keep the run there; default: a temporary one"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Kill training with SIGKILL at random moments and count what was lost.

    It starts its jobs itself, one after the other on one run directory. Exits 1 when a file was corrupt,
    something stood twice, a kill was not recovered from, or it was interrupted.

    \b
    hpcmarl bench faults --kills 100 --seed 1 --what job --json
    """
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    if under_launcher(os.environ):
        raise UsageError("bench faults starts and kills MPI jobs of its own; run it outside mpirun and srun")
    set_threads(1)
    from hpcmarl.bench.faults.campaign import run

    result = run(kills, seed, what.value, ranks, run_dir, reduce.value)
    print_result(result, as_json)
    if result["corrupt_files"] or result["survived"] + result["resumed"] < kills:
        raise typer.Exit(1)
