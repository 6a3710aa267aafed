"""Numbers from environments that are not finite: finding them, naming them, replacing them.

Called by batch.py after every step and reset. Must not know environments: it reads the arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from hpcmarl.envs.slot import Views
from hpcmarl.types import Array, EnvironmentSpec, FloatArray, Outcome


def find_nonfinite(
    spec: EnvironmentSpec, outcome: Outcome | None, views: Views
) -> list[tuple[int, str, str]]:
    """(row, agent, what) of rewards, observations and states that are not finite; cheap where there are none.
    outcome: None after a reset."""
    total = 0.0
    with np.errstate(all="ignore"):
        for array in _arrays(outcome, views):
            flat = array.reshape(-1)
            # the quickest of numpy's sums; of squares, so that infinities cannot cancel
            total += float(flat.dot(flat))
    return [] if math.isfinite(total) else list(_each_bad_number(spec, outcome, views))


def _arrays(outcome: Outcome | None, views: Views) -> Iterator[FloatArray]:
    """All arrays of numbers that environments have given."""
    yield from views.obs
    if views.state is not None:
        yield views.state
    if outcome is None:
        return
    for policy in outcome.policies.values():
        yield policy.reward
    for final in outcome.finals:
        yield from final.obs.values()
        if final.state is not None:
            yield final.state


def _each_bad_number(
    spec: EnvironmentSpec, outcome: Outcome | None, views: Views
) -> Iterator[tuple[int, str, str]]:
    for policy, obs in zip(spec.policies, views.obs, strict=True):
        for row, column in _bad(obs, 2):
            yield row, policy.agents[column], f"observes {_first_bad(obs[row, column])}"
        if outcome is None:
            continue
        reward = outcome.policies[policy.name].reward
        for row, column in _bad(reward, 2):
            yield row, policy.agents[column], f"is rewarded with {reward[row, column]}"
        for final in outcome.finals:
            for (column,) in _bad(final.obs[policy.name], 1):
                yield (
                    final.slot,
                    policy.agents[column],
                    f"observes {_first_bad(final.obs[policy.name][column])} at the episode's end",
                )
    if views.state is not None:
        for (row,) in _bad(views.state, 1):
            yield row, "(all)", f"sees the state {_first_bad(views.state[row])}"
    for final in () if outcome is None else outcome.finals:
        if final.state is not None and not np.isfinite(final.state).all():
            yield final.slot, "(all)", f"sees the state {_first_bad(final.state)} at the episode's end"


def _bad(array: Array, axes: int) -> list[list[int]]:
    """The places along the first `axes` axes that hold something that is not finite."""
    wrong = ~np.isfinite(array)
    found: list[list[int]] = np.argwhere(wrong.reshape(*wrong.shape[:axes], -1).any(-1)).tolist()
    return found


def _first_bad(array: Array) -> str:
    flat = np.ravel(array)
    index = int(np.flatnonzero(~np.isfinite(flat))[0])
    return f"{flat[index]} (component {index} of {flat.size})"


def make_finite(row: int, outcome: Outcome) -> None:
    """Zeros for what is not finite in the rewards and the last observations of a row."""
    for policy in outcome.policies.values():
        policy.reward[row] = np.where(np.isfinite(policy.reward[row]), policy.reward[row], 0.0)
    for final in outcome.finals:
        if final.slot == row:
            for array in (*final.obs.values(), *([] if final.state is None else [final.state])):
                array[~np.isfinite(array)] = 0.0
