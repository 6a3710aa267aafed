"""Recorded episodes of a run, whole or agent by agent, for the exports of trajectories.

One episode is in memory at a time. The agents, spaces and episodes come from the finished shards, so that the
environment is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hpcmarl.errors import FormatError, UsageError
from hpcmarl.io.run_state import read_run_state
from hpcmarl.io.trajectories.episodes import EpisodeReader, EpisodeTable, Recording, find_episodes
from hpcmarl.io.trajectories.layout import (
    ENVIRONMENT,
    OBSERVATION,
    Layout,
    observation_columns,
    observations_of,
)
from hpcmarl.io.trajectories.shard_reader import list_shards
from hpcmarl.types import ActionSpace, Array, BoolArray, FloatArray, ObservationPart, PolicySpec


class RecordedRun:
    """Complete episodes in the finished shards of a run, for use in a `with` statement.

    Attributes:
        path: The run directory, or a trajectory file.
        table: Index of the episodes.
        policies: Policies that the shards hold, by name.
        environment: Name of the environment, from the first shard.
    """

    def __init__(self, path: Path, on_episode: Callable[[], object] = lambda: None) -> None:
        """Read the index.

        Args:
            path: Run directory or trajectory file.
            on_episode: Called after each episode that was read and used.

        Raises:
            UsageError: The path does not exist, or no complete episode is in a finished shard.
            FormatError: A shard is damaged.
        """
        if not path.exists():
            raise UsageError(f"{path}: no such file or directory; allowed: a run directory or a shard")
        self.path, self._on_episode = path, on_episode
        self.table: EpisodeTable = find_episodes(list_shards(path))
        if not len(self.table):
            raise UsageError(_why_none(path))
        self._reader = EpisodeReader(self.table)
        first = self._reader.shard(0)
        self.environment = str(first.attributes.get("env", ""))
        self.policies = {policy.name: policy for policy in policies_of(first.path, first.layout)}

    def __enter__(self) -> RecordedRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    def __len__(self) -> int:
        return len(self.table)

    def recordings(self) -> Iterator[tuple[int, Recording]]:
        """Read the episodes one at a time, shard after shard, so that each file is opened about once.

        Yields:
            Number of the episode in `table`, and its steps.
        """
        last = np.append(self.table.first[1:], len(self.table.parts)) - 1
        for number in np.argsort(self.table.parts[last, 0], kind="stable").tolist():
            yield number, self._reader.read(number)
            self._on_episode()

    def agent_episodes(self, policy: PolicySpec) -> Iterator[AgentEpisode]:
        """Read the episodes of each agent of a policy; agents that never act are left out."""
        for number, recording in self.recordings():
            for place in range(len(policy.agents)):
                if recording.steps[policy.name]["alive"][:, place].any():
                    yield agent_episode(recording, policy, place, number)

    def policy(self, name: str | None) -> PolicySpec:
        """Return the named policy, or the only one.

        Raises:
            UsageError: There are several and none is named, or not this one.
        """
        return choose_policy(self.path, self.policies, name)


class AgentEpisode(NamedTuple):
    """The steps in which one agent acts, L of them.

    Attributes:
        episode: Number of the episode in the table.
        agent: Number of the agent in its policy.
        steps: Steps of the episode in which it acts, shape [L].
        observations: One before each action and one after the last, shape [L + 1, ...]. The last one is zero
            if the agent's episode terminated.
        actions: Shape [L, ...].
        rewards: Rewards from each action up to the next one, shape [L]. Rewards before the first action count
            to it.
        logp: Log probabilities of the actions, shape [L].
        mask: Allowed actions, shape [L, A]; None without masks.
        terminated: Whether its episode terminated.
        truncated: Whether its episode was truncated.
    """

    episode: int
    agent: int
    steps: Array
    observations: Array
    actions: Array
    rewards: FloatArray
    logp: FloatArray
    mask: BoolArray | None
    terminated: bool
    truncated: bool


def agent_episode(recording: Recording, policy: PolicySpec, place: int, number: int) -> AgentEpisode:
    """Cut the steps of one agent out of an episode.

    Args:
        recording: The episode.
        policy: Policy of the agent.
        place: Number of the agent in the policy. It acts at least once.
        number: Number of the episode in the table.
    """
    own = {name: values[:, place] for name, values in recording.steps[policy.name].items()}
    acts = np.flatnonzero(own["alive"])
    first = np.append(0, acts[1:])
    truncated, terminated = bool(own["truncated"].any()), bool(own["terminated"].any())
    # the final observation exists only for agents that are still there at the end of a truncated episode
    columns = recording.layout[f"steps/{policy.name}"].columns
    seen = observations_of(own, columns)
    last = observations_of(recording.final[policy.name], columns)[place]
    if terminated or not own["truncated"][-1]:
        last = np.zeros_like(last)
    mask = own.get("action_mask")
    return AgentEpisode(
        number,
        place,
        acts,
        np.concatenate([seen[acts], last[None]]),
        own["action"][acts],
        np.add.reduceat(own["reward"], first),
        own["logp"][acts],
        None if mask is None else mask[acts],
        terminated,
        truncated and not terminated,
    )


def policies_of(path: Path, layout: Layout) -> list[PolicySpec]:
    """Return the policies whose steps a trajectory file holds, in alphabetical order.

    Args:
        path: The file, for messages.
        layout: Its layout.

    Raises:
        FormatError: If a policy lacks its actions, observations or names of agents.
    """
    policies = []
    for group_path, group in layout.items():
        name = group_path.removeprefix("steps/")
        if name in (group_path, ENVIRONMENT):
            continue
        try:
            action, seen = group.columns["action"], observation_columns(group.columns)
            facts = action.attributes
            space = ActionSpace(
                facts["action_kind"],
                tuple(int(size) for size in facts["action_sizes"]),
                tuple(float(bound) for bound in facts.get("action_low", ())),
                tuple(float(bound) for bound in facts.get("action_high", ())),
            )
            agents = tuple(label.rstrip(b"\0").decode() for label in group.labels["agent"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path}: /{group_path} has no actions, observations or names of agents "
                f"({type(error).__name__}: {error}); the file is damaged or foreign"
            ) from error
        form = {name: (column.sizes[1:], column.dtype.name) for name, column in seen.items()}
        shape, dtype = form.pop(OBSERVATION, ((), "float32"))
        parts = tuple(
            ObservationPart(key.partition("/")[2], *shape_and_type) for key, shape_and_type in form.items()
        )
        policies.append(PolicySpec(name, agents, shape, space, "action_mask" in group.columns, dtype, parts))
    return policies


def choose_policy(path: Path, policies: dict[str, PolicySpec], name: str | None) -> PolicySpec:
    """Return the named policy, or the only one.

    Args:
        path: The run or checkpoint, for messages.
        policies: Policies by name.
        name: Name of the policy; None: the only one.

    Raises:
        UsageError: There are several policies and none is named, or not this one.
    """
    if name is None and len(policies) > 1:
        raise UsageError(
            f"{path} has {len(policies)} policies; name one with --policy: {', '.join(policies)}"
        )
    if name is not None and name not in policies:
        raise UsageError(f"--policy {name}: {path} has no such policy; allowed: {', '.join(policies)}")
    return policies[name or next(iter(policies))]


def _why_none(path: Path) -> str:
    """Return why a run has no complete episodes, with the remedy, in one line."""
    if list_shards(path):
        return f"{path}: its finished shards hold no complete episode; train longer, or shorten the episodes"
    if read_run_state(path).state == "running":
        return (
            f"{path}: no shard is finished yet, and the run is still running; the first shard closes after "
            "trajectories.shard_megabytes or trajectories.shard_seconds, or at the end of the run"
        )
    if any(path.glob("trajectories/rank-*/shard-*.h5.partial")):
        return f"{path}: its shards were left open by a kill; recover them with hpcmarl data salvage {path}"
    if (path / "members").is_dir():
        return f"{path}: a league; name the run of a member, as in {path}/members/NAME/0001"
    return f"{path}: holds no trajectories; train with trajectories.enabled=true"
