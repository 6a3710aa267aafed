"""Waiting for an event, never for a time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.005


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return once the condition is true; fails the test where it is not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(POLL_SECONDS)


def has_ended(process: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True
