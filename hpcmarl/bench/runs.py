"""Short training runs, one after the other in one MPI world, watched at the server. Called by the benchmarks
that need whole runs.

Every rank works as in `hpcmarl train`, from the first START to the EXIT of each run; starting the ranks is
paid once. Knows no rule and no figure but how many gradients were used and wasted until when.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.errors import HpcmarlError
from hpcmarl.launch.signals import StopSignals
from hpcmarl.optim.rounds import Engine
from hpcmarl.roles.base import Context
from hpcmarl.roles.server.recorder import Recorder
from hpcmarl.runtime.rank import AbortHook, Rank, serve
from hpcmarl.train import prepare, start_logging

if TYPE_CHECKING:
    from hpcmarl.roles.learner.learner import Learner  # imports torch, on learners alone


class Moment(NamedTuple):
    """A round has ended: seconds of training, trajectories of accepted and of dropped gradients, this
    process's CPU seconds until then."""

    seconds: float
    used: int
    wasted: int
    cpu_seconds: float = 0.0


class WatchedRank(Rank):
    """A rank that notes when rounds end; only where the server is."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.moments: list[Moment] = []
        server: Any = self.roles.get("server")
        if server is not None:
            server.recorder.watch = self._note

    def _note(self, recorder: Recorder, engine: Engine) -> None:
        self.moments.append(Moment(recorder.seconds, engine.used, engine.wasted, time.process_time()))


class Stage:
    """Where runs are played one after the other: the transport, and a directory that is deleted by
    `close`."""

    def __init__(self, transport: Transport, hook: AbortHook) -> None:
        self.transport, self.hook = transport, hook
        self.directory = tempfile.mkdtemp(prefix="hpcmarl-bench-") if transport.rank == 0 else None
        self.played = 0
        self.rank: WatchedRank | None = None  # of the last run

    def play(self, config: Config, learner: type[Learner] | None = None) -> list[Moment]:
        """A whole run; the moments on the server's rank, none elsewhere. Collective. `learner` stands in for
        the learner role.

        `config` should leave out topology.heartbeat_timeout_seconds: a last sign of life would reach the next
        run."""
        self.played += 1
        context = prepare(
            self.transport, config, f"{self.directory}/{self.played}" if self.directory else None, None
        )
        start_logging(context)
        rank = self.hook.rank = WatchedRank(context)
        if learner is not None and "learner" in rank.roles:
            rank.roles["learner"] = learner(context, rank.roles)
        code = serve(rank, StopSignals())
        rank.close()
        self.rank = rank
        if code:
            raise HpcmarlError(f"a run of {config.name} ended with exit code {code}")
        self.transport.gather(b"done")  # the next run begins when this one has ended everywhere
        return rank.moments

    @property
    def recorder(self) -> Recorder | None:
        """What the last run's server has counted; None on other ranks."""
        server: Any = self.rank.roles.get("server") if self.rank is not None else None
        return None if server is None else server.recorder

    def close(self) -> None:
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def on_stage(transport: Transport) -> Iterator[Stage]:
    """A stage for all runs of a benchmark, on every rank of this world: whoever fails ends the job, otherwise
    all leave together."""
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
    """The first end of a round past `after` seconds, and the last one. Raises HpcmarlError where they are not
    two."""
    counted = [moment for moment in moments if moment.seconds >= after]
    if len(counted) < 2:
        raise HpcmarlError(
            f"{len(counted)} rounds ended after the first {after:g} s of training, at least 2 are needed: "
            "raise --seconds"
        )
    return counted[0], counted[-1]


def used_per_second(moments: Sequence[Moment], after: float) -> float:
    """Trajectories of accepted gradients a second, between the `ends`; raises as they do."""
    first, last = ends(moments, after)
    return (last.used - first.used) / (last.seconds - first.seconds)
