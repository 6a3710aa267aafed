"""The environment's own part of a traceback: frames between hpcmarl's adapters and the failed statement.

A user who wrote the environment needs these frames. The frames of hpcmarl above them only show that an
environment was stepped, reset or built.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NamedTuple

import hpcmarl
from hpcmarl.errors import EnvironmentFailure

PACKAGE = Path(hpcmarl.__file__).parent
# Games in the package are environments, too.
GAMES = tuple(PACKAGE / "envs" / name for name in ("games", "native", "particles", "smax"))
SHOWN_FRAMES = 4


class FailurePlace(NamedTuple):
    """Where an environment failed; equal for repetitions of one bug.

    Attributes:
        error: Type of the exception.
        file: File of the innermost frame of the environment; empty if it has no frame.
        line: Line in that file.
    """

    error: str
    file: str
    line: int


def root_cause(error: BaseException) -> BaseException:
    """Return the exception at the start of the chain of causes."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the environment's frames of a traceback, outermost first.

    Args:
        error: Exception that the environment raised, or an error that hpcmarl raised from it.

    Returns:
        The frames without those of hpcmarl around them; empty if the environment has none.
    """
    frames = list(traceback.extract_tb(root_cause(error).__traceback__))
    while frames and _is_driver(frames[-1].filename):  # a time limit interrupts from the inside
        frames.pop()
    outer = max((place for place, frame in enumerate(frames) if _is_driver(frame.filename)), default=-1)
    return frames[outer + 1 :]


def place_of(error: BaseException) -> FailurePlace:
    """Return where an environment failed."""
    frames = own_frames(error)
    kind = type(root_cause(error)).__name__
    return (
        FailurePlace(kind, frames[-1].filename, frames[-1].lineno or 0)
        if frames
        else FailurePlace(kind, "", 0)
    )


def last_frames(error: BaseException) -> list[str]:
    """Return the last frames of the environment's traceback as lines for a terminal.

    Args:
        error: Error that hpcmarl reports.

    Returns:
        At most SHOWN_FRAMES frames and the exception; empty if no environment has failed.
    """
    frames = own_frames(error) if isinstance(error, EnvironmentFailure) else []
    if not frames:
        return []
    shown = frames[-SHOWN_FRAMES:]
    cause = root_cause(error)
    text = "".join([*traceback.format_list(shown), *traceback.format_exception_only(cause)])
    left = len(frames) - len(shown)
    heading = "traceback of the environment" + (f" (without {left} outer frames)" if left else "")
    return [f"{heading}:", *text.splitlines()]


def _is_driver(file: str) -> bool:
    """Return whether a file belongs to hpcmarl and to none of its games."""
    path = Path(file)
    return path.is_relative_to(PACKAGE) and not any(path.is_relative_to(games) for games in GAMES)
