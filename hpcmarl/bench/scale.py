"""Measure weak scaling on real ranks whose environments sleep, and compare it with the simulator.

Sleeping environments let two cores carry many ranks. `hpcmarl bench scale` starts one MPI job for each size.
A size of n ranks has n/2 groups and a server on a separate rank. Each group has a learner and an actor; the
last learner also acts. A trajectory is one step of a small environment and takes `unit` seconds. A round has
one trajectory of each group. That is the smallest possible round, so that the overhead of a round shows most.

efficiency = used gradients per second * unit / groups, between two ends of rounds. A round of afedpg has one
gradient. Both ends are then those of the same group: groups with equal times finish together, and a few ends
more or less would change the result. The predictions are those of `hpcmarl simulate --from-run`. They start
from the run of the smallest size with the rule sync, one run for each reduction.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.bench.faults.jobs import Job
from hpcmarl.bench.runs import Moment, Stage, ends, on_stage
from hpcmarl.bench.startup import memory_of
from hpcmarl.bench.stragglers import case
from hpcmarl.config import Config
from hpcmarl.errors import HpcmarlError, UsageError
from hpcmarl.sim.plan import Measured, predict
from hpcmarl.training import join_world

REDUCTIONS = ("server", "mpi")
# afedpg sums no gradients, so the reduction does not matter
CASES = (
    *((rule, reduce) for rule in ("sync", "rennala", "malenia") for reduce in REDUCTIONS),
    ("afedpg", "server"),
)
# A trajectory takes at least this long for each rank that shares a core. The ranks then have enough processor
# time.
SECONDS_PER_RANK = 0.01
WARM_UP = 4.0  # trajectories of a group before the measurement starts
START_SECONDS = 900.0  # most time for the ranks of a job to start and to end


@dataclass(frozen=True)
class Plan:
    """Settings of the measurement at each size.

    Attributes:
        seconds: Seconds of each run.
        unit: Seconds of a trajectory.
        repetitions: Runs of each case.
    """

    seconds: float
    unit: float
    repetitions: int

    @property
    def arguments(self) -> list[str]:
        """The plan as options of the command."""
        return [
            "--seconds",
            str(self.seconds),
            "--unit",
            str(self.unit),
            "--repetitions",
            str(self.repetitions),
        ]

    @property
    def limit(self) -> float:
        """Seconds after which a job counts as stuck and is killed."""
        return START_SECONDS + 3 * len(CASES) * self.repetitions * self.seconds


def parse_sizes(text: str) -> list[int]:
    """Return the numbers of ranks in a text such as "8,16", in ascending order.

    Raises:
        UsageError: An entry is not a number of at least 4, the least for two groups.
    """
    words = [word.strip() for word in text.split(",")]
    wrong = [word for word in words if not word.isdecimal() or int(word) < 4]
    if wrong:
        raise UsageError(
            f"--ranks {text}: {wrong[0]!r} is not a number of at least 4; allowed: numbers of ranks with "
            "commas, for instance 8,16,32"
        )
    return sorted({int(word) for word in words})


def default_unit(sizes: Sequence[int]) -> float:
    """Return the seconds of a trajectory for which the largest size has enough processor time.

    All sizes use the same value.
    """
    return SECONDS_PER_RANK * max(sizes) / len(os.sched_getaffinity(0))


def run(plan: Plan, keep: Path | None = None) -> list[dict[str, Any]] | None:
    """Measure every case on the ranks of this world. Collective.

    Args:
        plan: Settings of the measurement.
        keep: Folder for copies of the runs that predictions use, one for each reduction; None: no copies.

    Returns:
        On rank 0 one row for each case, without predictions; None on other ranks.

    Raises:
        UsageError: There are fewer than four ranks.
    """
    transport = join_world()
    if transport.size < 4:
        raise UsageError(
            "bench scale needs a server and at least two groups: start four ranks or more: hpcmarl bench "
            "scale --ranks 8,16"
        )
    compute = [plan.unit] * (transport.size // 2)
    rows = []
    with on_stage(transport) as stage:
        # The first run imports all modules that are loaded late.
        stage.play(configuration("afedpg", "server", compute, 120.0, f"stop.updates={2 * transport.size}"))
        for rule, reduce in CASES:
            played = []
            for _ in range(plan.repetitions):
                played.append(stage.play(configuration(rule, reduce, compute, plan.seconds)))
                if keep is not None and rule == "sync" and stage.directory is not None:
                    shutil.copytree(
                        Path(stage.directory) / str(stage.played), keep / reduce, dirs_exist_ok=True
                    )
            memory = _memory(stage)
            if transport.rank == 0:
                case_of_row = {
                    "ranks": transport.size,
                    "groups": len(compute),
                    "rule": rule,
                    "reduce": reduce,
                }
                turn = len(compute) if rule == "afedpg" else 1
                rows.append({**case_of_row, **figures(played, plan.unit, len(compute), turn), **memory})
    return rows if transport.rank == 0 else None


def configuration(rule: str, reduce: str, compute: Sequence[float], seconds: float, *more: str) -> Config:
    """Return the configuration of one run.

    Args:
        rule: Value of rounds.rule.
        reduce: Value of rounds.reduce.
        compute: Seconds of a trajectory of each group.
        seconds: Training time.
        *more: Further changes to the configuration.
    """
    batch = 1 if rule == "afedpg" else len(compute)
    return case(
        rule,
        "ma_trace",
        compute,
        seconds,
        f"rounds.batch={batch}",
        f"rounds.reduce={reduce}",
        "topology.actors_per_learner=auto",
        *more,
    )


def figures(
    played: Sequence[Sequence[Moment]], unit: float, groups: int, turn: int = 1
) -> dict[str, float | None]:
    """Return means over repetitions.

    Args:
        played: Ends of rounds of each repetition.
        unit: Seconds of a trajectory.
        groups: Number of groups.
        turn: The measurement covers a multiple of this number of gradients.

    Returns:
        The efficiency with its standard deviation (None for one repetition), the overhead of a round in ms,
        and the server's share of a core. The overhead is the time of a round beyond `unit` for each
        trajectory that it uses from a group. With afedpg it is the time of a step beyond `unit` / groups.

    Raises:
        HpcmarlError: A repetition has fewer than two rounds after the warm-up.
    """
    efficiencies, overheads, shares = [], [], []
    for moments in played:
        first, last = ends(moments, WARM_UP * unit)
        last = next(
            (
                moment
                for moment in reversed(moments)
                if moment.used > first.used and (moment.used - first.used) % turn == 0
            ),
            last,
        )
        elapsed, used = last.seconds - first.seconds, last.used - first.used
        rounds = sum(first.seconds < moment.seconds <= last.seconds for moment in moments)
        efficiencies.append(used / elapsed * unit / groups)
        overheads.append(1e3 * (elapsed - unit * used / groups) / rounds)
        shares.append((last.cpu_seconds - first.cpu_seconds) / elapsed)
    return {
        "efficiency_mean": round(statistics.mean(efficiencies), 4),
        "efficiency_std": round(statistics.stdev(efficiencies), 4) if len(played) > 1 else None,
        "round_overhead_ms": round(statistics.mean(overheads), 2),
        "server_core_share": round(statistics.mean(shares), 4),
    }


def _memory(stage: Stage) -> dict[str, float]:
    """Return the memory of the ranks in MB: medians, and the server's. Collective."""
    everyone = np.frombuffer(
        b"".join(stage.transport.gather(np.array(memory_of(os.getpid())).tobytes()))
    ).reshape(-1, 2)  # [ranks, 2]: RSS and USS
    rss, uss = np.median(everyone, axis=0)
    return {
        "rss_mb_median": round(float(rss), 1),
        "uss_mb_median": round(float(uss), 1),
        "server_uss_mb": round(float(everyone[0, 1]), 1),
    }


def measure(
    sizes: Sequence[int],
    plan: Plan,
    read: Callable[[Path], Measured],
    say: Callable[[str], None],
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Run one job for each size, one after the other.

    Args:
        sizes: Numbers of ranks, ascending.
        plan: Settings of the measurement.
        read: Reads the measured times from a run directory.
        say: Called with a line before each job.
        on_progress: Called before each job, with the numbers of jobs done and of all.

    Returns:
        `rows`, one for each size, rule and reduction; `seconds` and `unit_seconds`.

    Raises:
        HpcmarlError: A job fails.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hpcmarl-scale-", ignore_cleanup_errors=True) as folder:
        keep = Path(folder) / "runs"
        for number, size in enumerate(sizes):
            on_progress(number, len(sizes))
            say(f"{size} ranks: {len(CASES)} cases of {plan.repetitions} runs of {plan.seconds:g} s")
            more = ["--keep", str(keep)] if number == 0 else []
            job = Job(
                ["bench", "scale", "--ranks", str(size), *plan.arguments, *more, "--in-one-world", "--json"],
                Path(folder) / f"{size}.txt",
            )
            code = job.wait(plan.limit)
            if code != 0:
                why = f"exit code {code}" if code is not None else f"not done after {plan.limit:.0f} s"
                raise HpcmarlError(f"bench scale with {size} ranks: {why}: {job.closing_lines()}")
            rows += result_in(job.output.read_text(errors="replace"))
        measured = {reduce: _measured(read, keep / reduce, say) for reduce in REDUCTIONS}
    return {
        "rows": with_predictions(rows, measured, plan.unit),
        "seconds": plan.seconds,
        "unit_seconds": plan.unit,
    }


def result_in(output: str) -> list[dict[str, Any]]:
    """Return the rows that a job printed.

    Raises:
        HpcmarlError: The output holds no rows.
    """
    for line in output.splitlines():
        if line.startswith('{"rows"'):
            rows: list[dict[str, Any]] = json.loads(line)["rows"]
            return rows
    raise HpcmarlError(f"a job of bench scale printed no result: {' '.join(output.split())[-600:]}")


def _measured(
    read: Callable[[Path], Measured], run_directory: Path, say: Callable[[str], None]
) -> Measured | None:
    """Return the times of a run; None, with a line to `say`, if there are too few to predict from."""
    try:
        return read(run_directory)
    except UsageError as error:
        say(f"no predictions: {error}")
        return None


def with_predictions(
    rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Measured | None], unit: float
) -> list[dict[str, Any]]:
    """Add `predicted_efficiency` to the rows.

    It is relative to the ideal, as the measured efficiency is. It is None for a reduction without measured
    times.
    """
    found = []
    for row in rows:
        source, predicted = measured[row["reduce"]], None
        if source is not None:
            rate = predict(source, row["groups"], [row["rule"]])[row["rule"]]["trajectories_per_second"]
            predicted = round(rate * unit / row["groups"], 4)
        found.append({**row, "predicted_efficiency": predicted})
    return found
