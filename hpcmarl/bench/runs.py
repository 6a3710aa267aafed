"""Play short training runs one after the other in one MPI world and watch their rounds.

Every rank works as in `hpcmarl train`, from the first START message to the EXIT of each run. The ranks start
only once for all runs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.errors import HpcmarlError
from hpcmarl.launch.signals import StopSignals
from hpcmarl.optim.rounds import Engine
from hpcmarl.roles.base import Context, Role
from hpcmarl.roles.server.recorder import Recorder
from hpcmarl.runtime.abort import AbortHook
from hpcmarl.runtime.rank import Rank, serve
from hpcmarl.training import prepare, start_logging


class Moment(NamedTuple):
    """End of a round.

    Attributes:
        seconds: Seconds of training until then.
        used: Trajectories of accepted gradients until then.
        wasted: Trajectories of dropped gradients until then.
        cpu_seconds: CPU seconds of the server's process until then.
    """

    seconds: float
    used: int
    wasted: int
    cpu_seconds: float = 0.0


class WatchedRank(Rank):
    """Rank that records the ends of rounds if it has the server.

    Attributes:
        moments: Ends of rounds; empty on other ranks.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.moments: list[Moment] = []
        server: Any = self.roles.get("server")
        if server is not None:
            server.recorder.watch = self._note

    def _note(self, recorder: Recorder, engine: Engine) -> None:
        self.moments.append(Moment(recorder.seconds, engine.used, engine.wasted, time.process_time()))


class Stage:
    """Plays runs one after the other in one world.

    Args:
        transport: The world.
        hook: Ends the world if a rank fails.

    Attributes:
        directory: Directory of the runs, on rank 0; `close` deletes it.
        played: Number of runs so far, and name of the last run's directory.
        rank: This process's rank in the last run.
    """

    def __init__(self, transport: Transport, hook: AbortHook) -> None:
        self.transport, self.hook = transport, hook
        self.directory = tempfile.mkdtemp(prefix="hpcmarl-bench-") if transport.rank == 0 else None
        self.played = 0
        self.rank: WatchedRank | None = None

    def play(self, config: Config, roles: Mapping[str, type[Role]] | None = None) -> list[Moment]:
        """Play a whole run. Collective.

        Args:
            config: Configuration of the run. topology.heartbeat_timeout_seconds should be null, because a
                last heartbeat would reach the next run.
            roles: Classes that replace roles, by name.

        Returns:
            Ends of rounds on the server's rank; empty on other ranks.

        Raises:
            HpcmarlError: The run failed.
        """
        self.played += 1
        context = prepare(
            self.transport, config, f"{self.directory}/{self.played}" if self.directory else None, None
        )
        start_logging(context)
        rank = self.hook.rank = WatchedRank(context)
        for name, replacement in (roles or {}).items():
            if name in rank.roles:
                rank.roles[name] = replacement(context, rank.roles)
        code = serve(rank, StopSignals())
        rank.close()
        self.rank = rank
        if code:
            raise HpcmarlError(f"a run of {config.name} ended with exit code {code}")
        # The next run must not begin before this one has ended on every rank.
        self.transport.gather(b"done")
        return rank.moments

    @property
    def recorder(self) -> Recorder | None:
        """Recorder of the last run's server; None on other ranks."""
        server: Any = self.rank.roles.get("server") if self.rank is not None else None
        return None if server is None else server.recorder

    def close(self) -> None:
        """Delete the directory of the runs."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def on_stage(transport: Transport) -> Iterator[Stage]:
    """Provide a stage for all runs of a benchmark. Collective.

    A rank that fails ends the job. Otherwise all ranks leave together.
    """
    hook = AbortHook(transport)
    stage = Stage(transport, hook)
    try:
        yield stage
    except BaseException as error:
        hook.fail(error)
        raise
    finally:
        stage.close()
    transport.close()


def ends(moments: Sequence[Moment], after: float) -> tuple[Moment, Moment]:
    """Return the first end of a round after `after` seconds of training, and the last one.

    Raises:
        HpcmarlError: Fewer than two rounds ended after that time.
    """
    counted = [moment for moment in moments if moment.seconds >= after]
    if len(counted) < 2:
        raise HpcmarlError(
            f"{len(counted)} rounds ended after the first {after:g} s of training, at least 2 are needed: "
            "raise --seconds"
        )
    return counted[0], counted[-1]


def used_per_second(moments: Sequence[Moment], after: float) -> float:
    """Return trajectories of accepted gradients per second between the two moments of `ends`.

    Raises:
        HpcmarlError: As `ends` does.
    """
    first, last = ends(moments, after)
    return (last.used - first.used) / (last.seconds - first.seconds)
