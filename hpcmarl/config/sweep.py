"""The cases of a simulation: `sim.sweep` unfolded into one configuration each. Called by the simulator; runs
nothing."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from hpcmarl.config.file import vary
from hpcmarl.config.simulation import SimulationConfig

BATCH = "rounds.batch"


@dataclass(frozen=True)
class Case:
    """One method in one setting. `batch`: the M that tells it from the other cases of a method that lists
    several, else None."""

    setting: str
    method: str
    batch: int | None
    config: SimulationConfig

    @property
    def label(self) -> str:
        """Method and, where there are several, its M."""
        return self.method if self.batch is None else f"{self.method} M={self.batch}"


def cases(config: SimulationConfig, fixed: Collection[str] = ()) -> list[Case]:
    """Every method in every setting, in the order of the file. `fixed` are keys that were given on the
    command line: they hold in every case, whatever the sweep says. Raises ConfigError, one line that names
    the case and the key."""
    sweep = config.sim.sweep
    found = []
    for setting, changes in (sweep.settings or {"default": {}}).items():
        for method, own in (sweep.methods or {config.rounds.rule: {}}).items():
            batches = own.get(BATCH)
            several = isinstance(batches, list | tuple)
            for batch in _batches(config, batches, fixed) if several else [None]:
                asked = {**changes, **own} | ({BATCH: batch} if several else {})
                kept = {key: value for key, value in asked.items() if not _is_fixed(key, fixed)}
                case = vary(config, kept, f"sim.sweep, {setting}, {method}")
                found.append(Case(setting, method, case.rounds.batch if several else None, case))
    return found


def _batches(config: SimulationConfig, listed: Any, fixed: Collection[str]) -> list[Any]:
    return [config.rounds.batch] if _is_fixed(BATCH, fixed) else list(listed)


def _is_fixed(key: str, fixed: Collection[str]) -> bool:
    """Whether the key itself, a part of it or a section around it was given."""
    return any(key == other or key.startswith(other + ".") or other.startswith(key + ".") for other in fixed)


def candidates(
    config: SimulationConfig, fixed: Collection[str] = ()
) -> Iterator[tuple[dict[str, Any], SimulationConfig]]:
    """Every combination of the values of `sim.sweep.tune.grid`, with its configuration, but for keys that are
    `fixed`; none where nothing is left to be tuned."""
    tune = config.sim.sweep.tune
    grid = (
        {key: values for key, values in tune.grid.items() if not _is_fixed(key, fixed)}
        if tune is not None
        else {}
    )
    if not grid:
        return
    for values in itertools.product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        yield changes, vary(config, changes, "sim.sweep.tune.grid")


def shortened(config: SimulationConfig) -> SimulationConfig:
    """The configuration of a trial of tuning: what `sim.stop` says, times `sim.sweep.tune.share`."""
    tune, stop = config.sim.sweep.tune, config.sim.stop
    if tune is None or tune.share == 1.0:
        return config
    limits = {"time": stop.time and stop.time * tune.share}
    limits |= {
        name: limit and max(1, round(limit * tune.share))
        for name, limit in (("gradients", stop.gradients), ("rounds", stop.rounds))
    }
    return config.model_copy(
        update={"sim": config.sim.model_copy(update={"stop": stop.model_copy(update=limits)})}
    )
