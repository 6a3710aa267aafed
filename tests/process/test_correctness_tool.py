"""tools/correctness: its table and JSON, unknown subjects, and the markers in the page."""

import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from tests.support.comparisons import Comparison, Result

TOOL = Path(__file__).parents[2] / "tools/correctness"


def tool(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, TOOL, *arguments],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def module():
    loader = SourceFileLoader("correctness_tool", str(TOOL))
    made = module_from_spec(spec_from_loader(loader.name, loader))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(made)
    sys.dont_write_bytecode = before
    return made


def test_chosen_subjects_are_compared():
    (row,) = json.loads(tool("sgd", "--json").stdout)
    assert (row["subject"], row["against"], row["cases"]) == ("sgd", "`torch.optim.SGD`", 200)
    assert 0 < row["difference"] <= row["bound"]


def test_unknown_subjects_are_refused():
    assert "unknown subject sdg; allowed: Erdős–Rényi, V-trace, adam" in tool("sdg", code=2).stderr


def test_parts_of_the_page_are_not_written_alone():
    assert "name no subject" in tool("sgd", "--markdown", code=2).stderr


def test_tables_are_written_between_the_markers(module):
    rows = [
        Result(kind, f"{kind} subject", "value", "reference", 1200, "cases", 3e-7, 1e-5, 1.0)
        for kind in module.HEADINGS
    ]
    page = module.renewed(f"before {module.BEGIN} old {module.END} after", rows)
    assert page.startswith("before ")
    assert page.endswith(" after")
    assert "old" not in page
    assert "### Round rules\n\n| subject |" in page
    assert "| rule subject | value | reference | 1,200 | 3.0e-07 | 1.0e-05 |" in page
    with pytest.raises(SystemExit, match="missing"):
        module.renewed("no markers", rows)


def test_a_difference_above_its_bound_is_an_error(module, monkeypatch, capsys):
    wrong = Comparison(
        "maths", "wrong", "value", "reference", lambda seed: ([1.0], [1.5]), 1, 1, 0.1, "cases", 1, False, ""
    )
    absent = Comparison(
        "maths",
        "absent",
        "value",
        "reference",
        lambda seed: 1 / 0,
        1,
        1,
        0.1,
        "cases",
        1,
        False,
        "no_such_package",
    )
    monkeypatch.setattr("tests.support.comparisons.COMPARISONS", [wrong, absent])
    monkeypatch.setattr(sys, "argv", ["correctness"])
    monkeypatch.setattr(module.logging, "disable", lambda level: None)
    with pytest.raises(SystemExit) as left:
        module.main()
    told = capsys.readouterr()
    assert left.value.code == 1
    assert "wrong: value differs by 0.33, more than 0.1" in told.err
    assert "skipped, needs no_such_package: absent" in told.err
