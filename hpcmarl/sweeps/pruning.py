"""Cut a trial short if it is worse than the median of the other trials at the same progress.

The callback runs on the server's rank of each trial. Trials know of each other through small files in the
sweep's directory alone, so they can be processes, jobs or tasks of an array.
"""

from __future__ import annotations

import json
import math
import statistics

from hpcmarl.callbacks import Callback, Moment, StopTraining
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.config.run import CallbackConfig
from hpcmarl.config.search import PruneConfig, SearchConfig
from hpcmarl.io.atomic import write_text
from hpcmarl.sweeps.directory import SweepDirectory, number_of, read_progress


class MedianPruner(Callback):
    """The comparisons of one trial.

    Nothing happens in a run that is not a trial of a sweep, such as one that was resumed elsewhere.
    """

    config_class = CallbackConfig

    def __init__(self, config: CallbackConfig) -> None:
        super().__init__(config)
        self._sweep: SearchConfig | None = None
        self._directory: SweepDirectory | None = None
        self._config: Config | None = None
        self._number: int | None = None
        self._values: dict[int, float] = {}
        self._opened = False

    def _open(self, moment: Moment) -> PruneConfig | None:
        """Read the sweep at the first call; return its settings, None if there is nothing to compare."""
        if not self._opened:
            self._opened = True
            self._number = number_of(moment.run_directory)
            directory = SweepDirectory(moment.run_directory.parent)
            if self._number is not None and directory.sweep_file.exists():
                self._sweep, self._directory = directory.read_sweep(), directory
                self._config = load_config(directory.config_of(self._number))
                known = read_progress(directory, self._number).get("values") or {}
                self._values = {int(check): float(value) for check, value in known.items()}
        return None if self._sweep is None else self._sweep.prune

    def on_update(self, moment: Moment) -> None:
        """Compare, if the trial has come to the next comparison.

        Raises:
            StopTraining: The trial is worse than the median.
        """
        settings = self._open(moment)
        if settings is None or self._config is None:
            return
        check = math.floor(self._progress(moment) * settings.checks + 1e-9)
        if not 0 < check < settings.checks or check in self._values:
            return
        value = moment.row.get(settings.metric)
        if value is None or not math.isfinite(value):
            return
        self._values[check] = float(value)
        others = self._others(check)
        bad = (
            check >= settings.after * settings.checks
            and len(others) >= settings.least_trials
            and self._is_worse(float(value), statistics.median(others))
        )
        self._write(pruned=bad)
        if bad:
            raise StopTraining(
                f"cut short by the sweep: {settings.metric} {value:.4g} at {check}/{settings.checks} of the "
                f"run, and the median of {len(others)} other trials is {statistics.median(others):.4g}"
            )

    def _progress(self, moment: Moment) -> float:
        """Return the progress towards the nearest limit."""
        assert self._config is not None
        stop = self._config.stop
        limits = (
            (moment.version, stop.updates),
            (moment.env_steps, stop.env_steps),
            (moment.seconds, stop.seconds),
        )
        return max((done / limit for done, limit in limits if limit), default=0.0)

    def _others(self, check: int) -> list[float]:
        """Return the values of the other trials at a comparison."""
        assert self._sweep is not None
        assert self._directory is not None
        found = []
        for number in range(1, self._sweep.count + 1):
            values = {} if number == self._number else read_progress(self._directory, number).get("values")
            value = (values or {}).get(str(check))
            if isinstance(value, (int, float)) and math.isfinite(value):
                found.append(float(value))
        return found

    def _is_worse(self, value: float, median: float) -> bool:
        assert self._sweep is not None
        return value < median if self._sweep.goal == "maximise" else value > median

    def _write(self, *, pruned: bool) -> None:
        assert self._directory is not None
        assert self._number is not None
        text = json.dumps(
            {"values": {str(check): value for check, value in self._values.items()}, "pruned": pruned}
        )
        write_text(self._directory.progress_of(self._number), text + "\n")
