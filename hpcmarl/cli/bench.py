"""Commands of `hpcmarl bench` that measure in this process or in this MPI world."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli.common import (
    Json,
    OptionalConfig,
    Overrides,
    Ranks,
    Seconds,
    print_result,
    print_rows,
    set_threads,
    split_overrides,
    start,
)

if TYPE_CHECKING:
    from hpcmarl.config import Config

bench_app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Measure training throughput, sparse weights, a league's decisions, messages, slow ranks, costs or "
        "what kills leave."
    ),
)

# Default configuration. Small networks and a cheap environment let the overhead of hpcmarl show.
BENCHMARK_CONFIG = (
    "name: bench\nenv: {id: mpe2.simple_spread_v3}\ntrajectories: {enabled: false}\neval: "
    "{episodes: 0}\nstop: {seconds: 3600}\n"
)


@bench_app.command()
def throughput(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    ranks: Ranks = None,
    seconds: Seconds = 10.0,
    as_json: Json = False,
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
    environments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ENV...]", help="env.id of each; default: all natively batched ones"),
    ] = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=100_000, help="games that are stepped together")
    ] = 64,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="of measuring each environment")] = 4.0,
    as_json: Json = False,
) -> None:
    """Environment steps per second of natively batched environments beside those of the packages whose games
    they are: random actions, one core.

    The first steps of a map of SMAX compile, for some seconds.

    \b
    hpcmarl bench bare mpe2.simple_spread_v3 mpe2.simple_tag_v3 --json
    """
    set_threads(1)
    from hpcmarl.bench.bare import batched_environments, run

    rows = run(
        environments or batched_environments(), slots, seconds, lambda name: typer.echo(name, err=True)
    )
    print_rows("rows", rows, as_json)


@bench_app.command()
def sampling(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="a simulation with objective.name: policy")],
    overrides: Overrides = None,
    seconds: Seconds = 24.0,
    as_json: Json = False,
) -> None:
    """Environment steps per second that simulations play, whose gradients are sampled, beside bare stepping:
    one process.

    \b
    hpcmarl bench sampling configs/paper/reacher.yaml --json
    """
    set_threads(1)
    from hpcmarl.bench.sampling import run
    from hpcmarl.config.file import load_simulation

    print_rows("rows", run(load_simulation(Path(config), overrides or ()), seconds), as_json)


@bench_app.command()
def acting(
    config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False
) -> None:
    """Environment steps per second of acting, without learning, beside bare stepping: one process, no MPI.

    \b
    hpcmarl bench acting configs/smax/3m_ma_trace.yaml --seconds 20 --json
    """
    settings = _bench_settings("acting", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.acting import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def matches(
    config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False
) -> None:
    """Environment steps per second of a league's matches between frozen policies, beside bare stepping: one
    process, no MPI.

    counted_share_of_steps: of all steps, those of episodes that count; the others are of slots that have
    played their share.

    \b
    hpcmarl bench matches configs/league/connect_four.yaml --seconds 20 --json
    """
    settings = _bench_settings("matches", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.matches import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def learning(
    config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False
) -> None:
    """A learner's updates per second beside those of a bare torch loop, on the same network, loss and
    trajectories: one process, no MPI.

    Trajectories are played first. gradient_difference is the largest difference between the two gradients at
    the first parameters, over the largest number in them.

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
    """What zeros in the weights save where they act, learn and travel: time, memory and bytes by width and
    sparsity.

    The policy of a value-based algorithm: 128 observations, a hidden layer and a GRU of `width`, 16 actions;
    24 rows (8 environments of 3 agents). Masks are random, of Erdős–Rényi densities. `_us`: microseconds of
    one acting step, median; `first_us`: of one right after new parameters; `csr_us`: with every matrix in
    CSR; `forms`: of the input, GRU (2) and output matrices, as measured. `learning_us`: a forward and a
    backward pass over 8 steps of 32 episodes. `message_us`: to write and read a message with the parameters.
    `_bytes`: of a message with the parameters; `_memory_bytes`: of the matrices that acting reads.

    \b
    hpcmarl bench sparse --seconds 60 --json
    """
    set_threads(1)
    from hpcmarl.bench.sparse import run

    print_rows("rows", run(seconds), as_json)


@bench_app.command()
def comm(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    ranks: Ranks = None,
    seconds: Seconds = 5.0,
    as_json: Json = False,
) -> None:
    """Latency and bandwidth of messages beside bare mpi4py ping-pong.

    \b
    hpcmarl bench comm -n 4 --json
    """
    settings = _bench_settings("comm", config, overrides, ranks or 2, seconds, as_json)
    from hpcmarl.bench.comm import run

    print_result(run(settings, seconds), as_json)


def _bench_settings(
    name: str, config: str | None, overrides: Sequence[str] | None, ranks: int, seconds: float, as_json: bool
) -> Config:
    """Return the configuration to measure.

    If several ranks are needed and no launcher runs, start them here; then this function does not return.
    """
    from hpcmarl.config.file import load_config
    from hpcmarl.launch.world import under_launcher

    config, changes = split_overrides(config, overrides)
    settings = load_config(Path(config) if config else BENCHMARK_CONFIG, changes)
    set_threads(settings.topology.threads)
    if ranks > 1 and not under_launcher(os.environ):
        flags = ["--json"] if as_json else []
        start(
            ranks, ["bench", name, *([config] if config else []), *changes, "--seconds", str(seconds), *flags]
        )
    return settings


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))
