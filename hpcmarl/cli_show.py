"""The commands that show or measure without training: config, list, bench. Part of cli.py, and lazy like it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli_common import (
    ConfigArgument,
    Json,
    OptionalConfig,
    Overrides,
    Ranks,
    Seconds,
    print_result,
    print_rows,
    print_table,
    set_threads,
    split_overrides,
    start,
)

if TYPE_CHECKING:
    from hpcmarl.config import Config

config_app = typer.Typer(no_args_is_help=True, help="Show, check or explain a configuration.")
list_app = typer.Typer(no_args_is_help=True, help="List known environments, algorithms or round rules.")
bench_app = typer.Typer(no_args_is_help=True, help="Measure training throughput, communication, slow ranks or what kills leave.")

# What is measured where no configuration is given: small networks, cheap environments, so that the machinery shows.
BENCHMARK_CONFIG = "name: bench\nenv: {id: mpe2.simple_spread_v3}\ntrajectories: {enabled: false}\neval: {episodes: 0}\nstop: {seconds: 3600}\n"


@config_app.command()
def show(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Print the whole configuration, defaults included, as YAML that can be used again.

    \b
    hpcmarl config show configs/quickstart.yaml optimizer.name=nigt > mine.yaml
    """
    from hpcmarl.config.file import dump_config, load_either

    typer.echo(dump_config(load_either(Path(config), overrides or ())), nl=False)


@config_app.command()
def check(config: ConfigArgument, overrides: Overrides = None) -> None:
    """Say whether a configuration is valid; exits 2 with one line if not.

    \b
    hpcmarl config check configs/quickstart.yaml rounds.rule=malenia
    """
    from hpcmarl.config import Config
    from hpcmarl.config.file import load_either

    settings = load_either(Path(config), overrides or ())
    if isinstance(settings, Config):
        typer.echo(f"{config} is valid: {settings.env.id}, {settings.algo.name}, {settings.optimizer.name}, {settings.rounds.rule}")
        return
    from hpcmarl.config.sweep import candidates, cases

    found = cases(settings, [change.partition("=")[0].strip() for change in overrides or ()])
    for case in found:
        list(candidates(case.config))
    typer.echo(f"{config} is valid: a simulation of {len(found)} cases, objective {settings.objective.name}")


@config_app.command()
def schema(
    as_json: Annotated[bool, typer.Option("--json", help="JSON schema, for editors")] = False,
    simulation: Annotated[bool, typer.Option("--simulation", help="of files for hpcmarl simulate")] = False,
) -> None:
    """Every key: what is allowed, the default, what it means.

    \b
    hpcmarl config schema | grep delay
    hpcmarl config schema --simulation
    """
    from hpcmarl.config import Config
    from hpcmarl.config.keys import schema_rows
    from hpcmarl.config.simulation import SimulationConfig

    root = SimulationConfig if simulation else Config
    if as_json:
        typer.echo(json.dumps(root.model_json_schema(), indent=2))
        return
    print_table(
        [
            {
                "key": row.key,
                "allowed": row.allowed,
                "default": row.default,
                "meaning": row.description + (f" [{', '.join(row.only)}]" if row.only else ""),
            }
            for row in schema_rows(root)
        ]
    )


@list_app.command(name="envs")
def list_environments(as_json: Json = False) -> None:
    """Environments that are known to run; any PettingZoo environment works by its import path."""
    from hpcmarl.envs.known import KNOWN_ENVIRONMENTS

    print_rows(
        "environments",
        [
            {"id": known.id, "kind": known.kind, "installed": known.installed, "package": known.package, "summary": known.summary}
            for known in KNOWN_ENVIRONMENTS
        ],
        as_json,
    )


@list_app.command(name="algos")
def list_algorithms(as_json: Json = False) -> None:
    """Algorithms, for algo.name."""
    from hpcmarl.config.keys import first_line, members_of

    print_rows("algorithms", [{"name": name, "summary": first_line(model)} for name, model in members_of("algo").items()], as_json)


@list_app.command(name="rules")
def list_rules(as_json: Json = False) -> None:
    """Rules that end a round, for rounds.rule."""
    from hpcmarl.config.keys import first_line
    from hpcmarl.optim.rounds import RULES

    print_rows("rules", [{"name": name, "summary": first_line(rule)} for name, rule in RULES.items()], as_json)


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
    as_json: Json = False,
) -> None:
    """How much of the work of unequal groups each round rule uses, on real ranks that sleep.

    Efficiency is used gradients a second over the sum of 1/h, where h is a group's time for a trajectory. At the top: one group 10 times
    slower than the others; under `settings` also h = sqrt(1), sqrt(2), ... times the unit.

    \b
    hpcmarl bench stragglers -n 9 --json
    """
    from hpcmarl.launch.world import under_launcher

    set_threads(1)
    if not under_launcher(os.environ):
        start(ranks, ["bench", "stragglers", "--seconds", str(seconds), "--unit", str(unit), *(["--json"] if as_json else [])])
    from hpcmarl.bench.stragglers import run

    print_result(run(seconds, unit), as_json)


class Victim(StrEnum):
    """What `bench faults` kills."""

    job = "job"
    actor = "actor"
    learner = "learner"


@bench_app.command()
def faults(
    kills: Annotated[int, typer.Option("--kills", min=1, help="how many")] = 10,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the moments and the victims")] = 0,
    what: Annotated[Victim, typer.Option("--what", help="one rank with this role, or every process of the job")] = Victim.job,
    ranks: Annotated[int | None, typer.Option("-n", "--ranks", min=2, metavar="RANKS", help="of each job; default 4, learner: 5")] = None,
    run_dir: Annotated[str | None, typer.Option("--run-dir", metavar="DIR", help="keep the run there; default: a temporary one")] = None,
    as_json: Json = False,
) -> None:
    """Kill training with SIGKILL at random moments and count what was lost.

    It starts its jobs itself, one after the other on one run directory. Exits 1 when a file was corrupt,
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

    result = run(kills, seed, what.value, ranks, run_dir)
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
