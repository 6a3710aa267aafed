"""Natively batched environments beside the packages whose games they are, each stepped with random actions on
one core.

Called by cli/bench.py; one process. The two take turns in short windows, so that a machine's moods fall on
both alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from hpcmarl.config import EnvConfig
from hpcmarl.envs import BATCHED_ONLY, KNOWN_ENVIRONMENTS, Seeds, is_batched
from hpcmarl.envs.bare import BareBatch, BareEnvironment, make_bare, step_bare

SEED = 1_000_000
WINDOWS = 4  # of each of the two
WARM_UP = 0.2  # share of the time: some compile at their first steps


def batched_environments() -> list[str]:
    """The ids of all natively batched environments of `hpcmarl list envs` whose packages are installed."""
    return [
        known.id for known in KNOWN_ENVIRONMENTS if known.installed and is_batched(EnvConfig(id=known.id))
    ]


def run(
    environments: Iterable[str], slots: int, seconds: float, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Measure each environment.

    Args:
        environments: Their ids.
        slots: Games that are stepped together.
        seconds: Of measuring an environment, in all.
        report: Called with the id of the environment that comes next.

    Returns:
        Rows with environment, slots and environment steps a second of one core, batched and by the package;
        None where one does not exist.

    Raises:
        MissingPackageError, ConfigError, EnvironmentFailure: As make_environment() does.
    """
    rows = []
    for name in environments:
        report(name)
        rows.append(measure(EnvConfig(id=name), slots, seconds))
    return rows


def measure(config: EnvConfig, slots: int, seconds: float) -> dict[str, Any]:
    """Measure one environment; arguments and result as of run()."""
    with contextlib.ExitStack() as stack:
        forms: list[BareBatch | BareEnvironment | None] = [
            make_bare(config, slots, Seeds(SEED)) if is_batched(config) else None
        ]
        alone = config.model_copy(update={"batched": False})
        forms.append(
            None if config.id.partition(":")[0] in BATCHED_ONLY else make_bare(alone, 1, Seeds(SEED))
        )
        each = seconds / (WINDOWS * sum(form is not None for form in forms))
        steps, took = [0, 0], [0.0, 0.0]
        for form in forms:
            if form is not None:
                stack.enter_context(contextlib.closing(form))
                step_bare(form, WARM_UP * each)
        for _ in range(WINDOWS):
            for number, form in enumerate(forms):
                if form is not None:
                    count, lasted = step_bare(form, each)
                    steps[number] += count
                    took[number] += lasted
    batched, package = (
        None if form is None else steps[number] / took[number] for number, form in enumerate(forms)
    )
    return {
        "environment": config.id,
        "slots": slots,
        "batched_steps_per_second": batched,
        "package_steps_per_second": package,
        "ratio": None if batched is None or package is None else batched / package,
    }
