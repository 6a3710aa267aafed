"""Filter for harmless messages of launchers: hidden if the run ends well, shown otherwise."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path

# Messages of Open MPI's launcher when many ranks end at the same moment and it writes to closed connections.
NOISE = re.compile(
    rb"\[warn\] Epoll (MOD|ADD|DEL)|pmix_ptl_base: send_msg|ptl/base/.*(Broken pipe|Connection reset)"
)
# An incomplete line that starts with this may be noise; it is held back until it is complete.
UNDECIDED = b"["
MOST_LINES = 1000


class NoiseFilter:
    """Copy the output of a launcher to a file descriptor, except for lines of noise, which are kept.

    Args:
        target: File descriptor to copy to.

    Attributes:
        source: Writing end of the pipe, for the launcher; `finish` closes it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._reader, self.source = os.pipe()
        self._kept: list[bytes] = []
        self._thread = threading.Thread(target=self._copy, name="launcher-noise", daemon=True)
        self._thread.start()

    def finish(self, seconds: float = 5.0) -> list[bytes]:
        """Wait until all output is copied.

        Args:
            seconds: Maximum time to wait. A process that the launcher left behind may hold the pipe open.

        Returns:
            The lines of noise, at most MOST_LINES.
        """
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
    """Append lines to logs/launcher.log of a run directory.

    Args:
        lines: Lines that NoiseFilter has kept.
        run: Run directory; empty: drop the lines.
    """
    if lines and run:
        with contextlib.suppress(OSError), (Path(run) / "logs" / "launcher.log").open("ab") as stream:
            stream.writelines(lines)
