"""Run the cases of a configuration in virtual time, and keep results and plots (`hpcmarl simulate`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcmarl.cli.common import Json, OptionalConfig, Overrides, print_table, set_threads
from hpcmarl.cli.progress import Progress

if TYPE_CHECKING:
    from hpcmarl.config.simulation import SimulationConfig
    from hpcmarl.sim.experiment import CaseResult

# Figures in the order of the JSON object. Those of LEARNED exist only with an objective.
FIGURES = (
    "gradients_per_time",
    "round_time_mean",
    "round_time_max",
    "round_time_bound",
    "rounds",
    "time",
    "used_gradients",
    "wasted_gradients",
    "abandoned_trajectories",
    "lost_workers",
)
LEARNED = ("objective", "gradient_norm", "parameter_mean")


def simulate(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Directory for the results. Default: runs/NAME-DATE-TIME."),
    ] = None,
    as_json: Json = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=1,
            metavar="N",
            help="Number of simulations that run at the same time, each in its own process.",
        ),
    ] = 1,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue an interrupted simulation in DIR; finished parts are not repeated."
        ),
    ] = False,
    from_run: Annotated[
        str | None,
        typer.Option("--from-run", metavar="RUN", help="Predict from the times that a run has measured."),
    ] = None,
    groups: Annotated[
        int | None,
        typer.Option(
            "--groups", metavar="N", help="With --from-run: number of groups. Default: as measured."
        ),
    ] = None,
    slow: Annotated[
        str | None,
        typer.Option(
            "--slow",
            metavar="SHARE:FACTORx",
            help="With --from-run: share of slower groups, and their factor.",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="RULE", help="With --from-run: predict only this rule (repeatable)."),
    ] = None,
) -> None:
    """Simulate a cluster in virtual time.

    The simulation uses the round rules and optimizers of training. The configuration sets the speeds,
    communication times and failures of the workers (docs/simulation.md).

    \b
    hpcmarl simulate configs/paper/throughput.yaml
    hpcmarl simulate configs/paper/throughput.yaml sim.workers=100 rounds.batch=200 --json --out runs/hundred
    hpcmarl simulate --from-run runs/first --groups 64 --slow 0.1:10x

    Keys on the command line apply to every case of sim.sweep. DIR receives simulation.h5, summary.json and
    plots. --jobs changes the duration of the simulation, but no result.

    --from-run writes nothing. It prints the throughput, round time and efficiency of each rule, and the best
    rule.
    """
    from hpcmarl.config.file import dump_config, load_simulation
    from hpcmarl.errors import UsageError

    set_threads(1)
    if from_run is not None:
        if config is not None or overrides or out is not None:
            raise UsageError(
                "--from-run takes the configuration of the run and writes nothing; leave out CONFIG, "
                "key=value and --out"
            )
        from hpcmarl.cli.plan import plan

        plan(from_run, groups, slow, rule or (), as_json)
        return
    if config is None:
        raise UsageError("simulate needs CONFIG, a file with a section sim, or --from-run RUN")
    if groups is not None or slow is not None or rule:
        raise UsageError(
            "--groups, --slow and --rule go with --from-run; for a CONFIG write sim.workers=N, "
            "sim.compute_times and rounds.rule=RULE"
        )
    if resume and out is None:
        raise UsageError("--resume needs --out DIR, the directory of the interrupted simulation")
    settings = load_simulation(Path(config), overrides or ())
    from hpcmarl.io.run_directory import new_run_directory

    directory = Path(out) if out is not None else new_run_directory(settings.name)
    from hpcmarl.io.partial_results import PartialResultStore
    from hpcmarl.sim.experiment import simulate as run
    from hpcmarl.sim.running import Runner

    store = PartialResultStore(directory, dump_config(settings))
    store.check(resume)
    began = time.perf_counter()
    with Progress("percent") as progress:
        results = run(
            settings,
            [change.partition("=")[0].strip() for change in overrides or ()],
            lambda share, words: progress.at(100 * share, 100, words),
            Runner(jobs, store),
        )
    seconds = time.perf_counter() - began
    summary = _summary(settings, results, seconds)
    _keep(directory, settings, results, summary)
    store.clear()
    _report(results, summary, directory, as_json)


def _nested(results: Sequence[CaseResult], value: Callable[[CaseResult], Any]) -> dict[str, Any]:
    """Arrange values as setting -> method -> value.

    A method with several batch sizes M has one more level: setting -> method -> M -> value.
    """
    nested: dict[str, Any] = {}
    for result in results:
        case, methods = result.case, nested.setdefault(result.case.setting, {})
        if case.batch is None:
            methods[case.method] = value(result)
        else:
            methods.setdefault(case.method, {})[str(case.batch)] = value(result)
    return nested


def _summary(settings: SimulationConfig, results: Sequence[CaseResult], seconds: float) -> dict[str, Any]:
    """Return the JSON object: means over seeds by setting and method, and the time of the simulation."""
    figures = (*FIGURES, *(name for name in LEARNED if name in results[0].outcomes[0].figures))
    events = sum(outcome.figures["events"] for result in results for outcome in result.outcomes)
    busy = sum(outcome.figures["seconds"] for result in results for outcome in result.outcomes)
    summary: dict[str, Any] = {"name": settings.name, "status": "finished"}
    summary |= {name: _nested(results, methodcaller("mean", name)) for name in figures}
    if settings.objective.name != "none":
        summary["objective_standard_error"] = _nested(
            results, lambda result: result.standard_error("objective")
        )
    if settings.sim.thresholds:
        summary["times_to_thresholds"] = _nested(results, lambda result: result.times_to_thresholds())
    if any(result.trials for result in results):
        summary["tuned"] = _nested(results, lambda result: result.tuned)
    summary["ended"] = _nested(
        results, lambda result: sorted({outcome.figures["ended"] for outcome in result.outcomes})
    )
    summary["seeds"] = sorted({outcome.seed for result in results for outcome in result.outcomes})
    return summary | {"events": events, "events_per_second": events / max(busy, 1e-9), "seconds": seconds}


def _keep(
    directory: Path, settings: SimulationConfig, results: Sequence[CaseResult], summary: dict[str, Any]
) -> None:
    """Write config.yaml, simulation.h5 and summary.json."""
    from hpcmarl.config.file import dump_config
    from hpcmarl.io.atomic import storage_error, write_text
    from hpcmarl.io.metrics import write_summary
    from hpcmarl.io.simulation import FILE_NAME, write_simulation

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(directory, "make", error) from error
    text = dump_config(settings)
    cases = []
    for result in results:
        outcomes = [
            {"seed": outcome.seed, **outcome.figures, "course": outcome.course} for outcome in result.outcomes
        ]
        case = {
            "setting": result.case.setting,
            "method": result.case.method,
            "batch": result.case.batch,
            "tuned": result.tuned,
        }
        trials = [{"values": values, "objective": late} for values, late in result.trials]
        cases.append(
            {**case, "trials": trials, "config": dump_config(result.case.config), "outcomes": outcomes}
        )
    write_text(directory / "config.yaml", text)
    write_simulation(directory / FILE_NAME, text, summary["seeds"], cases)
    write_summary(directory, summary)


def _report(results: Sequence[CaseResult], summary: dict[str, Any], directory: Path, as_json: bool) -> None:
    """Draw plots, print the table or the JSON object, and name the directory."""
    from hpcmarl.analysis.simulation import INSTALL, plot_simulation, plots_possible
    from hpcmarl.io.metrics import json_text
    from hpcmarl.io.simulation import FILE_NAME

    if plots_possible():
        plot_simulation(directory / FILE_NAME, directory)
    else:
        typer.echo(INSTALL, err=True)
    if as_json:
        typer.echo(json_text({**summary, "directory": str(directory)}))
    else:
        rows = [_row(result) for result in results]
        columns = dict.fromkeys(column for row in rows for column in row)
        print_table([{column: row.get(column, "") for column in columns} for row in rows])
    typer.echo(
        f"{summary['events']:,} events, {summary['events_per_second']:,.0f} per second; results in "
        f"{directory}",
        err=True,
    )


def _row(result: CaseResult) -> dict[str, Any]:
    """Return one row of the table."""
    shown = {
        "setting": result.case.setting,
        "method": result.case.label,
        "gradients/time": f"{result.mean('gradients_per_time'):.4g}",
    }
    shown["round time"] = f"{result.mean('round_time_mean'):.4g}"
    if math.isfinite(bound := result.mean("round_time_bound")):
        shown["at most"] = f"{bound:.4g}"
    shown |= {"rounds": f"{result.mean('rounds'):.0f}"}
    shown["wasted"] = f"{result.mean('wasted_gradients') + result.mean('abandoned_trajectories'):.0f}"
    for name in LEARNED:
        if name in result.outcomes[0].figures:
            shown[name.replace("_", " ")] = f"{result.mean(name):.4g}"
    if len(result.outcomes) > 1 and "objective" in result.outcomes[0].figures:
        shown["objective"] += f" ± {result.standard_error('objective'):.2g}"
    for times in result.times_to_thresholds() if result.case.config.sim.thresholds else ():
        spread = f" ({times['min']:.4g} to {times['max']:.4g})" if times["reached"] > 1 else ""
        middle = "" if times["median"] is None else f"{times['median']:.4g}"
        shown[f"to {times['threshold']:g}"] = (
            f"{middle}{spread}, {times['reached']} of {times['seeds']}".lstrip(", ")
        )
    if result.tuned:
        shown["tuned"] = ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in result.tuned.items()
        )
    ends = {str(outcome.figures["ended"]).partition(":")[0] for outcome in result.outcomes} - {"finished"}
    return shown | ({"ended": ", ".join(sorted(ends))} if ends else {})
