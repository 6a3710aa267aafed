"""Compare natively batched environments with the packages that provide the same games.

Both are stepped with random actions on one core in one process. They take turns in short windows, which
spreads machine noise over both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from hpcmarl.config import EnvConfig
from hpcmarl.envs import BATCHED_ONLY, KNOWN_ENVIRONMENTS, Seeds, is_batched
from hpcmarl.envs.bare import BareBatch, BareEnvironment, make_bare, step_bare

SEED = 1_000_000
WINDOWS = 4  # windows of each of the two
WARM_UP = 0.2  # as a share of a window; some environments compile in their first steps


def batched_environments() -> list[str]:
    """Return the ids of all installed environments of `hpcmarl list envs` that are natively batched."""
    return [
        known.id for known in KNOWN_ENVIRONMENTS if known.installed and is_batched(EnvConfig(id=known.id))
    ]


def run(
    environments: Sequence[str], slots: int, seconds: float, report: Callable[[int, int, str], object]
) -> list[dict[str, Any]]:
    """Measure each environment.

    Args:
        environments: Ids of the environments.
        slots: Games that are stepped together.
        seconds: Time to measure one environment, for both forms together.
        report: Called with the numbers of measured and of all environments, and the id of the next one.

    Returns:
        One row for each environment: `environment`, `slots`, environment steps per second of one core in the
        batched form and in the package's own, and their ratio. A form that does not exist has None.

    Raises:
        MissingPackageError, ConfigError, EnvironmentFailure: As `make_environment` does.
    """
    rows = []
    for number, name in enumerate(environments):
        report(number, len(environments), name)
        rows.append(measure(EnvConfig(id=name), slots, seconds))
    return rows


def measure(config: EnvConfig, slots: int, seconds: float) -> dict[str, Any]:
    """Measure one environment. Arguments and result are those of `run`."""
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
