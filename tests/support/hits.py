"""Signals to ranks of a run while it trains, for tests of faults."""

import contextlib
import os
import signal
import time

from tests.support.launch import rank_processes, run_train

MORE = 100  # updates; enough that the victim dies before the run ends


class Hit:
    """Send a signal to one rank once the run has written a checkpoint.

    With `until`, also ask the run to stop when the server's log contains this text.

    Attributes:
        after: Time of the signal on the monotonic clock, in seconds; None: not sent yet.
    """

    def __init__(self, directory, rank, number=signal.SIGKILL, until=None):
        self.directory, self.rank, self.number, self.until = directory, rank, number, until
        self.after = None

    def __call__(self, _session):
        if self.after is None and list(self.directory.glob("checkpoints/checkpoint-*.h5")):
            self.hit(rank_processes(str(self.directory)))
            self.after = time.monotonic()
        elif self.until is not None and self.is_noticed():
            self.stop()

    def hit(self, processes):
        """Send the signal, given the processes of all ranks."""
        os.kill(processes[self.rank], self.number)

    def is_noticed(self):
        """Return whether the server's log contains the text."""
        return any(self.until in log.read_text() for log in self.directory.glob("logs/rank-0000.log"))

    def stop(self):
        """Ask the run to stop."""
        os.kill(rank_processes(str(self.directory))[1], signal.SIGUSR1)
        self.until = None


class HitThenTrain(Hit):
    """Hit a rank, wait until the run has noticed and made further updates, then ask it to stop.

    Attributes:
        updates_when_lost: Updates when the loss was noticed.
        updates_after: Updates when the run was asked to stop.
    """

    updates_when_lost = updates_after = 0

    def stop(self):
        with contextlib.suppress(OSError, ValueError, IndexError):
            updates = int((self.directory / "metrics.csv").read_text().splitlines()[-1].split(",")[0])
            self.updates_when_lost = self.updates_when_lost or updates
            self.updates_after = updates
        if self.updates_after > self.updates_when_lost:
            super().stop()


class HitSeveral(Hit):
    """Kill several ranks at the same moment."""

    def __init__(self, directory, ranks):
        super().__init__(directory, ranks[0])
        self.ranks = ranks

    def hit(self, processes):
        for rank in self.ranks:
            os.kill(processes[rank], signal.SIGKILL)


def train_and_hit(
    library,
    ranks,
    config,
    directory,
    rank,
    *changes,
    number=signal.SIGKILL,
    updates=MORE,
    until=None,
    hit=None,
):
    """Train, hit a rank, and return the job and the seconds from the signal to its end."""
    hit = hit or Hit(directory, rank, number, until)
    always = (
        f"stop.updates={updates}",
        "checkpoint.every_updates=20",
        "topology.heartbeat_timeout_seconds=3",
    )
    job = run_train(
        library, ranks, config, "--run-dir", str(directory), *always, *changes, limit=150, meanwhile=hit
    )
    assert hit.after is not None, f"the run ended before it could be hit:\n{job.text}"
    assert not job.orphans
    return job, time.monotonic() - hit.after
