"""The directory of a sweep: its files, its trials and their results."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config import Config
from hpcmarl.config.file import dump_config, load_config, load_sweep
from hpcmarl.config.search import SearchConfig
from hpcmarl.config.yaml_text import inline, write
from hpcmarl.errors import ConfigError, FormatError, HpcmarlError, UsageError
from hpcmarl.io.atomic import read_bytes, write_text
from hpcmarl.io.metrics import read_metrics
from hpcmarl.io.run_state import read_run_state
from hpcmarl.sweeps.points import Trial, fixed_trial

LARGEST_RECORD = 1 << 20  # bytes
PRUNED, WAITING = "pruned", "waiting"
ENDED = ("finished", "failed", PRUNED)


@dataclass(frozen=True)
class Outcome:
    """Where a trial stands.

    Attributes:
        trial: The trial.
        state: "waiting", "pruned", or the state of its run (io/run_state.py).
        value: Last value of the sweep's metric; None: there is none.
        updates: Updates so far.
        env_steps: Environment steps so far.
        seconds: Training time so far, seconds.
    """

    trial: Trial
    state: str
    value: float | None = None
    updates: int = 0
    env_steps: int = 0
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the trial needs no more work."""
        return self.state in ENDED


class SweepDirectory:
    """Files of a sweep.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_file, self.base_file = path / "sweep.yaml", path / "base.yaml"
        self.table = path / "sweep.csv"
        self.journal = path / "optuna.journal"
        self.trials = path / "trials"

    def config_of(self, number: int) -> Path:
        """Return the configuration file of a trial."""
        return self.trials / f"{number:04d}.yaml"

    def record_of(self, number: int) -> Path:
        """Return the file with the values of a trial."""
        return self.trials / f"{number:04d}.json"

    def progress_of(self, number: int) -> Path:
        """Return the file with the values of a trial at the comparisons of pruning."""
        return self.trials / f"{number:04d}.progress.json"

    def run_of(self, number: int) -> Path:
        """Return the run directory of a trial."""
        return self.path / f"trial-{number:04d}"

    def read_sweep(self) -> SearchConfig:
        """Return the sweep.

        Raises:
            ConfigError: The directory holds no sweep, or its file is wrong.
        """
        return load_sweep(self.sweep_file)


def is_sweep(path: Path) -> bool:
    """Return whether a directory is that of a sweep."""
    return (path / "sweep.yaml").is_file() and (path / "base.yaml").is_file()


def number_of(run_directory: Path) -> int | None:
    """Return the number of the trial that a run directory belongs to; None: to none."""
    name = run_directory.name.removeprefix("trial-")
    return int(name) if name != run_directory.name and name.isdecimal() else None


def prepare(directory: SweepDirectory, sweep: SearchConfig, base: Config) -> None:
    """Write the files of a sweep and check every configuration that is known beforehand.

    A directory that holds the same sweep is continued.

    Args:
        directory: Where to write.
        sweep: The sweep.
        base: The configuration that it varies.

    Raises:
        ConfigError: A trial's configuration is wrong.
        UsageError: The directory holds another sweep, or something else.
        StorageError: A file cannot be written.
    """
    texts = {
        directory.sweep_file: write(sweep.model_dump(mode="json")),
        directory.base_file: dump_config(base),
    }
    if is_sweep(directory.path):
        for path, text in texts.items():
            if path.read_text(encoding="utf-8") != text:
                raise UsageError(
                    f"--run-dir {directory.path}: {path.name} is that of another sweep; choose another "
                    "directory, or continue with the file and the changes that it was begun with"
                )
    elif directory.path.exists() and any(path.name != "submissions" for path in directory.path.iterdir()):
        raise UsageError(f"--run-dir {directory.path}: not empty and no sweep; choose another directory")
    configs = check(sweep, base)
    directory.trials.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        if not path.exists():
            write_text(path, text)
    for trial, config in configs:
        if not directory.record_of(trial.number).exists():
            write_trial(directory, trial, config)


def check(sweep: SearchConfig, base: Config) -> list[tuple[Trial, Config]]:
    """Check every configuration that is known beforehand.

    Returns:
        All trials and their configurations; none with `search: optuna`, whose values depend on results.

    Raises:
        ConfigError: A trial's configuration is wrong.
        MissingPackageError: Optuna is needed and not installed.
    """
    if sweep.search == "optuna":
        from hpcmarl.sweeps.optuna_search import check_values

        check_values(sweep, base)
        return []
    trials = [fixed_trial(sweep, number) for number in range(1, sweep.count + 1)]
    return [(trial, config_of(sweep, base, trial)) for trial in trials]


def unended(directory: SweepDirectory, sweep: SearchConfig) -> list[int]:
    """Return the numbers of the trials that need more work; all of them if the directory is new."""
    return [each.trial.number for each in outcomes(directory, sweep) if not each.ended]


def ranges(numbers: Sequence[int]) -> str:
    """Return increasing numbers as Slurm writes them: [1, 2, 3, 7] as "1-3,7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def config_of(sweep: SearchConfig, base: Config, trial: Trial) -> Config:
    """Return the configuration of a trial.

    Raises:
        ConfigError: It is wrong; the message begins with the trial's values.
    """
    changes = [f"{key}={inline(value)}" for key, value in trial.values.items()]
    changes.append(f"seed={base.seed + trial.seed}")
    if sweep.prune is not None:
        changes.append(f"callbacks={inline([*_callbacks(base), {'name': PRUNER}])}")
    try:
        return load_config(dump_config(base), changes)
    except ConfigError as error:
        values = ", ".join(changes[: len(trial.values)])
        raise ConfigError(f"sweep, trial {trial.number} ({values}): {error}") from None


PRUNER = "hpcmarl.sweeps.pruning:MedianPruner"


def _callbacks(base: Config) -> list[dict[str, Any]]:
    return [callback.model_dump(mode="json") for callback in base.callbacks]


def write_trial(directory: SweepDirectory, trial: Trial, config: Config) -> None:
    """Write the configuration of a trial, and then its record, which makes it valid."""
    write_text(directory.config_of(trial.number), dump_config(config))
    record = {"trial": trial.number, "point": trial.point, "seed": trial.seed, "values": dict(trial.values)}
    write_text(directory.record_of(trial.number), json.dumps(record, indent=1) + "\n")


def read_trial(directory: SweepDirectory, number: int) -> Trial | None:
    """Return a trial whose values are fixed; None: they are not yet.

    Raises:
        FormatError: Its record is damaged.
    """
    path = directory.record_of(number)
    try:
        record = json.loads(read_bytes(path, LARGEST_RECORD))
        return Trial(int(record["trial"]), int(record["point"]), int(record["seed"]), dict(record["values"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not the record of a trial: {error}; remove it to make it again"
        ) from error


def read_progress(directory: SweepDirectory, number: int) -> dict[str, Any]:
    """Return a trial's values at the comparisons of pruning, and whether it was cut short; {} if unknown."""
    try:
        found = json.loads(read_bytes(directory.progress_of(number), LARGEST_RECORD))
    except (OSError, ValueError, HpcmarlError):
        return {}
    return found if isinstance(found, dict) else {}


def outcomes(directory: SweepDirectory, sweep: SearchConfig) -> Iterator[Outcome]:
    """Yield where each trial stands, in order."""
    for number in range(1, sweep.count + 1):
        trial = read_trial(directory, number)
        if trial is None:
            point, seed = (number - 1) // sweep.seeds, (number - 1) % sweep.seeds
            yield Outcome(Trial(number, point, seed, {}), WAITING)
        else:
            yield outcome(directory, sweep, trial)


def outcome(directory: SweepDirectory, sweep: SearchConfig, trial: Trial) -> Outcome:
    """Return where one trial stands, from the files of its run."""
    path = directory.run_of(trial.number)
    state = read_run_state(path).state
    if state == "empty":
        return Outcome(trial, WAITING)
    if state == "finished" and read_progress(directory, trial.number).get("pruned"):
        state_text = PRUNED
    else:
        state_text = state
    try:
        columns = read_metrics(path)
    except HpcmarlError:
        return Outcome(trial, state_text)
    last = {name: values[-1] for name, values in columns.items() if len(values)}
    return Outcome(
        trial,
        state_text,
        _last_finite(columns.get(sweep.metric)),
        int(last.get("version", 0)),
        int(last.get("env_steps", 0)),
        float(last.get("seconds", 0.0)),
    )


def _last_finite(values: Any) -> float | None:
    finite = np.zeros(0) if values is None else values[np.isfinite(values)]
    return float(finite[-1]) if finite.size else None


def best_of(sweep: SearchConfig, found: Sequence[Outcome]) -> Outcome | None:
    """Return the best trial that has a value; None: there is none. Trials cut short count."""
    sign = 1.0 if sweep.goal == "maximise" else -1.0
    valued = [each for each in found if each.value is not None and math.isfinite(each.value)]
    return max(valued, key=lambda each: sign * (each.value or 0.0), default=None)


def write_table(directory: SweepDirectory, sweep: SearchConfig, found: Sequence[Outcome]) -> None:
    """Write sweep.csv: a row for each trial.

    Raises:
        StorageError: It cannot be written.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = list(sweep.parameters)
    writer.writerow(
        ["trial", "point", "seed", *keys, "state", sweep.metric, "updates", "env_steps", "seconds"]
    )
    for each in found:
        values = [inline(each.trial.values[key]) if key in each.trial.values else "" for key in keys]
        value = "" if each.value is None else repr(each.value)
        own = [each.state, value, each.updates, each.env_steps, f"{each.seconds:.3f}"]
        writer.writerow([each.trial.number, each.trial.point, each.trial.seed, *values, *own])
    write_text(directory.table, stream.getvalue())


def values_text(values: Mapping[str, Any]) -> str:
    """Return the values of a trial in one line, numbers with four digits."""
    shown = {
        key: f"{value:.4g}" if isinstance(value, float) else inline(value) for key, value in values.items()
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())
