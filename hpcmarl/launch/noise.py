"""What launchers say for nothing: kept from the user's terminal after a good end, shown after any other."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

# Open MPI's launcher when many ranks leave at the same moment: connections that it still writes to are closed
# already
NOISE = re.compile(
    rb"\[warn\] Epoll (MOD|ADD|DEL)|pmix_ptl_base: send_msg|ptl/base/.*(Broken pipe|Connection reset)"
)
UNDECIDED = b"["  # a line that begins so may be noise: it waits for its end
MOST_LINES = 1000


class NoiseFilter:
    """Copies what comes through a pipe to a descriptor, but for lines of noise, which it keeps.

    Attributes:
        source: the pipe's writing end, for the launcher; closed by `finish`.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._reader, self.source = os.pipe()
        self._kept: list[bytes] = []
        self._thread = threading.Thread(target=self._copy, name="launcher-noise", daemon=True)
        self._thread.start()

    def finish(self, seconds: float = 5.0) -> list[bytes]:
        """Wait until all is copied; returns the kept lines. A process that the launcher left behind may hold
        the pipe: not for ever."""
        with contextlib.suppress(OSError):
            os.close(self.source)
        self._thread.join(seconds)
        return self._kept

    def _copy(self) -> None:
        held = b""
        while chunk := os.read(self._reader, 1 << 16):
            lines = (held + chunk).splitlines(keepends=True)
            held = (
                lines.pop()
                if lines and lines[-1].startswith(UNDECIDED) and not lines[-1].endswith((b"\n", b"\r"))
                else b""
            )
            self._pass_on(lines)
        self._pass_on([held])
        os.close(self._reader)

    def _pass_on(self, lines: list[bytes]) -> None:
        for line in lines:
            if NOISE.search(line):
                if len(self._kept) < MOST_LINES:
                    self._kept.append(line)
                continue
            with contextlib.suppress(OSError):
                os.write(self._target, line)


def put_away(lines: list[bytes], run: str) -> None:
    """Append kept lines to logs/launcher.log of a run directory; without one they are dropped."""
    if lines and run:
        with contextlib.suppress(OSError), (Path(run) / "logs" / "launcher.log").open("ab") as stream:
            stream.writelines(lines)
