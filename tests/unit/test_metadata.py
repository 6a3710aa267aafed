"""Files that describe the project to package indexes, citation tools, hooks and continuous integration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

import hpcmarl

ROOT = Path(__file__).parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
SETUP = (ROOT / "setup.py").read_text()


def test_citation_has_the_version_of_the_package() -> None:
    assert CITATION["version"] == hpcmarl.__version__


def test_licence_is_the_same_in_all_files() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License\n")
    assert "the hpcmarl authors" in text
    assert CITATION["license"] == "MIT"
    assert 'license="MIT"' in SETUP


def test_authors_and_keywords_agree() -> None:
    assert [author["name"] for author in CITATION["authors"]] == ["the hpcmarl authors"]
    assert 'author="the hpcmarl authors"' in SETUP
    assert all(f'"{keyword}"' in SETUP for keyword in CITATION["keywords"])


def test_hooks_call_the_checkers_of_tools_test() -> None:
    config: Any = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["name"] for hook in repository["hooks"]}
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    steps = re.findall(r"(?m)^step \w+ (ruff \w+|mypy)", (ROOT / "tools" / "test").read_text())
    assert hooks == set(steps)


def test_workflow_runs_commands_of_the_repository() -> None:
    workflow: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["tests"]["steps"] if "run" in step]
    assert [command.split()[0] for command in commands] == ["tools/quickstart", "tools/test"]
    assert all((ROOT / command.split()[0]).is_file() for command in commands)
