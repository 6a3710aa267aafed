"""The command `hpcmarl export`, which writes runs in the formats of other tools.

The work is done in hpcmarl/export/. All checks of outputs, packages and inputs come before the first file is
written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpcmarl.cli.common import Json, Trust, finite, print_json, set_threads
from hpcmarl.errors import UsageError

if TYPE_CHECKING:
    from hpcmarl.config import Config
    from hpcmarl.export.network import ActingNetwork
    from hpcmarl.export.source import Source
    from hpcmarl.types import EnvironmentSpec, PolicySpec

# option -> allowed endings of its file
FORMATS: dict[str, tuple[str, ...]] = {
    "--npz": (".npz",),
    "--onnx": (".onnx",),
}
# option -> optional packages that it needs
PACKAGES = {"--onnx": ("onnx",)}
# formats of one policy
OF_POLICY = ("--onnx", "--torch")
# formats that need a checkpoint
OF_CHECKPOINT = ("--npz", *OF_POLICY, "--card")


def _output(option: str, metavar: str, text: str) -> Any:
    return typer.Option(option, metavar=metavar, help=text, show_default=False)


def export(
    path: Annotated[Path, typer.Argument(metavar="RUN|CHECKPOINT", help="Run directory or checkpoint file.")],
    npz: Annotated[
        Path | None, _output("--npz", "FILE.npz", "Parameters by name, with a JSON description beside them.")
    ] = None,
    onnx: Annotated[
        Path | None, _output("--onnx", "FILE.onnx", "Acting network of a policy as ONNX.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="NAME", help="Policy to export. Default: the only one."),
    ] = None,
    from_environment: Annotated[
        bool,
        typer.Option(
            "--from-environment",
            help="Take the spaces from the environment if the checkpoint of an earlier version has none.",
        ),
    ] = False,
    trusted: Trust = None,
    as_json: Json = False,
) -> None:
    """Write policies and results of a run for other tools.

    Each option names a file or directory that must not exist. Several formats can be written at once. The
    environment is not built.

    \b
    hpcmarl export runs/quickstart-20260101-120000 --npz policy.npz --onnx policy.onnx
    """
    given = {option: value for option, value in {"--npz": npz, "--onnx": onnx}.items() if value is not None}
    if not given:
        raise UsageError(f"export needs at least one format; allowed: {', '.join(FORMATS)}")
    set_threads(1)
    from hpcmarl.export.source import check_new, choose_policy, load_source, need

    _check_outputs(given, check_new)
    for option in given:
        need(option, *PACKAGES.get(option, ()))
    results: dict[str, dict[str, Any]] = {}
    source: Source | None = None
    chosen: PolicySpec | None = None
    if any(option in given for option in OF_CHECKPOINT):
        source = load_source(path, _describe_environment if from_environment else None)
        if policy is not None or any(option in given for option in OF_POLICY):
            chosen = choose_policy(source, policy)
    if source is not None:
        for option, write in _policy_writers(source, chosen).items():
            if option in given:
                results[option] = write(given[option])
    if as_json:
        print_json(finite({option.lstrip("-"): result for option, result in results.items()}))
        return
    for result in results.values():
        typer.echo(_line(result))


def _policy_writers(source: Source, chosen: PolicySpec | None) -> dict[str, Callable[[Path], dict[str, Any]]]:
    """Return the writers of the formats that need a checkpoint."""
    from hpcmarl.export.network import acting_network
    from hpcmarl.export.onnx_graph import write_onnx
    from hpcmarl.export.weights import write_npz

    def network() -> ActingNetwork:
        assert chosen is not None
        return acting_network(source, chosen)

    return {
        "--npz": lambda path: write_npz(source, path, chosen),
        "--onnx": lambda path: write_onnx(network(), path),
    }


def _check_outputs(given: dict[str, Path], check_new: Callable[..., None]) -> None:
    """Check that all outputs can be made and differ.

    Raises:
        UsageError: One cannot be made, or two are the same.
    """
    outputs: dict[Path, str] = {}
    for option, path in given.items():
        check_new(option, path, FORMATS[option])
        files = [path, *([path.with_suffix(".json")] if option == "--npz" else [])]
        for file in files[1:]:
            check_new(option, file)
        for file in files:
            other = outputs.setdefault(file.absolute(), option)
            if other != option:
                raise UsageError(f"{option} {path}: {other} writes {file}, too; choose another name")


def _describe_environment(checkpoint: Path, config: Config) -> EnvironmentSpec:
    """Build the trusted environment of a checkpoint and return its specification."""
    from hpcmarl.envs import describe
    from hpcmarl.roles.origin import check_environments_of

    check_environments_of(checkpoint, config)
    return describe(config.env, config.policies)


def _line(result: dict[str, Any]) -> str:
    """Return a result in one line: the path, then its figures."""
    figures = [
        f"{value} {key.replace('_', ' ')}"
        for key, value in result.items()
        if isinstance(value, int) and not isinstance(value, bool)
    ]
    return f"{result['path']}: {', '.join(figures)}"
