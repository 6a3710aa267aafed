"""Export of trajectories as a Minari dataset: a directory with HDF5 and JSON files, written without minari.

The layout is that of Minari 0.5 (https://minari.farama.org/content/dataset_standards/). A joint dataset has
dictionaries of agents as observations and actions. A dataset of single agents has an episode for each agent
of each episode.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.errors import UsageError
from hpcmarl.export.trajectories import AgentEpisode, RecordedRun
from hpcmarl.io.atomic import write_directory
from hpcmarl.io.hdf5.schema import new_file
from hpcmarl.io.trajectories.episodes import Recording
from hpcmarl.io.trajectories.layout import ENVIRONMENT, observations_of
from hpcmarl.types import ActionSpace, Array, ObservationPart, PolicySpec, fields_of

VERSION = "0.5.4"  # of Minari, whose layout this is
NAME = re.compile(r"[-_\w]+-v\d+")
Tree = dict[str, Any]


def check_name(path: Path) -> None:
    """Check that the name of a directory is the id of a dataset.

    Raises:
        UsageError: It is not.
    """
    if not NAME.fullmatch(path.name):
        raise UsageError(
            f"--minari {path}: the name is the id of the dataset; allowed: letters, digits, - and _, then -v "
            "and a number, as in spread-v0"
        )


def write_minari(run: RecordedRun, path: Path, policy: PolicySpec | None) -> dict[str, Any]:
    """Write all episodes as a dataset.

    Args:
        run: The episodes.
        path: Directory to create; its name is the id of the dataset.
        policy: Policy whose agents have an episode each; None: joint episodes of all agents.

    Returns:
        path, episodes and steps (their numbers).

    Raises:
        FormatError: If a shard is damaged.
        StorageError: If the disk fails.
    """
    joint = policy is None
    observations, actions = _joint_spaces(run) if policy is None else _spaces(policy)
    counts = {"episodes": 0, "steps": 0}

    def write(partial: Path) -> None:
        data = partial / "data"
        data.mkdir()
        with new_file(data / "main_data.hdf5") as file:
            for episode in _joint_episodes(run) if policy is None else _single_episodes(run, policy):
                group = file.create_group(f"episode_{counts['episodes']}")
                length = len(episode["rewards"])
                group.attrs.update(episode.pop("attributes"))
                group.attrs.update({"id": counts["episodes"], "total_steps": length})
                _write_tree(group, episode)
                counts["episodes"] += 1
                counts["steps"] += length
        metadata = {
            "dataset_id": path.name,
            "total_episodes": counts["episodes"],
            "total_steps": counts["steps"],
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": json.dumps(observations),
            "action_space": json.dumps(actions),
            "minari_version": VERSION,
            "dataset_size": round((data / "main_data.hdf5").stat().st_size / 1e6, 1),
            "description": f"{'Joint' if joint else 'Single-agent'} trajectories of {run.environment}, "
            "recorded by hpcmarl.",
        }
        (data / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")

    write_directory(path, write)
    return {"path": str(path), **counts}


def _write_tree(group: Any, tree: Tree) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            _write_tree(group.create_group(name), value)
        else:
            group.create_dataset(name, data=value)


def _key(agent: str) -> str:
    """Return an agent's name as a name in HDF5, where "/" separates groups."""
    return agent.replace("/", ".")


def _spaces(policy: PolicySpec) -> tuple[Tree, Tree]:
    """Return the observation and action space of an agent in Minari's form."""
    parts = {part.key: part for part in policy.observation_parts}
    whole = ObservationPart("", policy.observation_shape, policy.observation_type)
    return _observation_space(_nested(parts) if parts else whole), _action_space(policy.action)


def _observation_space(entry: Tree | ObservationPart) -> Tree:
    """Return a space in Minari's form: a Dict for a tree of entries, a Box for a single one."""
    if isinstance(entry, ObservationPart):
        return _observation_box(entry.shape, np.dtype(entry.dtype))
    return {"type": "Dict", "subspaces": {key: _observation_space(own) for key, own in entry.items()}}


def _observation_box(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Tree:
    low, high = -np.inf, np.inf
    if dtype.kind != "f":
        low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return _box(np.full(shape, low), np.full(shape, high), dtype.name)


def _nested(parts: Mapping[str, Any]) -> Tree:
    """Return entries of records as nested dictionaries; the keys are divided at "/"."""
    tree = Tree()
    for key, part in parts.items():
        *outer, last = key.split("/")
        place = tree
        for step in outer:
            place = place.setdefault(step, Tree())
        place[last] = part
    return tree


def _observations(obs: Array) -> Array | Tree:
    """Return observations as an array, or those of records as nested dictionaries of arrays."""
    parts = fields_of(obs)
    return obs if "" in parts else _nested(parts)


def _box(low: Array, high: Array, dtype: str = "float32") -> Tree:
    return {
        "type": "Box",
        "dtype": dtype,
        "shape": list(low.shape),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _action_space(action: ActionSpace) -> Tree:
    if action.kind == "discrete":
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": action.sizes[0]}
    if action.kind == "multi_discrete":
        sizes = list(action.sizes)
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": sizes, "start": [0] * len(sizes)}
    return _box(np.array(action.low), np.array(action.high))


def _joint_spaces(run: RecordedRun) -> tuple[Tree, Tree]:
    spaces = {_key(agent): _spaces(policy) for policy in run.policies.values() for agent in policy.agents}
    observations, actions = (
        {"type": "Dict", "subspaces": {agent: pair[which] for agent, pair in spaces.items()}}
        for which in (0, 1)
    )
    return observations, actions


def _joint_episodes(run: RecordedRun) -> Iterator[Tree]:
    terminated = run.table.columns["terminated"]
    versions = run.table.columns["version"]
    for number, recording in run.recordings():
        yield {
            **_joint_episode(run, recording, bool(terminated[number])),
            "attributes": {"episode": number, "version": int(versions[number])},
        }


def _joint_episode(run: RecordedRun, recording: Recording, terminated: bool) -> Tree:
    observations, actions, infos, rewards = Tree(), Tree(), Tree(), []
    for policy in run.policies.values():
        own = recording.steps[policy.name]
        columns = recording.layout[f"steps/{policy.name}"].columns
        seen, final = (observations_of(values, columns) for values in (own, recording.final[policy.name]))
        rewards.append(own["reward"])
        for place, agent in enumerate(policy.agents):
            key = _key(agent)
            observations[key] = _observations(np.concatenate([seen[:, place], final[place][None]]))
            actions[key] = own["action"][:, place]
            infos[key] = {
                name: own[name][:, place]
                for name in ("reward", "alive", "logp", "terminated", "truncated", "action_mask")
                if name in own
            }
    if "state" in recording.steps[ENVIRONMENT]:
        last = recording.final[ENVIRONMENT]["state"]
        infos["state"] = np.concatenate([recording.steps[ENVIRONMENT]["state"], last[None]])
    return {
        "observations": observations,
        "actions": actions,
        # the mean over all agents, whose sum over the steps is the return_mean of the episode
        "rewards": np.concatenate(rewards, 1).mean(1, dtype=np.float64),
        **_ends(len(rewards[0]), terminated, not terminated),
        "infos": infos,
    }


def _single_episodes(run: RecordedRun, policy: PolicySpec) -> Iterator[Tree]:
    versions = run.table.columns["version"]
    for episode in run.agent_episodes(policy):
        yield {
            **_single_episode(episode),
            "attributes": {
                "agent": policy.agents[episode.agent],
                "episode": episode.episode,
                "version": int(versions[episode.episode]),
            },
        }


def _single_episode(episode: AgentEpisode) -> Tree:
    infos = {"logp": episode.logp, "step": episode.steps}
    if episode.mask is not None:
        infos["action_mask"] = episode.mask
    return {
        "observations": _observations(episode.observations),
        "actions": episode.actions,
        "rewards": episode.rewards.astype(np.float64),
        **_ends(len(episode.rewards), episode.terminated, episode.truncated),
        "infos": infos,
    }


def _ends(length: int, terminated: bool, truncated: bool) -> Tree:
    ends = {"terminations": np.zeros(length, np.bool_), "truncations": np.zeros(length, np.bool_)}
    ends["terminations"][-1], ends["truncations"][-1] = terminated, truncated
    return ends
