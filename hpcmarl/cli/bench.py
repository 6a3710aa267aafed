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
from hpcmarl.cli.progress import Progress

if TYPE_CHECKING:
    from hpcmarl.config import Config

bench_app = typer.Typer(
    no_args_is_help=True,
    help="Measure throughput, messages, round rules, sparse weights, leagues or recovery from kills.",
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
    """Compare the throughput of training with bare environment stepping.

    Both are in environment steps per second, in one world. By default it has one rank more than cores.

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
        typer.Argument(
            metavar="[ENV...]", help="env.id of each environment. Default: all natively batched ones."
        ),
    ] = None,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=100_000, help="Games that are stepped together.")
    ] = 64,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Seconds to measure each environment.")
    ] = 4.0,
    as_json: Json = False,
) -> None:
    """Compare natively batched environments with the packages that provide the same games.

    Both take random actions on one core. The result is in environment steps per second. The first steps of a
    map of SMAX take some seconds, because they compile.

    \b
    hpcmarl bench bare mpe2.simple_spread_v3 mpe2.simple_tag_v3 --json
    """
    set_threads(1)
    from hpcmarl.bench.bare import batched_environments, run

    with Progress("environments") as progress:
        rows = run(environments or batched_environments(), slots, seconds, progress.at)
    print_rows("rows", rows, as_json)


@bench_app.command()
def sampling(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="YAML file of a simulation with objective.name: policy.")
    ],
    overrides: Overrides = None,
    seconds: Seconds = 24.0,
    as_json: Json = False,
) -> None:
    """Compare simulations with sampled gradients with bare environment stepping.

    Both are in environment steps per second, in one process.

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
    """Compare acting, without learning, with a bare torch loop and with bare environment stepping.

    All are in environment steps per second, in one process without MPI. The bare torch loop has plain layers
    or the user's module, and samples by torch.distributions.

    \b
    decision_us             time of a decision for all agents of all slots, without the environments' step
    decision_us_by_library  the same for each value of topology.inference that can compute the networks
    bare_torch_...          figures of the bare torch loop; its ratios are above 1 if hpcmarl is faster

    \b
    hpcmarl bench acting configs/bench/cnn.yaml --seconds 20 --json
    """
    settings = _bench_settings("acting", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.acting import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def matches(
    config: OptionalConfig = None, overrides: Overrides = None, seconds: Seconds = 10.0, as_json: Json = False
) -> None:
    """Compare a league's matches between frozen policies with bare environment stepping.

    Both are in environment steps per second, in one process without MPI. counted_share_of_steps is the share
    of steps in episodes that count. The other steps are of slots that have finished their episodes.

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
    """Compare a learner's updates per second with those of a bare torch loop.

    Both use the same network, loss and trajectories, in one process without MPI. The trajectories are played
    first. gradient_difference is the largest difference between the two gradients at the initial parameters,
    relative to the largest entry.

    \b
    hpcmarl bench learning configs/bench/cnn.yaml --seconds 20 --json
    """
    settings = _bench_settings("learning", config, overrides, 1, seconds, as_json)
    from hpcmarl.bench.learning import run

    print_result(run(settings, seconds), as_json)


@bench_app.command()
def sparse(
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, help="Total measuring time in seconds.")
    ] = 36.0,
    as_json: Json = False,
) -> None:
    """Compare dense and sparse weights in acting, learning and messages.

    The result has one row for each width and sparsity, with medians in microseconds. The policy is that of a
    value-based algorithm: 128 observations, a hidden layer and a GRU of `width`, 16 actions. It acts for 24
    rows (8 environments of 3 agents). Masks are random with Erdős–Rényi densities.

    \b
    dense_us, csr_us, sparse_us  one acting step with dense matrices, with all matrices in CSR, and with the
                                 format that was measured to be faster for each matrix
    ..._first_us                 the first acting step after new parameters
    ..._learning_us              a forward and a backward pass over 8 steps of 32 episodes
    ..._message_us               writing and reading a message with the parameters
    ..._bytes                    size of a message with the parameters
    ..._memory_bytes             size of the matrices that acting reads
    forms                        formats of the input, GRU (2) and output matrices in sparse_us

    \b
    hpcmarl bench sparse --seconds 60 --json
    """
    set_threads(1)
    from hpcmarl.bench.sparse import run

    with Progress("cases") as progress:
        rows = run(seconds, on_progress=progress.at)
    print_rows("rows", rows, as_json)


@bench_app.command()
def io(
    gigabytes: Annotated[
        float, typer.Option("--gigabytes", min=0.0001, help="Size of the trajectories before compression.")
    ] = 0.5,
    compression: Annotated[
        str,
        typer.Option("--compression", metavar="NAME", help="Setting trajectories.compression."),
    ] = "none",
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="Place for the files, which are deleted at the end. Default: the temporary directory.",
            show_default=False,
        ),
    ] = None,
    runs: Annotated[
        int, typer.Option("--runs", min=0, max=1000, help="Runs of the report; 0: measure no report.")
    ] = 10,
    rows: Annotated[
        int, typer.Option("--rows", min=1, max=10_000_000, help="Rows of metrics of each run.")
    ] = 20_000,
    as_json: Json = False,
) -> None:
    """Compare trajectory files with bare h5py, and measure a report of long runs.

    Both write and read the same arrays with the same chunks, checksums and compression. They take turns.
    Writing ends with fsync. Reading is from the page cache. Ratios are hpcmarl's speed by that of bare h5py.

    \b
    write_ratio    the writer of an actor
    verify_ratio   hpcmarl data verify, against bare reading
    inspect_ratio  hpcmarl data inspect, against bare reading
    merge_ratio    hpcmarl data merge, against bare reading and writing
    report_...     hpcmarl report in a process of its own

    \b
    hpcmarl bench io --gigabytes 2 --dir /scratch --json
    """
    set_threads(1)
    from hpcmarl.bench.io import run

    print_result(run(gigabytes, compression, directory, runs, rows), as_json)


@bench_app.command()
def comm(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    ranks: Ranks = None,
    seconds: Seconds = 5.0,
    as_json: Json = False,
) -> None:
    """Compare the latency and bandwidth of messages with a bare mpi4py ping-pong.

    By default the world has two ranks.

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
