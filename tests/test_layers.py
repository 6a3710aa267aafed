"""Rules for the source of the package: imports between layers, lengths of files and functions, docstrings."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpcmarl"
FILES = sorted(PACKAGE.rglob("*.py"))
BASIS = {
    "errors",
    "types",
    "config",
    "config.league",
    "config.league_checks",
    "config.members",
    "config.run",
    "config.simulation",
    "config.slurm",
    "packing",
    "packages",
    "placement",
    "plugins",
    "callbacks",
    "hpcmarl",
}
EVERYTHING = {"*"}
# layers of which the ranks of a run consist
RUNS = (
    BASIS
    | {"maths", "nets", "algos", "optim", "envs", "io", "comm", "launch", "rollouts", "tracing", "tracking"}
    | {"replay"}
    | {f"config.{name}" for name in ("choice", "file", "differences", "plain", "yaml_text")}
)
# room (a package or module) -> rooms that it may import besides itself; a new room needs a line here
ALLOWED = {
    "errors": set(),
    "types": set(),
    "packing": {"errors"},
    "threads": set(),
    "packages": set(),
    "placement": {"errors"},
    "plugins": {"errors", "packages", "threads"},
    "config.base": set(),
    "config.choice": {"errors", "plugins", "config.base"},
    "config.run": {"config.base", "config.choice"},
    "callbacks": {"config.run"},
    "config.slurm": {"config.base"},
    "config.networks": {"config.base", "config.choice"},
    "config.replay": {"config.base"},
    "config.algo_base": {"config.base", "config.networks", "config.replay"},
    "config.action_critics": {"config.base", "config.networks", "config.algo_base"},
    "config.actor_critics": {"config.base", "config.networks", "config.algo_base"},
    "config.value_based": {"config.base", "config.networks", "config.algo_base"},
    "config.algos": {
        "config.action_critics",
        "config.actor_critics",
        "config.choice",
        "config.value_based",
    },
    "config.algo_checks": {
        "config.algo_base",
        "config.action_critics",
        "config.actor_critics",
        "config.networks",
        "config.replay",
        "config.value_based",
    },
    "config.environment": {"config.base"},
    "config.topology": {"config.base", "config.environment"},
    "config.league": {"config.base", "config.choice"},
    "config.members": {"config.base", "config.league"},
    "config.league_checks": {
        "config.algo_base",
        "config.actor_critics",
        "config.value_based",
        "config.networks",
        "config.algos",
        "config.algo_checks",
        "config.environment",
        "config.league",
        "config.members",
        "config.rounds",
        "config.run",
        "config.topology",
    },
    "config.rounds": {"config.base", "config.choice"},
    "config.presets": set(),
    "config.renamed": set(),
    "config.foreign": set(),
    "shipped": {"errors"},
    "config.plain": {"plugins", "config.base"},
    "config.schema": {
        "errors",
        "config.base",
        "config.algo_checks",
        "config.algo_base",
        "config.actor_critics",
        "config.value_based",
        "config.networks",
        "config.algos",
        "config.environment",
        "config.league_checks",
        "config.members",
        "config.topology",
        "config.presets",
        "config.rounds",
        "config.run",
        "config.slurm",
        "placement",
    },
    "config": {
        "config.algo_checks",
        "config.algo_base",
        "config.action_critics",
        "config.replay",
        "config.actor_critics",
        "config.value_based",
        "config.networks",
        "config.algos",
        "config.environment",
        "config.rounds",
        "config.run",
        "config.schema",
        "config.topology",
    },
    "config.yaml_text": {"errors"},
    "config.keys": {"errors", "config", "config.base", "config.choice"},
    "config.search": {"config.base"},
    "config.simulation": {"config.base", "config"},
    "config.tree": {"errors", "config", "config.yaml_text", "config.keys"},
    "config.preset_layer": {"errors", "config.presets", "config.tree", "config.yaml_text"},
    "config.file": {
        "errors",
        "plugins",
        "config.choice",
        "config",
        "config.simulation",
        "config.yaml_text",
        "config.keys",
        "config.tree",
        "config.presets",
        "config.renamed",
        "config.search",
        "config.foreign",
        "config.preset_layer",
        "shipped",
    },
    "config.differences": {"config", "config.file", "config.yaml_text"},
    "config.sweep": {"config.simulation", "config.file"},
    "maths": BASIS,
    "nets": BASIS | {"maths"},
    "optim": BASIS | {"maths", "config.rounds"},
    "envs": BASIS,
    "io": BASIS,
    "comm": BASIS,
    "launch": BASIS,
    "tracking": BASIS,
    "rollouts": BASIS | {"comm"},
    "tracing": BASIS | {"comm", "io"},
    "algos": BASIS | {"maths", "nets"},
    "replay": BASIS | {"envs", "io"},
    "roles": RUNS,
    "league.core": BASIS | {"maths"},
    "league": set(),
    "runtime": RUNS | {"roles", "threads"},
    "league.runtime": RUNS | {"roles", "runtime", "league.core"},
    "league.commands": RUNS | {"roles", "runtime", "league.core", "league.runtime"},
    "opening": RUNS | {"roles", "runtime", "league.runtime"},
    "training": RUNS | {"roles", "runtime", "league.runtime", "opening"},
    "evaluation": RUNS | {"roles"},
    "respawned_actor": RUNS | {"roles", "runtime", "training"},
    # only sampled.py and playing.py play episodes
    "sim": BASIS | {"optim", "maths", "config.sweep", "config.file", "nets", "algos", "envs"},
    "analysis": BASIS | {"io", "maths", "tracing", "config.file", "config.presets", "config.yaml_text"},
    "sweeps": BASIS | {"io", "callbacks", "config.file", "config.search", "config.yaml_text"},
    "report": BASIS
    | {
        "io",
        "maths",
        "config.differences",
        "config.file",
        "config.yaml_text",
        "league.core",
        "league.commands",
    }
    | {"sweeps"},
    "export": BASIS | {"io", "nets", "algos", "config.file", "config.yaml_text", "analysis", "evaluation"},
    "doctor": EVERYTHING,
    "bench": EVERYTHING,
    "interface": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": {"cli"},
    "hpcmarl": {
        "interface",
        "callbacks",
    },  # for type checking; at run time each name is imported when it is used
}
# external package -> the only places that may import it
CONFINED = {
    "mpi4py": ("comm/mpi/", "comm/reductions/mpi_allreduce", "comm/reductions/torch_store"),
    "horovod": ("comm/reductions/horovod_allreduce",),
    "h5py": ("io/",),
    "hdf5plugin": ("io/",),
    "wandb": ("tracking/",),
    "tensorboard": (),
    "tensorboardX": (),
    "pettingzoo": ("envs/",),
    "gymnasium": ("envs/",),
    "pyspiel": ("envs/",),
    "open_spiel": ("envs/",),
    "jax": ("envs/smax/games", "envs/smax/draws"),
    "jaxmarl": ("envs/smax/games",),
    "onnx": ("export/onnx_graph",),
    "pyarrow": ("export/parquet",),
    "pickle": (),
    "dill": (),
    "cloudpickle": (),
}


def parse(path):
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text())


def room_of(path):
    """Return the room of a file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return (
        "hpcmarl"
        if parts == ("__init__",)
        else room_of_module([part for part in parts if part != "__init__"])
    )


def room_of_module(parts):
    """Return the room of a module, given the parts of its name below the package.

    The config package is divided into modules, because all layers may import its models but not its files.
    The league package is divided, because its core may import less than its runtime.
    """
    divided = parts[0] == "config" or (
        len(parts) > 1 and (PACKAGE / "league" / parts[1]).is_dir() and parts[0] == "league"
    )
    return ".".join(parts[: 2 if divided else 1])


def is_module(name):
    """Return whether a dotted name is a module or a package of hpcmarl."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports_of(tree):
    """Yield the dotted names of all imported modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # `from hpcmarl.config import keys` imports the module, not only the package
            names = [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if is_module(f"{node.module}.{alias.name}")
            ]
            yield from names or (node.module,)


def each_file(test):
    """Parametrize a test over all files of the package."""
    return pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))(test)


def test_rooms_have_no_import_cycles():
    """Covers all rooms with listed imports, including imports for type checking."""
    listed = {room: allowed for room, allowed in ALLOWED.items() if not allowed >= EVERYTHING}
    order = graphlib.TopologicalSorter(
        {room: {other for other in allowed if other in listed} for room, allowed in listed.items()}
    )
    order.prepare()  # raises CycleError


def test_architecture_page_lists_all_rooms_from_the_top_down():
    """Each row of the page's table imports from itself and from rows below it."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"(?m)^\| [\w ]+ \| ((?:`\w+`(?:, )?)+) \|", page.partition("## Layers")[2])
    row_of = {room: number for number, row in enumerate(rows) for room in re.findall(r"`(\w+)`", row)}
    assert set(row_of) == {room.partition(".")[0] for room in ALLOWED} - {"hpcmarl"}
    for room, allowed in ALLOWED.items():
        if room == "hpcmarl":
            continue
        lower = {other for other in allowed - EVERYTHING if other != "hpcmarl"}
        assert all(row_of[other.partition(".")[0]] >= row_of[room.partition(".")[0]] for other in lower), room


@each_file
def test_imports_follow_the_layer_order(path):
    """Each file imports only from its own room and from the rooms in ALLOWED."""
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: add the rooms that it may import to ALLOWED"
    allowed = ALLOWED[room] | {room}
    rooms = {
        room_of_module(name.split(".")[1:] or [name])
        for name in imports_of(parse(path))
        if name.split(".")[0] == "hpcmarl"
    }
    rooms -= {"hpcmarl"}  # every room may import the version
    assert allowed >= EVERYTHING or rooms <= allowed, f"{path} may not import {sorted(rooms - allowed)}"


@each_file
def test_third_party_imports_stay_in_allowed_modules(path):
    """External packages in CONFINED are imported only in their places."""
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports_of(parse(path)):
        homes = CONFINED.get(name.split(".")[0])
        assert homes is None or place.startswith(homes), f"{place} imports {name}; allowed only in {homes}"


@each_file
def test_files_and_functions_obey_length_and_docstring_rules(path):
    """Modules have docstrings; longer files and functions explain why they are longer.

    The limits are 500 lines for a file and 60 for a function.
    """
    source, tree = path.read_text(), parse(path)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    assert len(source.splitlines()) <= 500 or "longer than" in ast.get_docstring(tree), (
        f'{path} is too long, and its docstring gives no reason ("longer than …")'
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # the signature and the docstring do not count
            described = ast.get_docstring(node) is not None and len(node.body) > 1
            lines = node.end_lineno - node.body[described].lineno + 1
            assert lines <= 60 or "longer than" in (ast.get_docstring(node) or ""), (
                f"{path}:{node.lineno} {node.name} has {lines} lines, "
                'and its docstring gives no reason ("longer than …")'
            )


def test_relative_imports_are_not_used():
    """No file has a relative import."""
    relative = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert not relative
