"""Records of installed packages, which are read without importing them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"\bextra\b")


@lru_cache
def distributions(package: str) -> tuple[str, ...]:
    """Return the installed distributions that a top-level package belongs to, by their normalised names."""
    if not package.isidentifier():
        return ()
    # Most distributions have the name of their package. Any other search reads the records of all of them.
    namesake = record_of(package)
    if namesake is not None and _owns(namesake, package):
        return (_normalised(package),)
    place = place_of(package)
    if place is None or not any(
        name.endswith((".dist-info", ".egg-info")) for name in os.listdir(place.parent)
    ):
        # Nothing is installed there. This saves every rank reading the records of all packages.
        return ()
    candidates = {_normalised(name) for name in _packages().get(package, ())}
    return tuple(sorted(name for name in candidates if (found := record_of(name)) and _owns(found, package)))


def place_of(package: str) -> Path | None:
    """Return the directory or file of a top-level package or module without importing it.

    Returns:
        The path; None if it does not exist.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    # A module of the user may lie in the working directory.
    spec = spec or importlib.machinery.PathFinder.find_spec(package, [os.getcwd()])
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.has_location and spec.origin else None


@lru_cache
def _packages() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


@lru_cache
def record_of(name: str) -> metadata.Distribution | None:
    """Return the installed distribution of that name.

    A distribution in the working directory does not count, because other users may have written there.
    """
    here = os.path.realpath(os.getcwd())
    places = [place for place in sys.path if os.path.realpath(place or ".") != here]
    return next(iter(metadata.distributions(name=name, path=places)), None)


def _owns(distribution: metadata.Distribution, package: str) -> bool:
    if any(str(file).startswith((f"{package}/", f"{package}.")) for file in distribution.files or ()):
        return True
    return package in (distribution.read_text("top_level.txt") or "").split()


def requirements(distribution: str) -> frozenset[str]:
    """Return the requirements of a distribution without those of extras.

    Extras cover tests and optional parts, which do not characterise a package.
    """
    found = record_of(distribution)
    texts = [text.partition(";") for text in (found.requires if found is not None else None) or ()]
    return frozenset(
        _normalised(match[0])
        for name, _, marker in texts
        if not _EXTRA.search(marker) and (match := _NAME.match(name))
    )


def is_local(distribution: str) -> bool:
    """Return whether a distribution was installed from a repository or an existing directory (PEP 610)."""
    found = record_of(distribution)
    text = None if found is None else found.read_text("direct_url.json")
    try:
        facts = json.loads(text or "{}")
        return "vcs_info" in facts or (
            "dir_info" in facts and Path(unquote(urlparse(facts["url"]).path)).is_dir()
        )
    except (ValueError, KeyError, TypeError, OSError):
        return False


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
