"""The command `hpcmarl export`, which writes policies and results of a run in the formats of other tools.

The work is done in hpcmarl/export/. Outputs and packages are checked before the first file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcmarl.cli.common import Json, Trust, finite, print_json, set_threads
from hpcmarl.cli.progress import Progress
from hpcmarl.errors import UsageError

if TYPE_CHECKING:
    from hpcmarl.evaluation import Trained
    from hpcmarl.export.network import ActingNetwork

Result = dict[str, Any]
# option -> allowed endings of the name; the empty ending is that of a directory
ENDINGS: dict[str, tuple[str, ...]] = {
    "--onnx": (".onnx", ""),
    "--torch": (".pt2", ""),
    "--npz": (".npz",),
    "--card": (".md",),
    "--minari": ("",),
    "--flat": (".h5", ".parquet"),
    "--parquet": (".parquet",),
}
OF_CHECKPOINT = ("--onnx", "--torch", "--npz", "--card")
OF_TRAJECTORIES = ("--minari", "--flat")


def _output(option: str, metavar: str, text: str) -> Any:
    return typer.Option(option, metavar=metavar, help=text, show_default=False)


def export(
    path: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="Run directory or checkpoint file.")],
    onnx: Annotated[
        Path | None,
        _output("--onnx", "FILE.onnx|DIR", "Acting network as ONNX. A directory gets a file a policy."),
    ] = None,
    torch: Annotated[
        Path | None,
        _output("--torch", "FILE.pt2|DIR", "The same as a program of torch.export."),
    ] = None,
    npz: Annotated[
        Path | None, _output("--npz", "FILE.npz", "All parameters by name, with a JSON file beside them.")
    ] = None,
    card: Annotated[
        Path | None, _output("--card", "FILE.md", "Model card: environment, training and evaluation.")
    ] = None,
    minari: Annotated[
        Path | None,
        _output("--minari", "DIR", "Trajectories as a Minari dataset; its id is the name of DIR."),
    ] = None,
    flat: Annotated[
        Path | None,
        _output("--flat", "FILE.h5|FILE.parquet", "Trajectories as columns, a row a step of an agent."),
    ] = None,
    parquet: Annotated[
        Path | None, _output("--parquet", "FILE.parquet", "Metrics of the run as Parquet.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="NAME", help="Policy to export. Default: all, or the only one."),
    ] = None,
    member: Annotated[
        str | None,
        typer.Option("--member", metavar="NAME", help="Member or snapshot of a league, for its networks."),
    ] = None,
    per_agent: Annotated[
        bool | None,
        typer.Option(
            "--per-agent/--joint",
            help="--minari: an episode for each agent, or joint episodes of all agents (the default).",
            show_default=False,
        ),
    ] = None,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Write policies, trajectories and results of a run for other tools.

    Each option names a file or directory that must not exist; several can be given. docs/export.md describes
    the formats.

    \b
    hpcmarl export runs/quickstart-20260101-120000 --onnx policy.onnx --card card.md
    hpcmarl export runs/quickstart-20260101-120000 --minari spread-v0 --parquet metrics.parquet
    """
    named = {
        "--onnx": onnx,
        "--torch": torch,
        "--npz": npz,
        "--card": card,
        "--minari": minari,
        "--flat": flat,
        "--parquet": parquet,
    }
    given = {option: place for option, place in named.items() if place is not None}
    _check_request(given, policy, member, per_agent)
    set_threads(1)
    from hpcmarl.io.run_directory import home_of

    _check_outputs(given)
    results: dict[str, Result] = {}
    if any(option in given for option in OF_CHECKPOINT):
        results |= _export_policies(path, given, policy, member)
    run = home_of(path) or path  # a file outside a run may be a trajectory file
    if any(option in given for option in OF_TRAJECTORIES):
        results |= _export_trajectories(run, given, policy, per_agent=bool(per_agent))
    if parquet is not None:
        from hpcmarl.export.parquet import write_metrics_parquet

        results["--parquet"] = write_metrics_parquet(run, parquet)
    if as_json:
        print_json(finite({option.lstrip("-"): result for option, result in results.items()}))
        return
    for result in results.values():
        typer.echo(_line(result))


def _check_request(
    given: dict[str, Path], policy: str | None, member: str | None, per_agent: bool | None
) -> None:
    """Check that the options fit together.

    Raises:
        UsageError: No format is given, or an option without its format.
    """
    if not given:
        raise UsageError(f"export needs at least one format; allowed: {', '.join(ENDINGS)}")
    if per_agent is not None and "--minari" not in given:
        raise UsageError("--per-agent and --joint belong to --minari DIR; add it, or leave them out")
    if member is not None and not any(option in given for option in OF_CHECKPOINT):
        raise UsageError(f"--member {member}: belongs to {', '.join(OF_CHECKPOINT)}; leave it out")
    if policy is not None and not set(given) & {"--onnx", "--torch", "--minari", "--flat"}:
        raise UsageError(f"--policy {policy}: belongs to --onnx, --torch, --minari and --flat; leave it out")
    if policy is not None and "--minari" in given and not per_agent:
        raise UsageError(f"--policy {policy}: a joint Minari dataset has all policies; add --per-agent")


def _check_outputs(given: dict[str, Path]) -> None:
    """Check paths and packages.

    Raises:
        UsageError: An output cannot be made.
        MissingPackageError: A package is not installed.
    """
    from hpcmarl.export.outputs import check_outputs, need

    check_outputs({option: (place, ENDINGS[option]) for option, place in given.items()})
    if "--minari" in given:
        from hpcmarl.export.minari import check_name

        check_name(given["--minari"])
    for option, place in given.items():
        if option == "--onnx":
            need(option, "onnx")
        elif place.suffix == ".parquet":
            need(option, "pyarrow")


def _export_policies(
    path: Path, given: dict[str, Path], policy: str | None, member: str | None
) -> dict[str, Result]:
    """Write the formats that need a checkpoint."""
    from hpcmarl.export.card import write_card
    from hpcmarl.export.weights import write_npz
    from hpcmarl.interface.policy import trained_policies
    from hpcmarl.io.run_directory import home_of

    trained = trained_policies(path, member)[0]
    results: dict[str, Result] = {}
    for option in ("--onnx", "--torch"):
        if option in given:
            results[option] = _write_networks(trained, option, given[option], policy)
    if "--npz" in given:
        results["--npz"] = write_npz(trained, given["--npz"])
    if "--card" in given:
        results["--card"] = write_card(trained, home_of(path), given["--card"], member)
    return results


def _write_networks(trained: Trained, option: str, place: Path, policy: str | None) -> Result:
    """Write one policy to a file, or each policy to a file in a new directory."""
    from hpcmarl.export.network import acting_network
    from hpcmarl.export.trajectories import choose_policy
    from hpcmarl.io.atomic import write_directory

    write: Callable[[ActingNetwork, Path], Result]
    if option == "--onnx":
        from hpcmarl.export.onnx_graph import write_onnx as write
    else:
        from hpcmarl.export.torch_program import write_torch as write
    policies = {own.name: own for own in trained.spec.policies}
    ending = ENDINGS[option][0]
    if place.suffix:
        if policy is None and len(policies) > 1:
            raise UsageError(
                f"{option} {place}: {trained.checkpoint} has {len(policies)} policies; name one with "
                f"--policy ({', '.join(policies)}), or a directory without {ending} for all"
            )
        return write(acting_network(trained, choose_policy(trained.checkpoint, policies, policy)), place)
    chosen = policies if policy is None else {policy: choose_policy(trained.checkpoint, policies, policy)}
    files: list[Result] = []

    def write_all(partial: Path) -> None:
        with Progress("policies", len(chosen)) as progress:
            for own in chosen.values():
                files.append(write(acting_network(trained, own), partial / f"{own.name}{ending}"))
                progress.advance()

    write_directory(place, write_all)
    files = [{**file, "path": str(place / Path(file["path"]).name)} for file in files]
    return {"path": str(place), "files": files, "parameters": sum(file["parameters"] for file in files)}


def _export_trajectories(
    path: Path, given: dict[str, Path], policy: str | None, *, per_agent: bool
) -> dict[str, Result]:
    """Write the formats that need recorded episodes."""
    from hpcmarl.export.flat import write_flat_hdf5
    from hpcmarl.export.minari import write_minari
    from hpcmarl.export.trajectories import RecordedRun

    results: dict[str, Result] = {}
    with Progress("episodes") as progress, RecordedRun(path, progress.advance) as run:
        flat_passes = 0 if "--flat" not in given else 1 if policy is not None else len(run.policies)
        progress.at(0, len(run) * (("--minari" in given) + flat_passes))
        if "--minari" in given:
            results["--minari"] = write_minari(
                run, given["--minari"], run.policy(policy) if per_agent else None
            )
        if (place := given.get("--flat")) is not None and place.suffix == ".parquet":
            from hpcmarl.export.parquet import write_flat_parquet

            results["--flat"] = write_flat_parquet(run, place, run.policy(policy))
        elif place is not None:
            results["--flat"] = write_flat_hdf5(run, place, None if policy is None else run.policy(policy))
    return results


def _line(result: Result) -> str:
    """Return a result in one line: the path, then its figures."""
    figures = [
        f"{value:,} {key.replace('_', ' ')}"
        for key, value in result.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    return f"{result['path']}: {', '.join(figures)}"
