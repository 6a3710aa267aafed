"""Waiting for events instead of fixed times."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.005


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Return as soon as the condition is true; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(POLL_SECONDS)


def has_ended(process: int) -> bool:
    """Return whether a process does not exist any more or is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True
