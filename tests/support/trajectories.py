"""Rollouts with records of episodes, and shards that are read back and compared with them."""

import math
from dataclasses import replace

import numpy as np

from hpcmarl.io.trajectories.layout import INDEX, columns_of
from hpcmarl.io.trajectories.shard_reader import ShardReader
from hpcmarl.types import Episode, Rollout
from tests.support.rollouts import make_spec, random_rollout


def with_episodes(rollout: Rollout, generator: np.random.Generator) -> Rollout:
    """Return the rollout with a record of each ended episode, in the order of their ends."""
    ends = np.argwhere(rollout.episode_end > 0)
    counts = dict.fromkeys(range(rollout.count), 0)
    episodes = []
    for step, slot in ends:
        index = int(rollout.episode[slot]) + counts[slot]
        counts[slot] += 1
        value = float(generator.normal())
        returns = {name: value + place for place, name in enumerate(rollout.policies)}
        episodes.append(
            Episode(
                int(rollout.slots[slot]), index, 1, value, returns, bool(rollout.episode_end[step, slot] == 1)
            )
        )
    return replace(rollout, episodes=episodes)


def slow_segments(rollout: Rollout) -> list[dict]:
    """Return the segments of a rollout, found slot by slot and step by step."""
    segments = []
    for slot in range(rollout.count):
        first, episode = 0, int(rollout.episode[slot])
        ended = [item for item in rollout.episodes if item.slot == slot]
        for step in range(rollout.steps):
            end = rollout.episode_end[step, slot]
            if not end and step < rollout.steps - 1:
                continue
            finals = [
                k for k, (at, where) in enumerate(rollout.final_index.tolist()) if (at, where) == (step, slot)
            ]
            segment = {
                "slot": int(rollout.slots[slot]),
                "episode": episode,
                "first_step": int(rollout.first_step[slot]) if first == 0 else 0,
                "column": slot,
                "steps": (first, step + 1),
                "terminated": end == 1,
                "truncated": end == 2,
                "return": ended.pop(0).return_mean if end else math.nan,
                "final": {},
            }
            for name, policy in rollout.policies.items():
                after = (
                    policy.obs[step + 1, slot]
                    if not end
                    else policy.final_obs[finals[0]]
                    if end == 2
                    else np.zeros_like(policy.obs[0, 0])
                )
                segment["final"][name] = after
            if rollout.state is not None:
                state, final = rollout.state, rollout.final_state
                segment["final"]["env"] = (
                    state[step + 1, slot]
                    if not end
                    else final[finals[0]]
                    if end == 2
                    else np.zeros_like(state[0, 0])
                )
            segments.append(segment)
            first, episode = step + 1, episode + 1
    return segments


def read(shard):
    """Return the contents of a shard: group -> column -> array."""
    with ShardReader(shard) as reader:
        whole = {}
        for group in reader.layout:
            slabs = [rows for _, rows in reader.slabs(group)]
            whole[group] = {name: np.concatenate([slab[name] for slab in slabs]) for name in slabs[0]}
        return whole


def check_segments(files, rollouts):
    """Assert that the files contain exactly the segments of the rollouts, in order."""
    stored = [(data, place) for data in files for place in range(len(data[INDEX]["start"]))]
    expected = [(rollout, segment) for rollout in rollouts for segment in slow_segments(rollout)]
    assert len(stored) == len(expected)
    for (data, place), (rollout, segment) in zip(stored, expected, strict=True):
        row = {name: values[place] for name, values in data[INDEX].items()}
        first, stop = segment["steps"]
        assert row["length"] == stop - first
        for name in ("slot", "episode", "first_step", "terminated", "truncated"):
            assert row[name] == segment[name], name
        assert (row["version"], row["actor"]) == (rollout.version, rollout.actor)
        np.testing.assert_equal(row["return_mean"], segment["return"])
        rows = slice(row["start"], row["start"] + row["length"])
        for number, (name, policy) in enumerate(rollout.policies.items()):
            columns = data[f"steps/{name}"]
            seen = columns_of(policy.obs)
            for key, values in columns.items():
                whole = seen[key] if key in seen else getattr(policy, key)
                own = whole[first:stop, segment["column"]]
                assert values.dtype == own.dtype
                np.testing.assert_array_equal(values[rows], own, err_msg=key)
            assert ("action_mask" in columns) == (policy.action_mask is not None)
            for key, after in columns_of(segment["final"][name]).items():
                np.testing.assert_array_equal(data[f"final/{name}"][key][place], after)
            np.testing.assert_equal(
                data[f"final/{name}"]["episode_return"][place], segment["return"] + number
            )
        np.testing.assert_array_equal(
            data["steps/env"]["episode_end"][rows], rollout.episode_end[first:stop, segment["column"]]
        )
        np.testing.assert_array_equal(
            data["steps/env"]["episode_start"][rows], rollout.episode_start[first:stop, segment["column"]]
        )
        if rollout.state is not None:
            np.testing.assert_array_equal(
                data["steps/env"]["state"][rows], rollout.state[first:stop, segment["column"]]
            )
            np.testing.assert_array_equal(data["final/env"]["state"][place], segment["final"]["env"])


def rollout_number(number):
    """Return a random rollout whose seed and version are `number`."""
    generator = np.random.default_rng(number)
    rollout = with_episodes(random_rollout(make_spec(), 10, 4, generator), generator)
    rollout.version = number
    return rollout


def state_number(number):
    """Return a checkpoint state whose parameters and version are `number`."""
    return {"parameters": np.full(20_000, number, np.float32), "version": number}
