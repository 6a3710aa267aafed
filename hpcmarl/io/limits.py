"""Progress of a run towards the limits of `stop`, and an estimate of the time left."""

from __future__ import annotations

from collections.abc import Mapping

from hpcmarl.config import StopConfig


def _limits(stop: StopConfig) -> dict[str, float]:
    """Return the limits that are set, by their column of the metrics."""
    limits = {"version": stop.updates, "env_steps": stop.env_steps, "seconds": stop.seconds}
    return {name: float(limit) for name, limit in limits.items() if limit}


def share_done(stop: StopConfig, now: Mapping[str, float]) -> float | None:
    """Return the progress towards the nearest limit, 0 to 1.

    Args:
        stop: Limits of the run.
        now: Present figures: version, env_steps and seconds.

    Returns:
        None if there is no limit; stop.return_mean is none.
    """
    shares = [now[name] / limit for name, limit in _limits(stop).items() if name in now]
    return min(1.0, max(shares)) if shares else None


def seconds_left(stop: StopConfig, now: Mapping[str, float], before: Mapping[str, float]) -> float | None:
    """Estimate the training time until the first limit is reached, at the recent speed.

    Args:
        stop: Limits of the run.
        now: Present figures: version, env_steps and seconds.
        before: The same figures some time ago.

    Returns:
        Seconds; None if no limit is set, or nothing has changed since.
    """
    passed = now["seconds"] - before["seconds"]
    times = [
        max(0.0, limit - now[name]) * passed / gain
        for name, limit in _limits(stop).items()
        if name in now and (gain := now[name] - before.get(name, now[name])) > 0
    ]
    return min(times) if times else None


def duration(seconds: float) -> str:
    """Return a time as text with two units at most, such as "3 min 20 s"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
