"""`hpcmarl league transfer`: adapt a league's snapshot to a configuration with other observations.

The result is checked and written to a file that members can start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcmarl.algos import make_model
from hpcmarl.algos.transfer import NEW, transfer_parameters
from hpcmarl.config import Config
from hpcmarl.config.file import dump_config
from hpcmarl.envs import describe
from hpcmarl.errors import UsageError
from hpcmarl.io.pool import write_snapshot_file
from hpcmarl.league.commands.reader import LeagueRun
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.league.runtime.sides import game_of

NEW_WORD = "new"


def transfer_snapshot(
    league: LeagueRun, name: str, config: Config, features: Sequence[str], out: Path
) -> dict[str, Any]:
    """Transfer a snapshot to the league that a configuration describes, and write it to a file.

    Args:
        league: The league with the snapshot.
        name: Name of the snapshot, or of a member for its newest snapshot.
        config: Configuration with a league.
        features: Texts POLICY=LIST; see `parse_features`.
        out: File to write; it must not exist.

    Returns:
        snapshot, side, file and parameters (their number). difference, carried, widened and begun are as in
        `Transferred` (algos/transfer.py).

    Raises:
        UsageError: If the file exists, the configuration has no league or no such side, or a name or a text
            of features is invalid.
        ConfigError: If the networks differ in other ways or the features do not fit.
        StorageError: If the file cannot be written.
        FormatError: If the snapshot's file does not verify.
    """
    if out.exists():
        raise UsageError(f"--out {out}: exists; name another file")
    if config.league is None:
        raise UsageError(
            "the configuration has no league to transfer the snapshot to; add the section league"
        )
    snapshot = league.snapshot(name)
    spec = describe(config.env, config.policies)
    game = game_of(config, spec)
    if snapshot.side not in game.sides:
        raise UsageError(
            f"{snapshot.name} plays side {snapshot.side}; the configuration has {', '.join(game.sides)}; "
            "use the same names of policies and sides"
        )
    new = make_model(side_of(spec, game.sides[snapshot.side]), config.algo, config.seed)
    old = league.algorithm(snapshot.side)
    old.load_parameters(league.pool.parameters(snapshot.name, old.size))
    carried = transfer_parameters(old, new, parse_features(features))
    facts = {
        "member": snapshot.name,
        "side": snapshot.side,
        "generation": 1,
        "version": 0,
        "env_steps": 0,
        "opponents": [],
    }
    written = {
        **facts,
        "config": dump_config(config),
        "env": spec.id,
        "role": "transfer",
        "seeds": [config.seed],
    }
    write_snapshot_file(
        out,
        carried.parameters,
        {**written, "name": out.stem, "carried_from": f"{league.directory}/{snapshot.name}"},
    )
    names = {"carried": carried.carried, "widened": carried.widened, "begun": carried.begun}
    facts = {"snapshot": snapshot.name, "side": snapshot.side, "file": str(out)}
    return {**facts, "parameters": int(carried.parameters.size), "difference": carried.difference, **names}


def parse_features(given: Sequence[str]) -> dict[str, list[int]]:
    """Parse the old numbers of the features of each policy's new observation.

    Args:
        given: Texts such as "player=0-9,new*2,12".

    Returns:
        Policy -> numbers; the example gives {"player": [0, …, 9, NEW, NEW, 12]}.

    Raises:
        UsageError: If a text is invalid.
    """
    found: dict[str, list[int]] = {}
    for text in given:
        policy, equals, rest = text.partition("=")
        if not equals or not policy:
            raise UsageError(f"--features {text}: allowed: POLICY=LIST, for instance player=0-9,new*2")
        found[policy] = [feature for part in rest.split(",") for feature in _part(part.strip(), text)]
    return found


def _part(part: str, text: str) -> list[int]:
    word, star, count = part.partition("*")
    if word == NEW_WORD and (not star or count.isdecimal()):
        return [NEW] * (int(count) if star else 1)
    first, dash, last = part.partition("-")
    if first.isdecimal() and (not dash or (last.isdecimal() and int(first) <= int(last))):
        return list(range(int(first), int(last if dash else first) + 1))
    raise UsageError(
        f"--features {text}: {part!r} is neither a feature (3), a range of them (0-9) nor new or new*2"
    )
