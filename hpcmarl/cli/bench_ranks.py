"""Commands of `hpcmarl bench` that start ranks or MPI jobs themselves, and the benchmark of a league."""

from __future__ import annotations

import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from hpcmarl.cli.bench import bench_app
from hpcmarl.cli.common import Json, print_result, print_rows, print_table, set_threads, start
from hpcmarl.cli.progress import Progress

__all__ = ["bench_app"]  # has the commands of both files


@bench_app.command()
def league(
    snapshots: Annotated[
        int, typer.Option("--snapshots", min=2, max=10_000, help="Number of snapshots in the pool.")
    ] = 1000,
    seconds: Annotated[
        float,
        typer.Option("--seconds", min=0.1, help="Total measuring time in seconds, without the first calls."),
    ] = 15.0,
    members: Annotated[
        int | None,
        typer.Option(
            "--members", min=1, max=10_000, help="Measure the server with this many simulated teams instead."
        ),
    ] = None,
    term_seconds: Annotated[
        float,
        typer.Option(
            "--term-seconds", min=0.1, help="With --members: seconds of a simulated training assignment."
        ),
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Measure the time of a league's decisions on its server.

    The result has one row for each matchmaker, kind of member, evaluation strategy and rating. A call is a
    new mixture and a draw from it; or a pair that is chosen, starts and ends; or a rating.

    \b
    median_ms  median time of a call
    late_ms    time that one call in twenty exceeds
    first_ms   time of the first call: psro solves for its meta-strategy, an evaluation strategy adds the
               whole pool, elo starts without ratings

    With --members the result is one row for the server in real time, with its share of processor time and its
    memory.

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
            "-n",
            "--ranks",
            min=3,
            metavar="RANKS",
            help="Number of ranks: the server, and a group on each other rank.",
        ),
    ] = 9,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Seconds of each of the ten runs.")
    ] = 12.0,
    unit: Annotated[
        float, typer.Option("--unit", min=0.001, help="Seconds of a trajectory in the fastest group.")
    ] = 0.2,
    until_return: Annotated[
        float | None,
        typer.Option(
            "--until-return",
            metavar="RETURN",
            help="Measure the seconds until this training return with each rule instead.",
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option("--limit", min=1.0, help="With --until-return: most seconds of each run.")
    ] = 60.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="With --until-return: number of seeds.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure the share of unequal groups' work that each round rule uses.

    The groups run on real ranks that sleep. Efficiency is used gradients per second divided by the sum of
    1/h, where h is a group's time for a trajectory. In the first figures one group is 10 times slower than
    the others; `settings` also has h = sqrt(1), sqrt(2), ... times the unit.

    With --until-return the result is a training time in both settings. The time ends when the mean return of
    100 episodes of a small game reaches the value (untrained: about 4). It is null beyond the limit.
    The simulator's prediction from the groups' measured times is added.

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
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="Training time of each run in seconds.")
    ] = 30.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Scored runs of each rule.")] = 3,
    unit: Annotated[
        float,
        typer.Option(
            "--unit",
            min=0.001,
            help="Seconds of a wave of episodes in the fast groups; in the slow groups ten times as long.",
        ),
    ] = 0.06,
    as_json: Json = False,
) -> None:
    """Compare the mean objective of round rules when slow groups differ from fast ones.

    The groups play different games on 5 real ranks. Each rule's step size is tuned on another seed. Scores
    are expected returns of each group, and their mean with equal weights. The defaults make 18 runs in about
    ten minutes.

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
        typer.Option(
            "-n",
            "--ranks",
            min=2,
            metavar="RANKS",
            help="Number of ranks: the server, and a group on each other rank.",
        ),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="With -n: seconds of each of the four runs.")
    ] = 10.0,
    as_json: Json = False,
) -> None:
    """Measure the cost of one more group.

    With -n the result has CPU time, round overhead and memory on real ranks. Without -n it has the time of
    the rules and of the simulator with virtual workers.

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
        int, typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="Number of ranks of the run.")
    ] = 4,
    as_json: Json = False,
) -> None:
    """Measure the start of a run.

    The result has the seconds to the first update, and the processor time, memory and opened files of each
    role by then. The command starts the run itself.

    \b
    hpcmarl bench startup -n 64 --json
    """
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    if under_launcher(os.environ):
        raise UsageError("bench startup starts an MPI job itself; run it outside mpirun and srun")
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
        str, typer.Option("--ranks", metavar="RANKS,RANKS,…", help="Numbers of ranks, one MPI job for each.")
    ] = "8,16,32,64,128",
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Seconds of each run; each size has 7 cases.")
    ] = 15.0,
    unit: Annotated[
        float | None,
        typer.Option(
            "--unit",
            min=0.001,
            help="Seconds of a trajectory. Default: 0.01 for each rank that shares a core.",
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Runs of each case.")] = 3,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot", metavar="FILE", help="Draw efficiency against ranks into FILE.svg or FILE.png."
        ),
    ] = None,
    as_json: Json = False,
    in_one_world: Annotated[bool, typer.Option("--in-one-world", hidden=True)] = False,
    keep: Annotated[str | None, typer.Option("--keep", hidden=True)] = None,
) -> None:
    """Measure weak scaling on real ranks whose environments sleep.

    The result has every rule and both reductions, and the simulator's prediction for each. A size of n ranks
    has n/2 groups and a server on a separate rank. Efficiency is used gradients per second divided by groups
    / unit. The prediction starts from the smallest size, as `hpcmarl simulate --from-run` does.

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
        raise UsageError("bench scale starts MPI jobs itself; run it outside mpirun and srun")
    from hpcmarl.analysis.scaling import check_plot, plot_scaling
    from hpcmarl.cli.plan import measured_run

    if plot is not None:
        check_plot(Path(plot))
    with Progress("jobs") as progress:
        say = partial(progress.say, error=True)
        result = benchmark.measure(sizes, plan, measured_run, say, progress.at)
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
    kills: Annotated[int, typer.Option("--kills", min=1, help="Number of kills.")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the moments and the victims.")] = 0,
    what: Annotated[
        Victim,
        typer.Option(
            "--what", help="Target of each kill: a rank with this role, or every process of the job."
        ),
    ] = Victim.job,
    ranks: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--ranks",
            min=2,
            metavar="RANKS",
            help="Ranks of each job. Default: 4, or 5 for --what learner.",
        ),
    ] = None,
    reduce: Annotated[Reduction, typer.Option("--reduce", help="Value of rounds.reduce.")] = Reduction.server,
    run_dir: Annotated[
        str | None,
        typer.Option(
            "--run-dir", metavar="DIR", help="Directory to keep the run in. Default: a temporary one."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Kill training with SIGKILL at random moments and count the losses.

    The command starts its jobs itself, one after the other on one run directory. It exits with code 1 in
    these cases: a file was corrupt, a row or a rollout was duplicated, the run did not recover, or the
    command was interrupted.

    \b
    hpcmarl bench faults --kills 100 --seed 1 --what job --json
    """
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    if under_launcher(os.environ):
        raise UsageError("bench faults starts and kills MPI jobs itself; run it outside mpirun and srun")
    set_threads(1)
    from hpcmarl.bench.faults.campaign import run

    with Progress("kills") as progress:
        result = run(kills, seed, what.value, ranks, run_dir, reduce.value, progress.at)
    print_result(result, as_json)
    if result["corrupt_files"] or result["survived"] + result["resumed"] < kills:
        raise typer.Exit(1)


def _names(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@bench_app.command()
def workers(
    networks: Annotated[
        str, typer.Option("--networks", metavar="NAMES", help="Networks, with commas.")
    ] = "mlp-64-64,gru-256,mlp-1024-1024",
    environments: Annotated[
        str, typer.Option("--environments", metavar="NAMES", help="Environments, with commas.")
    ] = "busy-10us,busy-300us,waiting-5ms,waiting-1-to-50ms",
    numbers: Annotated[
        str, typer.Option("--workers", metavar="NUMBERS", help="Numbers of workers, with commas.")
    ] = "1,2,3",
    slots: Annotated[int, typer.Option("--slots", min=1, help="Environments for each rank that acts.")] = 16,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="Seconds of each run.")] = 5.0,
    decoupled: Annotated[
        bool, typer.Option("--decoupled/--no-decoupled", help="Also slow the learner and the workers.")
    ] = True,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Device of a third inference: cuda or cuda:N.")
    ] = "cpu",
    in_one_world: Annotated[bool, typer.Option("--in-one-world", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Compare actors that step their environments with actors and workers.

    Both have equal ranks and equal environments, and nothing is learned. The bare rate is that of the ranks
    of the workers, if they only step environments. The command starts its MPI jobs itself.

    \b
    exchange_us_per_worker_step  time of a worker for each step of half of its environments,
                                 besides the environments themselves
    workers_numpy_..., workers_torch_..., workers_device_...
                                 rates by topology.inference; the last one with --device only

    A second table shows the rates of interaction and of updates if the learner or the workers are ten times
    slower. simple-spread is a further environment, natively batched.

    \b
    hpcmarl bench workers --json
    hpcmarl bench workers --networks gru-256 --environments busy-300us --workers 2
    """
    from hpcmarl.bench import workers as measurement
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    if wrong := [word for word in _names(numbers) if not word.isdecimal() or int(word) < 1]:
        raise UsageError(f"--workers: {wrong[0]!r} is not a number of workers; allowed: for instance 1,2,3")
    names, counts = (_names(networks), _names(environments)), [int(number) for number in _names(numbers)]
    rows = measurement.cases(*names, counts, slots, device)
    if in_one_world:
        if not under_launcher(os.environ):
            named = ["--networks", networks, "--environments", environments, "--workers", numbers]
            flags = ["--decoupled" if decoupled else "--no-decoupled", "--in-one-world", "--json"]
            flags += ["--device", device]
            start(
                measurement.ranks_for(int(numbers)),
                ["bench", "workers", *named, "--slots", str(slots), "--seconds", str(seconds), *flags],
            )
        print_result(measurement.run(rows, seconds, decoupled=decoupled), as_json)
        return
    if under_launcher(os.environ):
        raise UsageError("bench workers starts MPI jobs itself; run it outside mpirun and srun")
    with Progress("jobs") as progress:
        say = partial(progress.say, error=True)
        result = measurement.measure(rows, seconds, say, decoupled=decoupled, on_progress=progress.at)
    if as_json:
        print_result(result, as_json)
        return
    for table in ("rows", "decoupled"):
        if result[table]:
            print_table([measurement.rounded(row) for row in result[table]])
