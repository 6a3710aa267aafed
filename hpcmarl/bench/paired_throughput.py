"""Compare a program that steps environments with bare stepping of as many slots.

Short alternating windows spread machine noise over both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs import Seeds
from hpcmarl.envs.bare import make_bare, step_bare

WARM_UP = 0.5  # seconds of bare stepping
FIRST_SLOT = 1_000_000  # far from the slots of the measured program, so that no seed is used twice


def paired_throughput(
    name: str,
    step: Callable[[float], tuple[int, float]],
    environment: EnvConfig,
    seed: int,
    slots: int,
    seconds: float,
    window: float,
) -> dict[str, Any]:
    """Measure both in alternating windows.

    Args:
        name: Name of the measured program, used in a key of the result.
        step: Runs the program for about the given seconds; returns environment steps and seconds. It is warm.
        environment: Environment that is stepped bare.
        seed: Seed of the program's run.
        slots: Games that are stepped together.
        seconds: Time to measure each of the two.
        window: Seconds of a window.

    Returns:
        NAME_env_steps_per_second, bare_env_steps_per_second, their ratio, and the ratio in each window.
    """
    bare = make_bare(environment, slots, Seeds(seed, FIRST_SLOT))
    step_bare(bare, WARM_UP)
    rates = []
    for _ in range(max(2, round(seconds / window))):
        (own, took), (stepped, bare_took) = step(window), step_bare(bare, window)
        rates.append((own / took, stepped / bare_took))
    bare.close()
    own_rates, bare_rates = np.array(rates).T
    ratios = own_rates / bare_rates
    return {
        f"{name}_env_steps_per_second": float(own_rates.mean()),
        "bare_env_steps_per_second": float(bare_rates.mean()),
        "ratio": float(own_rates.mean() / bare_rates.mean()),
        "ratio_median": float(np.median(ratios)),
        "ratio_of_windows": ratios.tolist(),
        "slots": slots,
        "environment": environment.id,
        "window_seconds": window,
    }
