"""Recordings from the trajectory shards of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hpcmarl.config import Config, EnvConfig
from hpcmarl.errors import FormatError
from hpcmarl.io.trajectories.episodes import EpisodeTable, find_episodes, read_episode
from hpcmarl.io.trajectories.layout import (
    ENVIRONMENT,
    OBSERVATION,
    GroupLayout,
    observation_columns,
    observations_of,
)
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.replay.recording import End, Origin, PolicySteps, Recording, choose
from hpcmarl.types import Array, BoolArray

__all__ = ["choose_stored", "failed_episodes", "find_stored", "read_recording"]


def find_stored(run: Path) -> tuple[EpisodeTable, list[str]]:
    """Find the complete episodes in the finished shards of a run. Damaged shards are left out.

    Args:
        run: Run directory.

    Returns:
        The episodes, and one line for each shard that is left out.
    """
    shards = list_shards(run)
    try:
        return find_episodes(shards), []
    except FormatError:
        good, problems = [], []
        for shard in shards:
            try:
                find_episodes([shard])
                good.append(shard)
            except FormatError as error:
                problems.append(f"{' '.join(str(error).split())}; its episodes are left out")
        return find_episodes(good), problems


def failed_episodes(table: EpisodeTable) -> BoolArray:
    """Return which episodes were cut off because their environment failed: those without a return."""
    return np.isnan(np.asarray(table.columns["return_mean"], np.float64))


def choose_stored(table: EpisodeTable, wanted: str) -> int | None:
    """Choose a stored episode; see `recording.choose`."""
    return choose(wanted, np.asarray(table.columns["return_mean"]), failed_episodes(table))


def read_recording(table: EpisodeTable, number: int, config: Config) -> Recording:
    """Read an episode.

    Args:
        table: The stored episodes.
        number: Number of the episode in the table.
        config: Configuration of the run.

    Raises:
        FormatError: The shard is damaged.
    """
    groups, layout = read_episode(table, number)
    facts = {name: values[number].item() for name, values in table.columns.items()}
    shard = table.shards[int(table.segments_of(number)[0, 0])]
    policies = tuple(
        _steps(name, columns, layout[f"steps/{name}"], shard)
        for name, columns in groups.items()
        if name != ENVIRONMENT
    )
    end: End = "terminated" if facts["terminated"] else "truncated"
    state = groups.get(ENVIRONMENT, {}).get("state")
    return Recording(
        environment=config.env.id,
        policies=policies,
        end="failed" if np.isnan(facts["return_mean"]) else end,
        facts={
            "source": f"stored episode {number} of {len(table)}",
            "version": int(facts["version"]),
            "actor": int(facts["actor"]),
            "slot": int(facts["slot"]),
            "episode of the slot": int(facts["episode"]),
            "file": f"{shard.parent.name}/{shard.name}",
        },
        state=state if state is not None and state.any() else None,
        origin=None if config.league is not None else _origin(facts, config),
    )


def _steps(name: str, columns: dict[str, Array], layout: GroupLayout, shard: Path) -> PolicySteps:
    labels = layout.labels.get("agent", ())
    agents = tuple(label.rstrip(b"\0").decode(errors="replace") for label in labels)
    missing = [column for column in ("action", "reward", "alive") if column not in columns]
    missing += [] if observation_columns(layout.columns) else [OBSERVATION]
    if missing or len(agents) != columns["reward"].shape[1]:
        raise FormatError(
            f"{shard}: /steps/{name} lacks {', '.join(missing) or 'the names of agents'}; the file is "
            "damaged or foreign"
        )
    kind = layout.columns["action"].attributes.get("action_kind", "discrete")
    chosen: dict[str, Any] = {column: columns[column] for column in ("action", "reward", "alive")}
    chosen["obs"] = observations_of(columns, layout.columns)
    return PolicySteps(
        name, agents, kind if isinstance(kind, str) else "discrete", **chosen, logp=columns.get("logp")
    )


def _origin(facts: dict[str, Any], config: Config) -> Origin:
    """Return the seed of a stored episode, and the settings that its actor or worker may have had.

    The file does not say which group an actor belongs to. The settings that reproduce the episode are found
    by playing it.
    """
    found: list[EnvConfig] = []
    for group in config.topology.group_list:
        environment = config.env.changed(group.env)
        for kind in (None, *(config.topology.workers or ())):
            changed = environment if kind is None else environment.changed(kind.env)
            if changed not in found:
                found.append(changed)
    return Origin(tuple(found), config.policies, config.seed, int(facts["slot"]), int(facts["episode"]))
