"""`hpcmarl bench`: the commands that measure. Part of cli.py, and lazy like it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli_common import Json, OptionalConfig, Overrides, Ranks, Seconds, print_result, print_rows, set_threads, split_overrides, start

if TYPE_CHECKING:
    from hpcmarl.config import Config

bench_app = typer.Typer(
    no_args_is_help=True, help="Measure training throughput, sparse weights, a league's decisions, messages, slow ranks, costs or what kills leave."
)

# What is measured where no configuration is given: small networks, cheap environments, so that the machinery shows.
BENCHMARK_CONFIG = "name: bench\nenv: {id: mpe2.simple_spread_v3}\ntrajectories: {enabled: false}\neval: {episodes: 0}\nstop: {seconds: 3600}\n"


@bench_app.command()
def throughput(
    config: OptionalConfig = None, overrides: Overrides = None, ranks: Ranks = None, seconds: Seconds = 10.0, as_json: Json = False
) -> None:
    """Environment steps per second of training beside bare stepping, in one world (default: cores + 1 ranks).

    \b
    hpcmarl bench throughput configs/quickstart.yaml -n 4 --seconds 20 --json
    """
    settings = _bench_settings("throughput", config, overrides, ranks or _cores() + 1, seconds, as_json)
    from hpcmarl.bench.throughput import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def bare(
    environments: Annotated[list[str] | None, typer.Argument(metavar="[ENV...]", help="env.id of each; default: all natively batched ones")] = None,
    slots: Annotated[int, typer.Option("--slots", min=1, max=100_000, help="games that are stepped together")] = 64,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of measuring each environment")] = 4.0,
    as_json: Json = False,
) -> None:
    """Environment steps per second of natively batched environments beside those of the packages whose games they are: random actions, one core.

    The first steps of a map of SMAX compile, for some seconds.

    \b
    hpcmarl bench bare mpe2.simple_spread_v3 mpe2.simple_tag_v3 --json
    """
    set_threads(1)
    from hpcmarl.bench.bare import batched_environments, run

    rows = run(environments or batched_environments(), slots, seconds, lambda name: typer.echo(name, err=True))
    print_rows("rows", rows, as_json)


@bench_app.command()
def sampling(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="a simulation with objective.name: policy")],
    overrides: Overrides = None,
    seconds: Seconds = 24.0,
    as_json: Json = False,
) -> None:
    """Environment steps per second that simulations play, whose gradients are sampled, beside bare stepping: one process.

    \b
    hpcmarl bench sampling configs/paper/reacher.yaml --json
    """
    set_threads(1)
    from hpcmarl.bench.sampling import run
    from hpcmarl.config.file import load_simulation

    print_rows("rows", run(load_simulation(Path(config), overrides or ()), seconds), as_json)


@bench_app.command()
def acting(config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False) -> None:
    """Environment steps per second of acting, without learning, beside bare stepping: one process, no MPI.

    \b
    hpcmarl bench acting configs/smax/3m_ma_trace.yaml --seconds 20 --json
    """
    settings = _bench_settings("acting", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.acting import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def matches(config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False) -> None:
    """Environment steps per second of a league's matches between frozen policies, beside bare stepping: one process, no MPI.

    counted_share_of_steps: of all steps, those of episodes that count; the others are of slots that have played their share.

    \b
    hpcmarl bench matches configs/league/connect_four.yaml --seconds 20 --json
    """
    settings = _bench_settings("matches", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.matches import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def learning(config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False) -> None:
    """A learner's updates per second beside those of a bare torch loop, on the same network, loss and trajectories: one process, no MPI.

    Trajectories are played first. gradient_difference is the largest difference between the two gradients at the first parameters, over the
    largest number in them.

    \b
    hpcmarl bench learning configs/smax/3m_qmix.yaml --seconds 20 --json
    """
    settings = _bench_settings("learning", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.learning import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def sparse(
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of measuring, in all")] = 36.0,
    as_json: Json = False,
) -> None:
    """What zeros in the weights save where they act, learn and travel: time, memory and bytes by width and sparsity.

    The policy of a value-based algorithm: 128 observations, a hidden layer and a GRU of `width`, 16 actions; 24 rows (8 environments of 3 agents).
    Masks are random, of Erdős–Rényi densities. `_us`: microseconds of one acting step, median; `first_us`: of one right after new parameters;
    `csr_us`: with every matrix in CSR; `forms`: of the input, GRU (2) and output matrices, as measured. `learning_us`: a forward
    and a backward pass over 8 steps of 32 episodes. `message_us`: to write and read a message with the parameters.
    `_bytes`: of a message with the parameters; `_memory_bytes`: of the matrices that acting reads.

    \b
    hpcmarl bench sparse --seconds 60 --json
    """
    set_threads(1)
    from hpcmarl.bench.sparse import run

    print_rows("rows", run(seconds), as_json)


@bench_app.command()
def league(
    snapshots: Annotated[int, typer.Option("--snapshots", min=2, max=10_000, help="in the pool")] = 1000,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of measuring, in all, without what solving takes")] = 15.0,
    members: Annotated[int | None, typer.Option("--members", min=1, max=10_000, help="measure the server beside so many simulated teams")] = None,
    term_seconds: Annotated[float, typer.Option("--term-seconds", min=0.1, help="with --members: how long a simulated term takes")] = 60.0,
    as_json: Json = False,
) -> None:
    """What a league's decisions cost its server: one row for each matchmaker, kind of member, evaluation strategy and rating.

    `median_ms`: a mixture from new scores and a draw from it; a pair that is chosen, handed out and comes back; a rating. `late_ms`: one in
    twenty took longer. `first_ms`: the first time, in which psro solves for its meta-strategy and an evaluation strategy meets the whole
    pool; of elo, without ratings to start from. With `--members` one row: what share of its time a league's server works, in real time.

    \b
    hpcmarl bench league --snapshots 1000 --json
    hpcmarl bench league --members 64 --snapshots 1000 --seconds 30 --json
    """
    from hpcmarl.bench import league as decisions
    from hpcmarl.bench import league_server as server

    print_rows("rows", decisions.run(snapshots, seconds) if members is None else [server.run(members, snapshots, seconds, term_seconds)], as_json)


@bench_app.command()
def comm(config: OptionalConfig = None, overrides: Overrides = None, ranks: Ranks = None, seconds: Seconds = 5.0, as_json: Json = False) -> None:
    """Latency and bandwidth of messages beside bare mpi4py ping-pong.

    \b
    hpcmarl bench comm -n 4 --json
    """
    settings = _bench_settings("comm", config, overrides, ranks or 2, seconds, as_json)
    from hpcmarl.bench.comm import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def stragglers(
    ranks: Annotated[int, typer.Option("-n", "--ranks", min=3, metavar="RANKS", help="the server and a group on each other rank")] = 9,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of each of ten runs")] = 12.0,
    unit: Annotated[float, typer.Option("--unit", min=0.001, help="seconds that a trajectory takes in the fastest group")] = 0.2,
    until_return: Annotated[
        float | None, typer.Option("--until-return", metavar="RETURN", help="instead: seconds until this training return, with each rule")
    ] = None,
    limit: Annotated[float, typer.Option("--limit", min=1.0, help="of each of these runs, in seconds")] = 60.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="of these runs")] = 3,
    as_json: Json = False,
) -> None:
    """How much of the work of unequal groups each round rule uses, on real ranks that sleep.

    Efficiency is used gradients a second over the sum of 1/h, where h is a group's time for a trajectory. At the top: one group 10 times
    slower than the others; under `settings` also h = sqrt(1), sqrt(2), ... times the unit.

    With --until-return: training time until the mean return of 100 episodes of a small game reaches a value (untrained: about 4), in both
    settings; null where it does not within the limit. Beside it what the simulator predicts of the groups' measured times.

    \b
    hpcmarl bench stragglers -n 9 --json
    hpcmarl bench stragglers --until-return 8 --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    if not under_launcher(os.environ):
        told = ["--until-return", str(until_return), "--limit", str(limit), "--seeds", str(seeds)] if until_return is not None else []
        start(ranks, ["bench", "stragglers", "--seconds", str(seconds), "--unit", str(unit), *told, *(["--json"] if as_json else [])])
    if until_return is not None:
        from hpcmarl.bench import returns
        from hpcmarl.cli_plan import measured_run

        print_result(returns.run(until_return, limit, range(seeds), unit, measured_run), as_json)
        return
    from hpcmarl.bench.stragglers import run

    print_result(run(seconds, unit), as_json)


@bench_app.command()
def heterogeneous(
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="of training of each run")] = 30.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of each rule that are scored")] = 3,
    unit: Annotated[
        float, typer.Option("--unit", min=0.001, help="seconds that a wave of episodes takes the fast groups; ten times that the slow ones")
    ] = 0.06,
    as_json: Json = False,
) -> None:
    """Groups with different games, the slow ones unlike the fast ones: what each round rule makes of the mean objective, on 5 real ranks.

    Each rule's step size is tuned on another seed. Scores are expected returns by group and their mean with equal weights.
    With the defaults 18 runs, some ten minutes.

    \b
    hpcmarl bench heterogeneous --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    if not under_launcher(os.environ):
        flags = ["--json"] if as_json else []
        start(5, ["bench", "heterogeneous", "--seconds", str(seconds), "--seeds", str(seeds), "--unit", str(unit), *flags])
    from hpcmarl.bench.heterogeneous import run

    print_result(run(seconds, seeds, unit), as_json)


@bench_app.command()
def costs(
    ranks: Annotated[int | None, typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="a server and a group on each other rank")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=1.0, help="of each of four runs on ranks")] = 10.0,
    as_json: Json = False,
) -> None:
    """What one group more costs: CPU time, round overhead and memory on real ranks (-n), the rules and the simulator with virtual workers (without).

    \b
    hpcmarl bench costs -n 8 --json
    hpcmarl bench costs --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    joined = under_launcher(os.environ)
    if ranks is not None and not joined:
        start(ranks, ["bench", "costs", "-n", str(ranks), "--seconds", str(seconds), *(["--json"] if as_json else [])])
    from hpcmarl.bench.costs import real, virtual

    print_result(real(seconds) if joined else virtual(), as_json)


@bench_app.command()
def startup(
    ranks: Annotated[int, typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="of the run that is started")] = 4,
    as_json: Json = False,
) -> None:
    """What it takes to start a run: seconds to the first update; processor time, memory and opened files of each role by then.

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
    print_rows("roles", [{"role": role, **figures} for role, figures in result.items() if isinstance(figures, dict)], as_json)


@bench_app.command()
def scale(
    ranks: Annotated[str, typer.Option("--ranks", metavar="RANKS,RANKS,…", help="sizes; each is an MPI job of its own")] = "8,16,32,64,128",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of each run; there are 7 cases a size")] = 15.0,
    unit: Annotated[float | None, typer.Option("--unit", min=0.001, help="seconds of a trajectory; default: 0.01 a rank on a core")] = None,
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="runs of each case")] = 3,
    plot: Annotated[str | None, typer.Option("--plot", metavar="FILE", help="draw efficiency against ranks; FILE.svg or FILE.png")] = None,
    as_json: Json = False,
    in_one_world: Annotated[bool, typer.Option("--in-one-world", hidden=True)] = False,
    keep: Annotated[str | None, typer.Option("--keep", hidden=True)] = None,
) -> None:
    """Weak scaling with environments that sleep: every rule and both reductions on real ranks, beside what the simulator predicts.

    A size of n ranks has n/2 groups and a server on a rank of its own. Efficiency is used gradients a second over groups / unit.
    The prediction is made from the smallest size, as `hpcmarl simulate --from-run` does.

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
            start(sizes[0], ["bench", "scale", "--ranks", str(sizes[0]), *plan.arguments, *kept, "--in-one-world", "--json"])
        rows = benchmark.run(plan, None if keep is None else Path(keep))
        print_result(None if rows is None else {"rows": rows}, as_json)
        return
    if under_launcher(os.environ):
        raise UsageError("bench scale starts MPI jobs of its own; run it outside mpirun and srun")
    from hpcmarl.analysis.scaling import check_plot, plot_scaling
    from hpcmarl.cli_plan import measured_run

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
    """What `bench faults` kills."""

    job = "job"
    actor = "actor"
    learner = "learner"


class Reduction(StrEnum):
    """Of rounds.reduce, what `bench faults` kills."""

    server = "server"
    mpi = "mpi"


@bench_app.command()
def faults(
    kills: Annotated[int, typer.Option("--kills", min=1, help="how many")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the moments and the victims")] = 0,
    what: Annotated[Victim, typer.Option("--what", help="one rank with this role, or every process of the job")] = Victim.job,
    ranks: Annotated[int | None, typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="of each job; default 4, learner: 5")] = None,
    reduce: Annotated[Reduction, typer.Option("--reduce", help="how gradients are summed (rounds.reduce)")] = Reduction.server,
    run_dir: Annotated[str | None, typer.Option("--run-dir", metavar="DIR", help="keep the run there; default: a temporary one")] = None,
    as_json: Json = False,
) -> None:
    """Kill training with SIGKILL at random moments and count what was lost.

    It starts its jobs itself, one after the other on one run directory. Exits 1 when a file was corrupt, something stood twice,
    a kill was not recovered from, or it was interrupted.

    \b
    hpcmarl bench faults --kills 100 --seed 1 --what job --json
    """
    from hpcmarl.errors import UsageError
    from hpcmarl.launch.world import under_launcher

    if under_launcher(os.environ):
        raise UsageError("bench faults starts and kills MPI jobs of its own; run it outside mpirun and srun")
    set_threads(1)
    from hpcmarl.bench.faults import run

    result = run(kills, seed, what.value, ranks, run_dir, reduce.value)
    print_result(result, as_json)
    if result["corrupt_files"] or result["survived"] + result["resumed"] < kills:
        raise typer.Exit(1)


def _bench_settings(name: str, config: str | None, overrides: Sequence[str] | None, ranks: int, seconds: float, as_json: bool) -> Config:
    """The configuration to measure; outside a world this starts one and does not return."""
    from hpcmarl.config.file import load_config
    from hpcmarl.launch.world import under_launcher

    config, changes = split_overrides(config, overrides)
    settings = load_config(Path(config) if config else BENCHMARK_CONFIG, changes)
    set_threads(settings.topology.threads)
    if ranks > 1 and not under_launcher(os.environ):
        flags = ["--json"] if as_json else []
        start(ranks, ["bench", name, *([config] if config else []), *changes, "--seconds", str(seconds), *flags])
    return settings


def _cores() -> int:
    """Cores that this process may use: a learner and a server beside as many actors."""
    return len(os.sched_getaffinity(0))
