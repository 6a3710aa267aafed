"""Data frames of pandas and polars, which are optional packages."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from hpcmarl.errors import MissingPackageError, UsageError
from hpcmarl.types import Array

LIBRARIES = ("pandas", "polars")


def make_frame(columns: Mapping[str, Array], library: str) -> Any:
    """Return columns as a frame.

    Args:
        columns: Name -> values, shape [row].
        library: Library of the frame.

    Raises:
        UsageError: The library is unknown.
        MissingPackageError: The library is not installed.
    """
    if library not in LIBRARIES:
        raise UsageError(f"library={library!r}: unknown; allowed: {', '.join(LIBRARIES)}")
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{library} is not installed; pip install {library}") from error
    return module.DataFrame(dict(columns))
