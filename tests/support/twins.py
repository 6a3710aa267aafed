"""Play environments with random actions, and compare them with an independent, simple rollout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import (
    BATCHED,
    BatchedEnvironment,
    Seeds,
    episode_seed,
    make_environment,
    new_frame,
    new_outcome,
)
from hpcmarl.envs.batch import SlotBatch


def draw_actions(
    environment: BatchedEnvironment, frame: Any, generator: np.random.Generator
) -> dict[str, Any]:
    """Draw random allowed actions for all agents, alive or not."""
    actions = {}
    for policy in environment.spec.policies:
        shape = (environment.slots, len(policy.agents))
        mask = frame.policies[policy.name].action_mask
        if policy.action.kind == "continuous":
            actions[policy.name] = generator.normal(0, 2, (*shape, *policy.action.shape)).astype(np.float32)
            continue
        chosen, start = [], 0
        for size in policy.action.sizes:
            allowed = np.ones((*shape, size), bool) if mask is None else mask[..., start : start + size]
            chosen.append((generator.random((*shape, size)) * allowed).argmax(-1))
            start += size
        actions[policy.name] = chosen[0] if policy.action.kind == "discrete" else np.stack(chosen, -1)
    return actions


def fill_with_stale_values(thing: Any) -> None:
    """Fill all arrays with stale values, which every call must overwrite."""
    for policy in thing.policies.values():
        for name, array in vars(policy).items():
            if array is not None:
                array[...] = name != "action_mask" if array.dtype == bool else 7 + len(name)


def copies(view: Any) -> dict[str, Any]:
    """Return copies of all arrays of a view, by name."""
    return {key: None if array is None else array.copy() for key, array in vars(view).items()}


def play(
    environment: BatchedEnvironment, steps: int, with_state: bool = False, seed: int = 0
) -> list[dict[str, Any]]:
    """Play random actions.

    Returns:
        One row of copies per step: the frame before the step, the actions, and the outcome.
    """
    generator, rows = np.random.default_rng(seed), []
    frames = [new_frame(environment.spec, environment.slots, with_state) for _ in range(2)]
    outcome = new_outcome(environment.spec, environment.slots)
    fill_with_stale_values(frames[0])
    environment.reset(frames[0])
    for step in range(steps):
        frame, following = frames[step % 2], frames[(step + 1) % 2]
        actions = draw_actions(environment, frame, generator)
        row = {
            "actions": actions,
            "start": frame.episode_start.copy(),
            "state": None if frame.state is None else frame.state.copy(),
        }
        row["frame"] = {name: copies(view) for name, view in frame.policies.items()}
        fill_with_stale_values(outcome)
        fill_with_stale_values(following)
        environment.step(actions, outcome, following)
        row["outcome"] = {name: copies(view) for name, view in outcome.policies.items()}
        row |= {
            "end": outcome.episode_end.copy(),
            "finals": list(outcome.finals),
            "episodes": list(outcome.episodes),
        }
        rows.append(row)
    return rows


def assert_equals_twin(
    build: Callable[[], Any],
    environment: BatchedEnvironment,
    rows: list[dict[str, Any]],
    seeds: Seeds,
    max_steps: int | None,
) -> None:
    """Compare every element of every row with a plain rollout of PettingZoo's environment, slot by slot.

    Args:
        build: Makes the PettingZoo environment.
        environment: Environment that was played.
        rows: Rows of `play`.
        seeds: Seeds of the slots.
        max_steps: Steps after which an episode is truncated; None: no limit.
    """
    spec = environment.spec
    at = {
        agent: (policy.name, column) for policy in spec.policies for column, agent in enumerate(policy.agents)
    }
    for slot in range(environment.slots):
        twin, episode, first, total = build(), -1, True, 0.0
        for number, row in enumerate(rows):
            if first:
                episode, length, total = episode + 1, 0, 0.0
                observations, _ = twin.reset(seed=episode_seed(seeds.seed, seeds.first_slot + slot, episode))
                dead: set[str] = set()
            living = [agent for agent in twin.agents if agent not in dead]
            where = f"slot {slot} row {number}"
            assert row["start"][slot] == first, where
            for agent, (policy, column) in at.items():
                shown = row["frame"][policy]
                assert shown["alive"][slot, column] == (agent in living), where
                expected = (
                    np.asarray(observations[agent], np.float32)
                    if agent in living
                    else np.zeros(spec.policy(policy).observation_shape)
                )
                np.testing.assert_array_equal(shown["obs"][slot, column], expected, err_msg=where)
            actions = {agent: row["actions"][at[agent][0]][slot, at[agent][1]] for agent in living}
            for agent, action in actions.items():
                space = twin.action_space(agent)
                actions[agent] = (
                    np.clip(action, space.low, space.high).reshape(space.shape)
                    if hasattr(space, "low")
                    else action
                )
            observations, rewards, terminated, truncated, _ = twin.step(actions)
            length += 1
            total += sum(float(rewards[agent]) for agent in living) / len(at)
            dead |= {agent for agent in at if terminated.get(agent) or truncated.get(agent)}
            remaining = [agent for agent in twin.agents if agent not in dead]
            ends = not remaining or length == max_steps
            cut_off = set()
            for agent, (policy, column) in at.items():
                got = {
                    key: row["outcome"][policy][key][slot, column]
                    for key in ("reward", "terminated", "truncated")
                }
                acted = agent in living
                ended = acted and (
                    terminated.get(agent) or (agent not in twin.agents and not truncated.get(agent))
                )
                stopped = acted and not ended and (truncated.get(agent) or ends)
                cut_off |= {agent} if stopped else set()
                reward = np.float32(rewards[agent] if acted else 0)
                assert got == {"reward": reward, "terminated": bool(ended), "truncated": bool(stopped)}, (
                    where,
                    agent,
                )
            assert row["end"][slot] == (0 if not ends else 2 if cut_off else 1), where
            finals = [final for final in row["finals"] if final.slot == slot]
            assert len(finals) == int(ends and bool(cut_off)), where
            for agent, (policy, column) in at.items() if finals else ():
                expected = (
                    observations[agent]
                    if agent in cut_off
                    else np.zeros(spec.policy(policy).observation_shape)
                )
                np.testing.assert_array_equal(finals[0].obs[policy][column], np.asarray(expected, np.float32))
            episodes = [found for found in row["episodes"] if found.slot == slot]
            assert [(found.index, found.length, found.terminated) for found in episodes] == (
                [(episode, length, not cut_off)] if ends else []
            )
            if episodes:
                assert episodes[0].return_mean == pytest.approx(total)
                weighted = [episodes[0].returns[policy.name] * len(policy.agents) for policy in spec.policies]
                assert sum(weighted) / len(at) == pytest.approx(total)
            first = ends


def assert_equals_slots(
    config: EnvConfig, policies: Mapping[str, PolicyConfig], kind: type[BatchedEnvironment], seed: int
) -> None:
    """Compare a natively batched environment with the same games driven one by one.

    Every element of 60 frames and outcomes of three slots must be equal.
    """
    seeds = Seeds(seed, 5)
    batch = make_environment(config, policies, 3, seeds)
    assert isinstance(batch, kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(BATCHED, config.id.partition(":")[0])
        slow = make_environment(config, policies, 3, seeds)
    assert isinstance(slow, SlotBatch)
    assert batch.spec == slow.spec
    for ours, theirs in zip(play(batch, 60, seed=seed), play(slow, 60, seed=seed), strict=True):
        assert_same(ours, theirs)


def assert_same(ours: Any, theirs: Any) -> None:
    """Assert that two nested structures of arrays, records and numbers are equal."""
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(vars(one), vars(other))
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == pytest.approx(theirs)


def assert_equals_rows(
    env: Any, agents: tuple[str, ...], rows: list[dict[str, Any]], slot: int, seeds: Seeds
) -> None:
    """Play the recorded actions with PettingZoo's own loop (agent_iter, last) and compare all agents' data.

    Rewards are compared as PettingZoo counts them: last() returns the sum since the agent's previous turn.
    """
    name = next(iter(rows[0]["frame"]))
    number, episode = 0, 0
    while number < len(rows):
        env.reset(seed=episode_seed(seeds.seed, seeds.first_slot + slot, episode))
        begin, credited, earned = number, dict.fromkeys(agents, 0.0), dict.fromkeys(agents, 0.0)
        flags = {agent: (False, False) for agent in agents}
        for agent in env.agent_iter():
            seen, reward, terminated, truncated, _ = env.last()
            credited[agent] += reward
            if terminated or truncated:
                flags[agent] = (terminated, truncated)
                env.step(None)
                continue
            if number == len(rows):
                return
            view, column = rows[number]["frame"][name], agents.index(agent)
            assert view["alive"][slot].tolist() == [other == agent for other in agents]
            assert rows[number]["start"][slot] == (number == begin)
            observation = seen["observation"] if isinstance(seen, dict) else seen
            np.testing.assert_array_equal(view["obs"][slot, column], np.asarray(observation, np.float32))
            if isinstance(seen, dict):
                np.testing.assert_array_equal(
                    view["action_mask"][slot, column], seen["action_mask"].astype(bool)
                )
                others = [other for other in range(len(agents)) if other != column]
                assert view["action_mask"][slot, others].all()
            for other, value in zip(agents, rows[number]["outcome"][name]["reward"][slot], strict=True):
                earned[other] += float(value)
            env.step(int(rows[number]["actions"][name][slot, column]))
            number += 1
        last = rows[number - 1]
        assert last["end"][slot] == (2 if any(t for _, t in flags.values()) else 1)
        assert not any(row["end"][slot] for row in rows[begin : number - 1])
        for column, agent in enumerate(agents):
            assert earned[agent] == pytest.approx(credited[agent]), agent
            got = [
                [row["outcome"][name][key][slot, column] for key in ("terminated", "truncated")]
                for row in rows[begin:number]
            ]
            assert np.sum(got, axis=0).tolist() == [int(flag) for flag in flags[agent]], agent
        (record,) = [found for found in last["episodes"] if found.slot == slot]
        assert (record.index, record.length) == (episode, number - begin)
        assert record.return_mean == pytest.approx(sum(credited.values()) / len(agents))
        episode += 1
