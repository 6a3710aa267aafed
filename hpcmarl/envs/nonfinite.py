"""Non-finite numbers from environments: finding, describing and replacing them.

Integers are finite. Only the float entries of records are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from hpcmarl.envs.slot import Views
from hpcmarl.types import Array, EnvironmentSpec, Outcome, fields_of


def find_nonfinite(
    spec: EnvironmentSpec, outcome: Outcome | None, views: Views
) -> list[tuple[int, str, str]]:
    """Find non-finite rewards, observations and states. The call is cheap if all numbers are finite.

    Args:
        spec: Specification of the environment.
        outcome: Results of the step; None after a reset.
        views: Observations before the next step.

    Returns:
        (row, agent, description) of each reward, observation and state with a non-finite number.
    """
    total = 0.0
    with np.errstate(all="ignore"):
        for array in _arrays(outcome, views):
            # squares of float16 numbers would overflow
            flat = array.reshape(-1).astype(np.float32, copy=False)
            # The dot product is numpy's fastest sum. It sums squares, so infinities cannot cancel.
            total += float(flat.dot(flat))
    return [] if math.isfinite(total) else list(_each_nonfinite(spec, outcome, views))


def _arrays(outcome: Outcome | None, views: Views) -> Iterator[Array]:
    """Yield all arrays of float numbers that come from environments."""
    for obs in views.obs:
        yield from _float_parts(obs).values()
    if views.state is not None:
        yield views.state
    if outcome is None:
        return
    for policy in outcome.policies.values():
        yield policy.reward
    for final in outcome.finals:
        for obs in final.obs.values():
            yield from _float_parts(obs).values()
        if final.state is not None:
            yield final.state


def _each_nonfinite(
    spec: EnvironmentSpec, outcome: Outcome | None, views: Views
) -> Iterator[tuple[int, str, str]]:
    for policy, obs in zip(spec.policies, views.obs, strict=True):
        for key, part in _float_parts(obs).items():
            for row, column in _nonfinite_indices(part, 2):
                yield row, policy.agents[column], f"observes{key} {_first_nonfinite(part[row, column])}"
        if outcome is None:
            continue
        reward = outcome.policies[policy.name].reward
        for row, column in _nonfinite_indices(reward, 2):
            yield row, policy.agents[column], f"is rewarded with {reward[row, column]}"
        for final in outcome.finals:
            for key, part in _float_parts(final.obs[policy.name]).items():
                for (column,) in _nonfinite_indices(part, 1):
                    yield (
                        final.slot,
                        policy.agents[column],
                        f"observes{key} {_first_nonfinite(part[column])} at the episode's end",
                    )
    if views.state is not None:
        for (row,) in _nonfinite_indices(views.state, 1):
            yield row, "(all)", f"sees the state {_first_nonfinite(views.state[row])}"
    for final in () if outcome is None else outcome.finals:
        if final.state is not None and not np.isfinite(final.state).all():
            yield final.slot, "(all)", f"sees the state {_first_nonfinite(final.state)} at the episode's end"


def _float_parts(obs: Array) -> dict[str, Array]:
    """Return views of the float numbers in observations, each with its key as words of a message."""
    floats = {key: part for key, part in fields_of(obs).items() if part.dtype.kind == "f"}
    return {f" at key {key}" if key else "": part for key, part in floats.items()}


def _nonfinite_indices(array: Array, axes: int) -> list[list[int]]:
    """Return the indices along the first `axes` axes that have a non-finite number."""
    wrong = ~np.isfinite(array)
    found: list[list[int]] = np.argwhere(wrong.reshape(*wrong.shape[:axes], -1).any(-1)).tolist()
    return found


def _first_nonfinite(array: Array) -> str:
    flat = np.ravel(array)
    index = int(np.flatnonzero(~np.isfinite(flat))[0])
    return f"{flat[index]} (component {index} of {flat.size})"


def make_finite(row: int, outcome: Outcome) -> None:
    """Replace non-finite numbers by zeros in the rewards and last observations of a row.

    Args:
        row: The slot.
        outcome: Changed in place.
    """
    for policy in outcome.policies.values():
        policy.reward[row] = np.where(np.isfinite(policy.reward[row]), policy.reward[row], 0.0)
    for final in outcome.finals:
        if final.slot == row:
            parts = [part for obs in final.obs.values() for part in _float_parts(obs).values()]
            for array in (*parts, *([] if final.state is None else [final.state])):
                array[~np.isfinite(array)] = 0.0
