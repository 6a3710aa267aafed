"""Something that steps environments, in turn with bare stepping of as many slots: short windows, so that a
machine's moods fall on both alike.

Called by acting.py, matches.py and sampling.py; one process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs import Seeds
from hpcmarl.envs.bare import make_bare, step_bare

WARM_UP = 0.5  # seconds of bare stepping
FIRST_SLOT = 1_000_000  # far from the slots of what is measured


def paired_throughput(
    name: str,
    step: Callable[[float], tuple[int, float]],
    environment: EnvConfig,
    seed: int,
    slots: int,
    seconds: float,
    window: float,
) -> dict[str, Any]:
    """Measure in windows in turn.

    Args:
        name: Of what is measured.
        step: Goes on for about so many seconds and returns environment steps and time; it is warm.
        environment: What is stepped bare.
        seed: Of its run.
        slots: How many games are stepped together.
        seconds: Of measuring, of each kind.
        window: Seconds of a window.

    Returns:
        NAME_env_steps_per_second, bare_env_steps_per_second, their ratio and those of the windows.
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
