"""Files, configuration keys and tests that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcmarl.config.keys import schema_rows
from hpcmarl.config.simulation import SimulationConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        DOCS / f"{name}.md"
        for name in (
            "architecture",
            "extending",
            "features",
            "first_algorithm",
            "glossary",
            "limitations",
            "tuning",
        )
    ),
    *sorted((DOCS / "examples").rglob("*.md")),
]
PATH = re.compile(r"\b((?:hpcmarl|tests|configs|docs|tools|slurm)/[\w./-]*\w)")
KEY = re.compile(r"`([a-z]+(?:\.[A-Za-z0-9_<>]+)+)(?:[=:][^`]*)?`")
# files that a reader or a build makes
MADE = {
    "hpcmarl/algos/rloo.py",
    "hpcmarl/optim/rounds/backup.py",
    "tests/unit/algos/test_rloo.py",
    "tests/unit/optim/test_backup.py",
    "tools/docs",
}


def known_keys() -> set[str]:
    """Return all keys and sections of runs and simulations; a name that users choose is NAME."""
    keys = {row.key for row in (*schema_rows(), *schema_rows(SimulationConfig))}
    parts = [re.sub(r"<\w+>", "NAME", key).split(".") for key in keys]
    return {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = {path for path in PATH.findall(page.read_text()) if "NAME" not in path and path not in MADE}
    assert not sorted(path for path in named if not (ROOT / path).exists())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configuration_keys_that_a_page_names_exist(page: Path) -> None:
    known = known_keys()
    sections = {key.partition(".")[0] for key in known}
    named = {key for key in KEY.findall(page.read_text()) if key.partition(".")[0] in sections}
    files = (".py", ".yaml", ".md", ".lock", ".csv", ".json")
    assert not sorted(key for key in named - known if not key.endswith(files))


def test_some_pages_name_keys_and_files() -> None:
    text = (DOCS / "tuning.md").read_text()
    assert {"rounds.batch", "rounds.backpressure"} <= set(KEY.findall(text))
    assert "hpcmarl/algos/ppo.py" in PATH.findall((DOCS / "features.md").read_text())
