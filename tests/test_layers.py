"""The house rules, read from the source: who may import whom, how long files and functions may be, that every
module says what it is."""

import ast
import graphlib
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
    "hpcmarl",
}
EVERYTHING = {"*"}
# what the ranks of a run are made of
RUNS = (
    BASIS
    | {"maths", "nets", "algos", "optim", "envs", "io", "comm", "launch", "rollouts"}
    | {f"config.{name}" for name in ("file", "differences", "plain")}
)
# room -> the rooms it may import besides itself; a new room without a line here fails the test
ALLOWED = {
    "errors": set(),
    "types": set(),
    "packing": {"errors"},
    "config.base": set(),
    "config.run": {"config.base"},
    "config.slurm": {"config.base"},
    "config.algos": {"config.base"},
    "config.algo_checks": {"config.algos"},
    "config.environment": {"config.base"},
    "config.topology": {"config.base", "config.environment"},
    "config.league": {"config.base"},
    "config.members": {"config.base", "config.league"},
    "config.league_checks": {
        "config.algos",
        "config.algo_checks",
        "config.environment",
        "config.league",
        "config.members",
        "config.rounds",
        "config.run",
        "config.topology",
    },
    "config.rounds": {"config.base"},
    "config.presets": set(),
    "config.renamed": set(),
    "config.plain": {"config.base"},
    "config.schema": {
        "errors",
        "config.base",
        "config.algo_checks",
        "config.algos",
        "config.environment",
        "config.league_checks",
        "config.members",
        "config.topology",
        "config.presets",
        "config.rounds",
        "config.run",
        "config.slurm",
    },
    "config": {
        "config.algo_checks",
        "config.algos",
        "config.environment",
        "config.rounds",
        "config.run",
        "config.schema",
        "config.topology",
    },
    "config.yaml_text": {"errors"},
    "config.keys": {"errors", "config", "config.base"},
    "config.simulation": {"config.base", "config"},
    "config.tree": {"errors", "config", "config.yaml_text", "config.keys"},
    "config.preset_layer": {"errors", "config.presets", "config.tree", "config.yaml_text"},
    "config.file": {
        "errors",
        "config",
        "config.simulation",
        "config.yaml_text",
        "config.keys",
        "config.tree",
        "config.presets",
        "config.renamed",
        "config.preset_layer",
    },
    "config.differences": {"config", "config.file", "config.yaml_text"},
    "config.sweep": {"config.simulation", "config.file"},
    "maths": BASIS,
    "nets": BASIS | {"maths"},
    "optim": BASIS | {"maths"},
    "envs": BASIS,
    "io": BASIS,
    "comm": BASIS,
    "launch": BASIS,
    "rollouts": BASIS | {"comm"},
    "algos": BASIS | {"maths", "nets"},
    "roles": RUNS,
    "league.core": BASIS | {"maths"},
    "league": set(),
    "runtime": RUNS | {"roles"},
    "league.runtime": RUNS | {"roles", "runtime", "league.core"},
    "league.commands": RUNS | {"roles", "runtime", "league.core", "league.runtime"},
    "opening": RUNS | {"roles", "runtime", "league.runtime"},
    "train": RUNS | {"roles", "runtime", "league.runtime", "opening"},
    "evaluate": RUNS | {"roles"},
    "respawned_actor": RUNS | {"roles", "runtime", "train"},
    # sampled.py and playing.py alone play episodes
    "sim": BASIS | {"optim", "maths", "config.sweep", "config.file", "nets", "algos", "envs"},
    "analysis": BASIS | {"io", "maths", "config.file", "config.presets", "config.yaml_text"},
    "doctor": EVERYTHING,
    "bench": EVERYTHING,
    "cli": EVERYTHING,
    "__main__": {"cli"},
    "hpcmarl": set(),
}
# package -> where alone it may be imported
CONFINED = {
    "mpi4py": ("comm/mpi/", "comm/reductions/mpi_allreduce", "comm/reductions/torch_store"),
    "horovod": ("comm/reductions/horovod_allreduce",),
    "h5py": ("io/",),
    "hdf5plugin": ("io/",),
    "pettingzoo": ("envs/",),
    "gymnasium": ("envs/",),
    "pyspiel": ("envs/",),
    "open_spiel": ("envs/",),
    "jax": ("envs/smax/games", "envs/smax/draws"),
    "jaxmarl": ("envs/smax/games",),
    "pickle": (),
    "dill": (),
    "cloudpickle": (),
}


def parse(path):
    return ast.parse(path.read_text())


def room_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return (
        "hpcmarl"
        if parts == ("__init__",)
        else room_of_module([part for part in parts if part != "__init__"])
    )


def room_of_module(parts):
    """Of a name's parts below the package. The models of the configuration are for everyone, the files beside
    them are not; what a league decides knows less than what runs it."""
    divided = parts[0] == "config" or (
        len(parts) > 1 and (PACKAGE / "league" / parts[1]).is_dir() and parts[0] == "league"
    )
    return ".".join(parts[: 2 if divided else 1])


def is_module(name):
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports_of(tree):
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
    return pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))(test)


def test_rooms_depend_on_each_other_in_no_circle():
    """Of the rooms whose imports are listed, imports for type checking included."""
    listed = {room: allowed for room, allowed in ALLOWED.items() if not allowed >= EVERYTHING}
    order = graphlib.TopologicalSorter(
        {room: {other for other in allowed if other in listed} for room, allowed in listed.items()}
    )
    order.prepare()  # raises CycleError


@each_file
def test_imports_follow_the_layer_order(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: say in ALLOWED whom it may import"
    allowed = ALLOWED[room] | {room}
    rooms = {
        room_of_module(name.split(".")[1:] or [name])
        for name in imports_of(parse(path))
        if name.split(".")[0] == "hpcmarl"
    }
    rooms -= {"hpcmarl"}  # the version
    assert allowed >= EVERYTHING or rooms <= allowed, f"{path} may not import {sorted(rooms - allowed)}"


@each_file
def test_third_party_imports_stay_in_allowed_modules(path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imports_of(parse(path)):
        homes = CONFINED.get(name.split(".")[0])
        assert homes is None or place.startswith(homes), f"{place} imports {name}; allowed only in {homes}"


@each_file
def test_files_and_functions_obey_length_and_docstring_rules(path):
    source, tree = path.read_text(), parse(path)
    assert ast.get_docstring(tree), f"{path} has no docstring"
    assert len(source.splitlines()) <= 500 or "longer than" in ast.get_docstring(tree), (
        f"{path} is too long and does not say why"
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            described = ast.get_docstring(node) is not None and len(node.body) > 1
            lines = node.end_lineno - node.body[described].lineno + 1  # without signature and docstring
            assert lines <= 60 or "longer than" in (ast.get_docstring(node) or ""), (
                f"{path}:{node.lineno} {node.name} has {lines} lines and does not say why"
            )


def test_relative_imports_are_not_used():
    relative = [
        f"{path}:{node.lineno}"
        for path in FILES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert not relative
