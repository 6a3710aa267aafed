"""The rules of the test suite itself (CONTRIBUTING.md), read from its source."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("test_*.py"))
FOLDERS = {"unit", "runs", "process", "mpi", "slurm", "faults", "learning"}
LONGEST_NAME = 60


def each_file(test):
    return pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())(test)


def imported(tree):
    """Return the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_test_file_is_in_a_known_folder():
    unknown = [
        path
        for path in FILES
        if path.relative_to(TESTS).parts[0] not in FOLDERS and path.name != "test_layers.py"
    ]
    assert not unknown


def test_unit_and_run_tests_mirror_the_rooms_of_the_package():
    package = {path.name for path in (TESTS.parent / "hpcmarl").iterdir() if path.is_dir()}
    for folder in ("unit", "runs"):
        rooms = {path.relative_to(TESTS).parts[1] for path in FILES if path.is_relative_to(TESTS / folder)}
        unknown = {room for room in rooms if not room.endswith(".py")} - package
        assert not unknown, f"tests/{folder} has rooms that hpcmarl/ does not have"


@each_file
def test_test_files_import_no_other_test_file(path):
    found = [name for name in imported(ast.parse(path.read_text())) if re.match(r"tests\.(.*\.)?test_", name)]
    assert not found


@each_file
def test_test_names_are_short_and_unique_in_their_scope(path):
    for scope in ast.walk(ast.parse(path.read_text())):
        if isinstance(scope, ast.Module | ast.ClassDef):
            names = [
                node.name
                for node in scope.body
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
            ]
            assert len(names) == len(set(names)), path
            assert not [name for name in names if len(name) > LONGEST_NAME]


# Modules and functions that start processes or play a whole run on virtual ranks.
FORBIDDEN_IN_UNITS = {
    "subprocess",
    "multiprocessing",
    "tests.support.launch",
    "tests.support.rank_world",
    "tests.support.worlds.run_world",
    "tests.support.replays.record",
    "hpcmarl.training.make_rank",
    "hpcmarl.training.train",
    "hpcmarl.runtime.rank.serve",
}


@pytest.mark.parametrize("path", sorted((TESTS / "unit").rglob("test_*.py")), ids=lambda path: path.name)
def test_unit_tests_import_neither_runs_nor_launchers(path):
    assert not FORBIDDEN_IN_UNITS & set(imported(ast.parse(path.read_text())))
