"""Start or resumption of a league, on rank 0.

Checks run before any file is written. Then initial weights are put into the pool. Snapshots that are newer
than the last checkpoint are adopted.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from hpcmarl.algos import make_model
from hpcmarl.config import Config
from hpcmarl.config.league_checks import self_play_contradictions
from hpcmarl.errors import ConfigError, FormatError
from hpcmarl.io.pool import (
    list_snapshots,
    parse_name,
    quarantine,
    read_snapshot,
    snapshot_name,
    snapshot_path,
    write_snapshot,
)
from hpcmarl.league.core.state import LeagueState
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.league.runtime.sides import GameSides, game_of
from hpcmarl.nets.inference import check_inference
from hpcmarl.roles.base import Context
from hpcmarl.types import EnvironmentSpec

logger = logging.getLogger(__name__)


def check_league(config: Config, spec: EnvironmentSpec) -> None:
    """Check that a league can be started with this configuration.

    Each side needs a member, and the algorithm must suit each side. Members of `fixed` matchmaking need
    opponents. Snapshots to start from must fit the networks.

    Raises:
        ConfigError: If a check fails.
        FormatError: If a snapshot to start from does not verify.
    """
    game = game_of(config, spec)
    _check_met(config, game)
    if len(game.sides) == 1 and not spec.turn_based:
        for contradiction in self_play_contradictions(config, constant_sum=spec.constant_sum):
            raise ConfigError(contradiction)
    sizes = {}
    for side, policies in game.sides.items():
        try:
            model = make_model(side_of(spec, policies), config.algo, config.seed)
            check_inference(config.topology.inference, model.design.policies, spec.id)
            sizes[side] = model.size
        except ConfigError as error:
            raise ConfigError(f"{error} (side {side} of the league)") from error
    for name, member in game.members.items():
        if member.start is not None and (held := read_snapshot(member.start)[0].size) != (
            size := sizes[game.side[name]]
        ):
            raise ConfigError(
                f"league.members.{name}.start: {member.start} holds {held} parameters, but the "
                f"configuration needs {size}; adapt a snapshot to changed observations with hpcmarl league "
                "transfer"
            )


def _check_met(config: Config, game: GameSides) -> None:
    """Check that matchmaking `fixed` names existing members, at least one of the other side.

    Raises:
        ConfigError: If it does not.
    """
    assert config.league is not None
    for name, member in game.members.items():
        own = member.matchmaking
        maker, key = (
            (own, f"league.members.{name}.matchmaking")
            if own is not None
            else (config.league.matchmaking, "league.matchmaking")
        )
        if maker.name != "fixed" or member.kind is not None or not member.trains:
            continue
        if unknown := [other for other in maker.against if other not in game.members]:
            raise ConfigError(
                f"{key}.against names {unknown[0]}, which is not a member; allowed: {', '.join(game.members)}"
            )
        met = maker.against or [other for other in game.members if other != name]
        if maker.self_share < 1.0 and not any(
            game.side[other] == game.meets(game.side[name]) for other in met
        ):
            raise ConfigError(
                f"{key}.against: {name} plays side {game.side[name]} and has no opponents; name members of "
                f"side {game.meets(game.side[name])}"
            )


def new_book(config: Config, game: GameSides) -> LeagueState:
    """Return the state of a new league, without snapshots."""
    assert config.league is not None
    members = {name: (member, game.side[name]) for name, member in game.members.items()}
    return LeagueState(config.league, members, tuple(game.sides), config.seed)


def read_league_state(config: Config, game: GameSides, state: dict[str, Any], source: Path) -> LeagueState:
    """Return the league's state from the state in a checkpoint.

    Args:
        config: Configuration of the run.
        game: Sides and members of the league.
        state: State from the checkpoint.
        source: Path of the checkpoint, for messages.

    Raises:
        FormatError: If the state is not that of this league.
    """
    league_state = new_book(config, game)
    try:
        league_state.load_state_dict(state["league"])
        float(state["records"]["seconds"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FormatError(
            f"{source}: its state is not that of this league ({cause}); use another checkpoint"
        ) from error
    return league_state


def check_league_state(
    config: Config, spec: EnvironmentSpec, state: dict[str, Any], source: Path, run_dir: str | None
) -> None:
    """Check that a league can be resumed from the state of a checkpoint, before any file is written.

    Args:
        config: Configuration of the run.
        spec: Specification of the environment.
        state: State from the checkpoint.
        source: Path of the checkpoint.
        run_dir: Value of --run-dir; None: not given.

    Raises:
        ConfigError: If the checkpoint has no league or other members, or if the run directory is another one.
        FormatError: If the state is not that of this league.
    """
    if "league" not in state:
        raise ConfigError(
            f"--resume {source}: the checkpoint is of a single run, but the configuration has a league; "
            "remove the section league, or resume a league"
        )
    if run_dir is not None and Path(run_dir).resolve() != source.parent.parent.resolve():
        raise ConfigError(
            f"--run-dir {run_dir}: a league is resumed in the directory of its pool, {source.parent.parent}; "
            "omit --run-dir"
        )
    game = game_of(config, spec)
    if missing := set(game.members).symmetric_difference(state["league"]["members"]):
        name = sorted(missing)[0]
        where = "not in the checkpoint" if name in game.members else "not in league.members"
        raise ConfigError(
            f"--resume {source}: member {name} is {where}; use the configuration of that league (config.yaml "
            "beside its checkpoints)"
        )
    read_league_state(config, game, state, source)


def adopt_snapshots(league_state: LeagueState, pool: Path, seconds: float) -> None:
    """Add snapshots that were frozen after the last checkpoint; exclude those whose files are missing.

    Args:
        league_state: State of the league, which is changed.
        pool: Directory of the pool.
        seconds: Training time of the league, seconds.
    """
    on_disk = list_snapshots(pool)
    for snapshot in league_state.snapshots:
        if not snapshot.bad and snapshot.name not in on_disk:
            logger.warning(
                "%s: no such file; snapshot %s is excluded from training and matches",
                snapshot_path(pool, snapshot.name),
                snapshot.name,
            )
            league_state.quarantine(snapshot.name)
    members = {member.name: member for member in league_state.members}
    for name in on_disk:
        owner, assignment = parse_name(name)
        if name in league_state.numbers or owner not in members or assignment == 0:
            continue
        member = members[owner]
        try:
            _, attributes = read_snapshot(snapshot_path(pool, name))
            generation, version, env_steps = (
                int(attributes[key]) for key in ("generation", "version", "env_steps")
            )
        except (FormatError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s; moved to %s", error, quarantine(pool, name).parent)
            continue
        if assignment != member.terms + 1 or generation != member.generation:
            logger.warning(
                "snapshot %s does not continue member %s from its checkpoint; it is ignored", name, owner
            )
            continue
        league_state.on_progress(member, version, env_steps, member.episodes)
        league_state.add(member, name, assignment, seconds)
        logger.info("snapshot %s, frozen after the last checkpoint, was added to the league", name)


def freeze_beginnings(context: Context, league_state: LeagueState, game: GameSides, pool: Path) -> None:
    """Write each member's initial weights as its snapshot 0.

    With these snapshots, opponents exist from the first episode on. Existing snapshots are kept.
    """
    config = context.config
    with contextlib.suppress(FileExistsError):
        pool.mkdir()
    for member in league_state.members:
        name = snapshot_name(member.name, 0)
        if name in league_state.numbers:
            continue
        spec = side_of(context.spec, game.sides[member.side])
        if member.config.start is None:
            parameters = make_model(spec, config.algo, league_state.seed_of(member)).initial_parameters()
        else:
            parameters, _ = read_snapshot(member.config.start)
        facts = {
            "member": member.name,
            "side": member.side,
            "generation": member.generation,
            "version": 0,
            "env_steps": 0,
            "opponents": [],
        }
        attributes = {**context.attributes("server"), **facts}
        write_snapshot(pool, name, parameters, attributes)
        league_state.add(member, name, 0, 0.0)
