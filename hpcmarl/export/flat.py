"""Export of trajectories as flat columns, with one row for each step of each agent (docs/files.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl import __version__
from hpcmarl.export.trajectories import AgentEpisode, RecordedRun
from hpcmarl.io.atomic import write_atomically
from hpcmarl.io.hdf5.schema import new_file, write_attributes
from hpcmarl.types import Array, PolicySpec, fields_of

FORMAT = "hpcmarl-flat"
BLOCK_BYTES = 8 << 20
CHUNK_BYTES = 1 << 19

Columns = dict[str, Array]


def rows_of(episode: AgentEpisode) -> Columns:
    """Return the rows of one agent's episode, of L steps, as columns [L, ...]."""
    length = len(episode.rewards)
    ends = np.zeros((2, length), np.bool_)
    ends[:, -1] = episode.terminated, episode.truncated
    columns = {
        "episode": np.full(length, episode.episode, np.int64),
        "agent": np.full(length, episode.agent, np.int32),
        "step": episode.steps.astype(np.int64),
        **_by_key("observations", episode.observations[:-1]),
        "actions": episode.actions,
        "rewards": episode.rewards,
        **_by_key("next_observations", episode.observations[1:]),
        "terminals": ends[0],
        "timeouts": ends[1],
        "logp": episode.logp,
    }
    return columns if episode.mask is None else {**columns, "action_mask": episode.mask}


def _by_key(name: str, obs: Array) -> Columns:
    """Return a column of observations, or one column NAME/KEY for each entry of records."""
    return {f"{name}/{key}" if key else name: part for key, part in fields_of(obs).items()}


def blocks(run: RecordedRun, policy: PolicySpec) -> Iterator[Columns]:
    """Yield the rows of a policy in order, about BLOCK_BYTES at a time."""
    waiting: list[Columns] = []
    size = 0
    for episode in run.agent_episodes(policy):
        waiting.append(rows_of(episode))
        size += sum(values.nbytes for values in waiting[-1].values())
        if size >= BLOCK_BYTES:
            yield _joined(waiting)
            waiting, size = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Columns]) -> Columns:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def facts_of(run: RecordedRun, policy: PolicySpec) -> dict[str, Any]:
    """Return plain values that describe the rows of a policy."""
    action = policy.action
    return {
        "policy": policy.name,
        "agents": list(policy.agents),
        "observation_shape": list(policy.observation_shape),
        "observation_type": policy.observation_type,
        "observation_keys": [part.key for part in policy.observation_parts],
        "action_kind": action.kind,
        "action_sizes": list(action.sizes),
        "action_low": list(action.low),
        "action_high": list(action.high),
    }


def origin_of(run: RecordedRun) -> dict[str, Any]:
    """Return plain values that identify the format and the source of a flat file."""
    plain = all(policy.observation_dtype == np.float32 for policy in run.policies.values())
    return {
        "format": FORMAT,
        # readers of version 1 take all observations for arrays of float32
        "format_version": 1 if plain else 2,
        "hpcmarl_version": __version__,
        "env": run.environment,
    }


def write_flat_hdf5(run: RecordedRun, path: Path, policy: PolicySpec | None) -> dict[str, Any]:
    """Write an HDF5 file with a group for each policy.

    Args:
        run: The episodes.
        path: File to create.
        policy: The only policy to write; None: all.

    Returns:
        path, episodes, rows and bytes (their numbers).

    Raises:
        FormatError: If a shard is damaged.
        StorageError: If the file cannot be written.
    """
    counts = {"rows": 0}

    def write(partial: Path) -> None:
        with new_file(partial) as file:
            write_attributes(file, origin_of(run))
            for own in run.policies.values() if policy is None else (policy,):
                group = file.create_group(own.name)
                write_attributes(group, facts_of(run, own))
                for block in blocks(run, own):
                    counts["rows"] += _append(group, block)

    write_atomically(path, write)
    return {"path": str(path), "episodes": len(run), **counts, "bytes": path.stat().st_size}


def _append(group: Any, block: Columns) -> int:
    """Append rows to the datasets of a group and return their number."""
    rows = len(block["rewards"])
    for name, values in block.items():
        if name not in group:
            row = max(1, values[0].nbytes)
            group.create_dataset(
                name,
                (0, *values.shape[1:]),
                values.dtype,
                maxshape=(None, *values.shape[1:]),
                chunks=(max(1, min(4096, CHUNK_BYTES // row)), *values.shape[1:]),
            )
        dataset = group[name]
        dataset.resize(len(dataset) + rows, 0)
        dataset[-rows:] = values
    return rows
