"""Cases of a simulation: `sim.sweep` expanded into one configuration for each case."""

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
    """One method in one setting.

    Attributes:
        setting: Name of the setting.
        method: Name of the method.
        batch: `rounds.batch` of this case if the method lists several, else None.
        config: Configuration of this case.
    """

    setting: str
    method: str
    batch: int | None
    config: SimulationConfig

    @property
    def label(self) -> str:
        """Name of the method, followed by its M if the method lists several."""
        return self.method if self.batch is None else f"{self.method} M={self.batch}"


def cases(config: SimulationConfig, fixed: Collection[str] = ()) -> list[Case]:
    """List every method in every setting, in the order of the file.

    Args:
        config: Configuration of the simulation.
        fixed: Keys set on the command line; they hold in every case and override the sweep.

    Raises:
        ConfigError: If a case is not valid; the message names the case and the key.
    """
    sweep = config.sim.sweep
    found = []
    for setting, changes in (sweep.settings or {"default": {}}).items():
        for method, own in (sweep.methods or {str(config.rounds.rule): {}}).items():
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
    """Return whether `fixed` holds the key itself, a key below it or a section around it."""
    return any(key == other or key.startswith(other + ".") or other.startswith(key + ".") for other in fixed)


def candidates(
    config: SimulationConfig, fixed: Collection[str] = ()
) -> Iterator[tuple[dict[str, Any], SimulationConfig]]:
    """Yield every combination of the values in `sim.sweep.tune.grid`, with its configuration.

    Args:
        config: Configuration of one case.
        fixed: Keys set on the command line; they are not tuned.

    Yields:
        Values by key, and the configuration with these values. Nothing if no key is left to tune.

    Raises:
        ConfigError: If a combination is not valid.
    """
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
    """Return the configuration of a tuning trial: limits of `sim.stop`, times `sim.sweep.tune.share`."""
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
