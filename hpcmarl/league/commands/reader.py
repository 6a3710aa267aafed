"""Read the run directory of a league: its configuration, game, state and pool.

Nothing is changed: a snapshot whose file does not verify stays in its place.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcmarl.algos import make_model
from hpcmarl.algos.description import describe_policies
from hpcmarl.algos.model import Model
from hpcmarl.config import Config
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError, FormatError, UsageError
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.io.pool import Pool
from hpcmarl.league.core.snapshots import Snapshot
from hpcmarl.league.core.state import LeagueState
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.league.runtime.sides import GameSides, game_of
from hpcmarl.league.runtime.startup import read_league_state
from hpcmarl.roles.origin import check_environments_of, load_stored
from hpcmarl.types import EnvironmentSpec, FloatArray


@dataclass
class LeagueRun:
    """Contents of a league's run directory.

    Attributes:
        directory: Path as the user gave it.
        checkpoint: Checkpoint that the state was read from.
        config: Configuration of the run.
        spec: Specification of the environment.
        game: Sides and members.
        state: State of the league.
        pool: Pool of snapshots.
    """

    directory: Path
    checkpoint: Path
    config: Config
    spec: EnvironmentSpec
    game: GameSides
    state: LeagueState
    pool: Pool

    def algorithm(self, side: str) -> Model:
        """Return a model for the snapshots of a side, with initial weights."""
        return make_model(side_of(self.spec, self.game.sides[side]), self.config.algo, self.config.seed)

    def snapshot(self, name: str, others: tuple[str, ...] = ()) -> Snapshot:
        """Return a snapshot by its own name, or a member's newest snapshot by the member's name.

        Args:
            name: Name of a snapshot or member.
            others: Further names that the caller accepts, for the message.

        Raises:
            UsageError: If no snapshot or member has this name, or no snapshot of the member verifies.
        """
        league_state = self.state
        if name in league_state.numbers:
            return league_state.snapshots[league_state.numbers[name]]
        for member in league_state.members:
            if member.name == name:
                found = league_state.newest(member)
                if found is None:
                    raise UsageError(
                        f"{name}: this member has no snapshot that verifies in {self.pool.directory}; name "
                        "another one"
                    )
                return found
        raise UsageError(
            f"{name}: {self.directory} has no such snapshot or member; {self._nearest(name, others)}"
        )

    def _nearest(self, name: str, others: tuple[str, ...]) -> str:
        members = [member.name for member in self.state.members]
        near = difflib.get_close_matches(name, [*members, *self.state.numbers, *others], n=3, cutoff=0.5)
        return (
            f"nearest: {', '.join(near)}"
            if near
            else f"allowed: {', '.join([*members, *others])}, and snapshots of these members"
        )


def describe_networks(league: LeagueRun, snapshot: Snapshot) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    """Return a snapshot's parameters by name, and a description of its policies.

    The description consists of plain values; docs/export.md explains its keys.

    Args:
        league: The league.
        snapshot: The snapshot.

    Raises:
        FormatError: If the snapshot's file does not verify.
    """
    algorithm = league.algorithm(snapshot.side)
    algorithm.load_parameters(league.pool.parameters(snapshot.name, algorithm.size))
    env = league.config.env
    facts: dict[str, Any] = {
        "snapshot": snapshot.name,
        "member": league.state.members[snapshot.member].name,
        "side": snapshot.side,
    }
    facts |= {"updates": snapshot.updates, "env_steps": snapshot.env_steps}
    config = {"env": env.id, "env_kwargs": dict(env.kwargs), "algorithm": league.config.algo.name}
    return algorithm.named_parameters(), {**facts, **config, "policies": describe_policies(algorithm)}


def read_league(path: str) -> LeagueRun:
    """Read a league from the newest checkpoint that verifies.

    Args:
        path: Run directory of the league, or a checkpoint in it.

    Raises:
        ConfigError: If the path does not exist or holds no league.
        FormatError: If no checkpoint verifies.
    """
    if not Path(path).exists():
        raise ConfigError(
            f"{path}: no such file or directory; allowed: a league's run directory or a checkpoint file in it"
        )
    found = find_checkpoint(path)
    if found is None:
        raise FormatError(
            f"{path}: no checkpoint in it verifies; allowed: a league's run directory with "
            "checkpoints/checkpoint-*.h5"
        )
    state, attributes = load_checkpoint(found)
    text = attributes.get("config")
    if not isinstance(text, str):
        raise FormatError(
            f"{found}: its attribute config is not a text; the file is damaged or of another program"
        )
    config = load_stored(text, found)
    if config.league is None or "league" not in state:
        raise ConfigError(
            f"{path}: a run without a league; evaluate its policies with `hpcmarl eval {path}`, or start a "
            "league with the section league"
        )
    check_environments_of(found, config)
    spec = describe(config.env, config.policies)
    game = game_of(config, spec)
    directory = found.resolve().parent.parent
    pool = Pool(directory / "pool", config.league.pool_memory, untouched=True)
    return LeagueRun(
        Path(path), found, config, spec, game, read_league_state(config, game, state, found), pool
    )
