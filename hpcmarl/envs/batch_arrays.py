"""Writes to the arrays of all slots at once, with one numpy call instead of one for each slot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hpcmarl.envs.slot import Layout, SlotAdapter, Views
from hpcmarl.types import DoubleArray, EnvironmentSpec, FloatArray, Outcome

# Relative and absolute: environments may add up the rewards of two agents in a different order.
COMMON_REWARD_TOLERANCE = 1e-5
COMMON_REWARD_IS_SET = "env.common_reward is true, or the environment's metadata says so"


def prefill(views: Views, outcome: Outcome, alive_default: bool) -> None:
    """Set the values that most rows have after a step; the adapters write rows that differ.

    Args:
        views: Arrays of the step.
        outcome: Its lists are emptied and its flags cleared.
        alive_default: Initial value of `alive`.
    """
    outcome.finals.clear()
    outcome.episodes.clear()
    outcome.episode_end[...] = 0
    views.episode_start[...] = False
    for alive, mask, terminated, truncated in zip(
        views.alive, views.masks, views.terminated, views.truncated, strict=True
    ):
        alive[...] = alive_default
        terminated[...] = False
        truncated[...] = False
        if mask is not None:
            mask[...] = True


def collect_rewards(
    adapters: Sequence[SlotAdapter], layout: Layout, outcome: Outcome, returns: DoubleArray
) -> list[tuple[int, str]]:
    """Copy the rewards of all slots, and add each policy's sum over agents to its return.

    Args:
        adapters: Adapters of all slots.
        layout: Spaces and agents that all slots share.
        outcome: Its rewards are overwritten.
        returns: Returns of the running episodes, [E, policies]; increased in place.

    Returns:
        (row, problem) for each slot whose agents must share one reward and have different ones.
    """
    targets = [outcome.policies[name].reward for name in layout.names]
    for number, target in enumerate(targets):
        rewards = np.array([adapter.rewards[number] for adapter in adapters])
        target[...] = rewards
        # accumulate() adds the agents in order; sum() may use another order, depending on their number.
        returns[:, number] += np.add.accumulate(rewards, 1)[:, -1]
    if not layout.common_reward:
        return []
    return unequal_rewards(
        np.concatenate(targets, 1), [agent for policy in layout.spec.policies for agent in policy.agents]
    )


def unequal_rewards(rewards: FloatArray, agents: Sequence[str]) -> list[tuple[int, str]]:
    """Find slots whose agents must share one reward and have different ones.

    Args:
        rewards: Rewards of a step, [E, N].
        agents: Names of the N agents.

    Returns:
        (row, problem) for each such slot.
    """
    least, most = rewards.argmin(1), rewards.argmax(1)
    found = []
    for row in np.flatnonzero(
        ~np.isclose(
            rewards.min(1), rewards.max(1), COMMON_REWARD_TOLERANCE, COMMON_REWARD_TOLERANCE, equal_nan=True
        )
    ).tolist():
        unequal = " and ".join(
            f"{agents[column]} with {rewards[row, column]:g}" for column in (least[row], most[row])
        )
        found.append(
            (
                row,
                f"rewards {unequal} in one step, but {COMMON_REWARD_IS_SET}; set env.common_reward to false",
            )
        )
    return found


def collect_observations(adapters: Sequence[SlotAdapter], views: Views) -> None:
    """Copy the observations of all slots, converted to the types of the policies."""
    for number, target in enumerate(views.obs):
        parts = [observation for adapter in adapters for observation in adapter.obs[number]]
        if target.dtype.names is not None:
            # numpy copies whole records more slowly than their fields
            for key in target.dtype.names:
                values = np.stack([part[key] for part in parts])
                target[key] = values.reshape(target[key].shape)
        elif target.flags.c_contiguous:
            np.concatenate(parts, out=target.reshape(-1, *target.shape[3:]), casting="unsafe")
        else:
            target[...] = np.stack(parts).reshape(target.shape)


def copy_observations(adapter: SlotAdapter, row: int, views: Views) -> None:
    """Copy the observations of one slot."""
    for target, parts in zip(views.obs, adapter.obs, strict=True):
        for column, observation in enumerate(parts):
            target[row, column] = observation


def stuck_agents(spec: EnvironmentSpec, views: Views) -> Iterator[tuple[int, str]]:
    """Find acting agents whose mask allows no action.

    In a multi-discrete space each component needs an allowed action.

    Yields:
        (row, agent) of each such agent.
    """
    for policy, mask, alive in zip(spec.policies, views.masks, views.alive, strict=True):
        if mask is None:
            continue
        if policy.action.kind == "multi_discrete":
            starts = np.cumsum((0, *policy.action.sizes[:-1]))
            possible = np.logical_or.reduceat(mask, starts, axis=-1).all(-1)
        else:
            possible = mask.any(-1)
        for row, column in np.argwhere(alive & ~possible):
            yield int(row), policy.agents[column]
