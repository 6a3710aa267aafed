"""Commands that show values without training: config and list."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from hpcmarl.cli.common import (
    Json,
    OptionalConfig,
    Overrides,
    Trust,
    file_and_changes,
    print_rows,
    print_table,
    set_threads,
)
from hpcmarl.cli.hints import WithOverrides
from hpcmarl.errors import UsageError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from hpcmarl.config import Config
    from hpcmarl.config.keys import KeyRow
    from hpcmarl.shipped import Shipped
    from hpcmarl.types import EnvironmentSpec

config_app = typer.Typer(no_args_is_help=True, help="Show, check or explain a configuration.")
list_app = typer.Typer(
    no_args_is_help=True,
    help=(
        "List shipped configurations, environments, algorithms, presets, round rules and other choices, also "
        "of other packages."
    ),
)


@config_app.command(cls=WithOverrides)
def show(config: OptionalConfig = None, overrides: Overrides = None) -> None:
    """Print the whole configuration as YAML.

    The output includes defaults and the values of a preset. It can be used as a CONFIG.

    \b
    hpcmarl config show configs/quickstart.yaml optimizer.name=nigt > mine.yaml
    hpcmarl config show preset=mappo env.id=mpe2.simple_spread_v3 stop.env_steps=2000000
    """
    from hpcmarl.config.file import dump_config, load_either

    typer.echo(dump_config(load_either(*file_and_changes(config, overrides))), nl=False)


@config_app.command(cls=WithOverrides)
def check(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    env: Annotated[
        bool, typer.Option("--env", help="Also make the environment, and check it as training does.")
    ] = False,
    trusted: Trust = None,
) -> None:
    """Check a configuration.

    The command prints one line. With --env it also prints the policies with their spaces, and refuses what
    training would refuse. It exits with code 2 if the configuration is not valid.

    \b
    hpcmarl config check configs/quickstart.yaml rounds.rule=malenia
    hpcmarl config check configs/quickstart.yaml --env
    """
    from hpcmarl.config import Config
    from hpcmarl.config.file import load_either

    path, changes = file_and_changes(config, overrides)
    source, settings = path or "command line", load_either(path, changes)
    if isinstance(settings, Config):
        spec = _checked_environment(settings) if env else None
        typer.echo(
            f"{source} is valid: {settings.env.id}, {settings.algo.name}, {settings.optimizer.name}, "
            f"{settings.rounds.rule}"
        )
        if spec is not None:
            _show_environment(settings, spec)
        return
    if env:
        raise UsageError("--env is for runs, and this is a simulation; leave --env out")
    from hpcmarl.config.sweep import candidates, cases

    found = cases(settings, [change.partition("=")[0].strip() for change in changes])
    for case in found:
        list(candidates(case.config))
    typer.echo(f"{source} is valid: a simulation of {len(found)} cases, objective {settings.objective.name}")


def _checked_environment(settings: Config) -> EnvironmentSpec:
    """Make the environments of a run, and check them and the packages of trackers as training does.

    Raises:
        HpcmarlError: Training would refuse the configuration.
    """
    set_threads(settings.topology.threads)
    from hpcmarl.tracking import check_trackers
    from hpcmarl.training import check_environments

    check_trackers(settings.logging)
    return check_environments(settings)


def _show_environment(settings: Config, spec: EnvironmentSpec) -> None:
    """Print what the policies see, and warnings about it."""
    from hpcmarl.envs import image_remark
    from hpcmarl.envs.summary import describe_policy, describe_state, uncovered_remark

    for policy in spec.policies:
        typer.echo(f"policy {policy.name}: {describe_policy(policy)}")
    typer.echo(f"state: {describe_state(spec)}")
    images = image_remark(spec, settings.algo.network.encoder)
    for remark in filter(None, (images, uncovered_remark(spec, settings.policies))):
        typer.echo(f"warning: {remark}", err=True)


@config_app.command()
def schema(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY|KEY=NAME",
            help="Show only this key or section, or the keys of a choice, as in algo.name=ppo.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON schema, for editors.")] = False,
    simulation: Annotated[
        bool, typer.Option("--simulation", help="List the keys of hpcmarl simulate instead.")
    ] = False,
) -> None:
    """List all keys with allowed values, defaults and meanings.

    With KEY, or in a terminal, lines are as long as the terminal is wide. Elsewhere each key is one line.

    \b
    hpcmarl config schema rounds.batch
    hpcmarl config schema | grep delay
    hpcmarl config schema --simulation
    hpcmarl config schema algo.name=my_package.my_module:Mine
    """
    from hpcmarl.config import Config
    from hpcmarl.config.keys import rows_of, schema_rows
    from hpcmarl.config.simulation import SimulationConfig

    root = SimulationConfig if simulation else Config
    chosen = key is not None and "=" in key
    section, model = _chosen(str(key), root) if chosen else ("", root)
    if as_json:
        typer.echo(json.dumps(model.model_json_schema(), indent=2))
        return
    if chosen:
        rows = rows_of(section, model)
    else:
        rows = schema_rows(root) if key is None else matching_rows(key, root)
    if key is not None or sys.stdout.isatty():
        for row in rows:
            _print_key(row)
        return
    print_table(
        [
            {
                "key": row.key,
                "allowed": row.allowed,
                "default": row.default,
                "meaning": row.description + (f" [{', '.join(row.only)}]" if row.only else ""),
            }
            for row in rows
        ]
    )


def _chosen(choice: str, root: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Return the section that KEY=NAME is about, and its model.

    Raises:
        UsageError: The key chooses no model, or no model has the name.
    """
    from hpcmarl import plugins
    from hpcmarl.config.keys import members_of

    key, _, name = choice.partition("=")
    kinds = {kind.key: title for title, kind in plugins.KINDS.items() if kind.config}
    section = key.removesuffix(".name")
    own = members_of(section, root) if key.endswith(".name") else {}
    if key not in kinds and not own:
        raise UsageError(f"{choice}: {key} chooses no keys; allowed: KEY=NAME with {', '.join(kinds)}")
    found = own.get(name) or (plugins.config_class(kinds[key], name) if key in kinds else None)
    if found is None:
        names = [*own, *(each.name for each in plugins.installed(kinds[key]))] if key in kinds else [*own]
        raise UsageError(f"{choice}: {name or 'no name'} is not known; allowed: {', '.join(names) or 'none'}")
    return section, found


def matching_rows(key: str, root: type[BaseModel]) -> list[KeyRow]:
    """Return the rows of a key, of a section, or of all keys with this last part.

    Args:
        key: Dotted key; numbers of items stand for `0`, names of dictionaries for `<name>`.
        root: Model of the whole file.

    Raises:
        UsageError: No key has this name.
    """
    from hpcmarl.config.foreign import present_key
    from hpcmarl.config.keys import nearest, schema_rows

    rows = schema_rows(root)
    found = [row for row in rows if row.key == key or row.key.startswith(f"{key}.")]
    found = found or [row for row in rows if row.key.rsplit(".", 1)[-1] == key]
    if found:
        return found
    near = [present_key(key.rsplit(".", 1)[-1]) or ""] if present_key(key.rsplit(".", 1)[-1]) else []
    near = near or nearest(key, list(root.model_fields), "", root)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"{key}: no such key; {hint}allowed: a key or section of hpcmarl config schema")


def _print_key(row: KeyRow) -> None:
    """Print a key with its allowed values, default and meaning, wrapped to the terminal."""
    width = max(40, shutil.get_terminal_size().columns)
    typer.echo(row.key)
    only = f" ({', '.join(row.only)} only)" if row.only else ""
    lines = [f"allowed: {row.allowed}{only}", f"default: {row.default}", row.description]
    for line in filter(None, lines):
        typer.echo(textwrap.fill(line, width, initial_indent="    ", subsequent_indent="        "))


@list_app.command(name="envs")
def list_environments(as_json: Json = False) -> None:
    """List environments that are known to run.

    Any other PettingZoo environment works by its import path. `batched`: many games are stepped together
    (env.batched).
    """
    from hpcmarl.envs import KNOWN_ENVIRONMENTS, has_batched_form
    from hpcmarl.plugins import installed

    print_rows(
        "environments",
        [
            {"id": known.id, "kind": known.kind, "installed": known.installed}
            | {"batched": has_batched_form(known.id), "package": known.package, "summary": known.summary}
            for known in KNOWN_ENVIRONMENTS
        ]
        + [
            {"id": each.name, "kind": "auto", "installed": True, "batched": False, "package": each.package}
            | {"summary": each.value}
            for each in installed("environments")
        ],
        as_json,
    )


@list_app.command(name="configs")
def list_configurations(as_json: Json = False) -> None:
    """List shipped configurations, which `hpcmarl train NAME` finds from any directory.

    `ranks` is the number in the configuration's example, and `time` its duration on two cores, where it is
    known. hpcmarl init DIR NAME copies one.
    """
    from hpcmarl.shipped import configurations

    rows = []
    for each in configurations():
        needs, installed = _needs(each)
        rows.append(
            {
                "name": each.name,
                "command": each.command,
                "ranks": each.ranks or "-",
                "time": each.duration or "-",
            }
            | {"needs": needs or "-", "installed": installed, "summary": each.summary}
        )
    print_rows("configurations", rows, as_json)


def _needs(each: Shipped) -> tuple[str, bool]:
    """Return what pip must install for a shipped configuration, and whether it is installed."""
    import re

    from hpcmarl.envs.known import KNOWN_ENVIRONMENTS

    match = re.search(r"(?m)^ *(?:env: *\{)? *id: *([\w.:/-]+)", each.text)
    id = match[1] if match else ""
    known = next((own for own in KNOWN_ENVIRONMENTS if own.id == id), None) or next(
        (own for own in KNOWN_ENVIRONMENTS if ":" in id and own.id.partition(":")[0] == id.partition(":")[0]),
        None,
    )
    package = "" if known is None or known.package == "hpcmarl" else known.package
    needs = f"hpcmarl[{each.extras}]" if each.extras else package
    return needs, known is None or known.installed


@list_app.command(name="algos")
def list_algorithms(as_json: Json = False) -> None:
    """List algorithms, for algo.name."""
    from hpcmarl.config.keys import first_line, members_of

    print_rows(
        "algorithms",
        [_own(name, first_line(model)) for name, model in members_of("algo").items()] + _others("algorithms"),
        as_json,
    )


@list_app.command(name="optimizers")
def list_optimizers(as_json: Json = False) -> None:
    """List optimizers, for optimizer.name."""
    from hpcmarl.config.keys import first_line, members_of

    print_rows(
        "optimizers",
        [_own(name, first_line(model)) for name, model in members_of("optimizer").items()]
        + _others("optimizers"),
        as_json,
    )


@list_app.command(name="callbacks")
def list_callbacks(as_json: Json = False) -> None:
    """List installed callbacks, for callbacks. All are from other packages."""
    _print_others("callbacks", as_json)


@list_app.command(name="trackers")
def list_trackers(as_json: Json = False) -> None:
    """List installed trackers, for logging.trackers. All are from other packages."""
    _print_others("trackers", as_json)


def _print_others(kind: str, as_json: bool) -> None:
    rows = _others(kind)
    if rows or as_json:
        print_rows(kind, rows, as_json)
    else:
        typer.echo(f"no installed package registers {kind} (docs/extending.md)")


def _own(name: str, summary: str) -> dict[str, Any]:
    return {"name": name, "package": "hpcmarl", "summary": summary}


def _others(kind: str) -> list[dict[str, Any]]:
    """Return the rows of classes outside hpcmarl; the summary of one that cannot be used is the reason."""
    from hpcmarl.errors import HpcmarlError
    from hpcmarl.plugins import find, installed

    rows = []
    for each in installed(kind):
        try:
            found = find(kind, each.name)
            lines = (found.__doc__ or "").strip().splitlines() or [each.value]
            summary = getattr(found, "summary", "") or lines[0].rstrip(".")
        except HpcmarlError as error:
            summary = f"cannot be used: {error}"
        rows.append({"name": each.name, "package": each.package, "summary": summary})
    return rows


@list_app.command(name="presets")
def list_presets(
    as_json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables of docs/presets.md.")
    ] = False,
) -> None:
    """List presets, which are settings of the authors of algorithms.

    --json adds every value with its source, and the authors' settings that no key can express.
    """
    from hpcmarl.config.presets import PRESETS

    if as_markdown:
        from hpcmarl.analysis.presets import markdown

        typer.echo(markdown(), nl=False)
        return
    rows = []
    for preset in PRESETS.values():
        row: dict[str, Any] = {
            "name": preset.name,
            "algorithm": preset.choices["algo"],
            "optimizer": preset.choices["optimizer"],
        }
        row |= {"paper": preset.paper, "code": f"github.com/{preset.repository}", "summary": preset.summary}
        if as_json:
            gaps = [
                {"theirs": gap.theirs, "ours": gap.ours, "source": preset.cite(gap.source)}
                for gap in preset.gaps
            ]
            row |= {"values": preset.values, "sources": preset.sources, "gaps": gaps}
        rows.append(row)
    print_rows("presets", rows, as_json)


@list_app.command(name="rules")
def list_rules(as_json: Json = False) -> None:
    """List rules that end a round, for rounds.rule."""
    from hpcmarl.config.keys import first_line
    from hpcmarl.optim.rounds import RULES

    rows = [_own(name, first_line(rule)) for name, rule in RULES.items()]
    print_rows("rules", rows + _others("rules"), as_json)


@list_app.command(name="matchmakers")
def list_matchmakers(as_json: Json = False) -> None:
    """List the ways to choose opponents in a league.

    These are matchmakers, and kinds of members, which choose their opponents themselves.
    """
    from hpcmarl.config.league import MatchmakingConfig, MemberKindConfig

    choices = {
        "league.matchmaking.name": MatchmakingConfig,
        "league.members.<name>.kind.name": MemberKindConfig,
    }
    rows = [
        {"name": name, "key": key, "package": "hpcmarl", "summary": summary}
        for key, union in choices.items()
        for name, summary in _summaries(union)
    ]
    rows += [{"name": row["name"], "key": "league.matchmaking.name", **row} for row in _others("matchmakers")]
    print_rows("matchmakers", rows, as_json)


@list_app.command(name="evaluations")
def list_evaluations(as_json: Json = False) -> None:
    """List strategies that choose the next snapshots of a league to compare.

    They are values of league.evaluation.strategy.name.
    """
    from hpcmarl.config.league import EvaluationStrategyConfig

    print_rows(
        "evaluations",
        [{"name": name, "summary": summary} for name, summary in _summaries(EvaluationStrategyConfig)],
        as_json,
    )


def _summaries(union: Any) -> list[tuple[str, str]]:
    """Return the name and the first docstring line of each model of a choice by name."""
    from hpcmarl.config.keys import first_line

    models = get_args(get_args(union)[0])
    return [(str(model.model_fields["name"].default), first_line(model)) for model in models]
