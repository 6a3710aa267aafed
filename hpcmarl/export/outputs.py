"""Checks of outputs and of optional packages, before any work starts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from hpcmarl.errors import MissingPackageError, UsageError

EXTRA = "pip install 'hpcmarl[export]'"


def check_outputs(outputs: Mapping[str, tuple[Path, tuple[str, ...]]]) -> None:
    """Check that all outputs can be made and differ.

    Args:
        outputs: Option -> its path, and the allowed endings of the name. An empty ending allows a directory,
            whose name has no ending.

    Raises:
        UsageError: An output exists, has another ending, lacks its directory, or is named twice.
    """
    taken: dict[Path, str] = {}
    for option, (path, endings) in outputs.items():
        if path.suffix not in endings:
            named = [ending or "no ending (a directory)" for ending in endings]
            raise UsageError(f"{option} {path}: the name must end in {' or '.join(named)}")
        files = [path, *([path.with_suffix(".json")] if option == "--npz" else [])]
        for file in files:
            if file.exists() or file.is_symlink():
                raise UsageError(f"{option} {file}: exists; choose another name or delete it first")
            other = taken.setdefault(file.absolute(), option)
            if other != option:
                raise UsageError(f"{option} {path}: {other} writes {file}, too; choose another name")
        if not path.parent.is_dir():
            raise UsageError(f"{option} {path}: directory {path.parent} does not exist; create it first")


def need(option: str, *packages: str) -> None:
    """Check that optional packages can be imported.

    Raises:
        MissingPackageError: If one is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            words = " ".join(str(error).split())[:100]
            raise MissingPackageError(
                f"{option} needs the package {package} ({words}); install it with {EXTRA}"
            ) from error
