"""`train`: what every rank of a run calls. Joins the world, lets rank 0 prepare, builds the rank and serves
until the end.

Rank 0 alone reads checkpoints and makes the run directory; whatever is wrong is known everywhere before a
role is built, so that a bad configuration ends a thousand ranks with one line.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.topology import Topology, assign_roles
from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.envs import batching_remark, describe, image_remark
from hpcmarl.errors import EXIT_SUCCESS, ConfigError, HpcmarlError, UsageError
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.launch.memory import available_memory, resident_memory
from hpcmarl.launch.outcome import report_outcome, report_run_directory
from hpcmarl.launch.processes import started_at
from hpcmarl.launch.signals import StopSignals
from hpcmarl.launch.timelimit import job_end
from hpcmarl.roles.base import Context, group_environment
from hpcmarl.runtime.entry import enter_world
from hpcmarl.runtime.host_memory import UNKNOWN, MemoryFacts, crowded_hosts
from hpcmarl.runtime.log_files import LogFile
from hpcmarl.runtime.rank import AbortHook, Rank, serve
from hpcmarl.runtime.root_broadcast import run_on_root_and_broadcast
from hpcmarl.types import EnvironmentSpec

if TYPE_CHECKING:
    from hpcmarl.opening import OpenedRun

logger = logging.getLogger(__name__)
LEAVING_SECONDS = 20.0  # for the last of the others to be done
FINISHING_SECONDS = 3600.0  # the same where the server's rank has something to do at the end
PROBLEM_BYTES = 1000
# what these say of every term, the league's server says of them all
TOLD_BY_THE_LEAGUE = (
    "hpcmarl.roles.server.server",
    "hpcmarl.roles.server.recorder",
    "hpcmarl.roles.server.progress",
)
# configuration and run directory, the same on every rank
Plan = Callable[[Transport], tuple[Config, str | None]]
Finish = Callable[[Path], None]


def join_world() -> Transport:
    """This process's place in the MPI world, or a world of its own where no launcher has started it.

    Raises LaunchError when the launcher meant another world than MPI found (silent singletons)."""
    if enter_world() == 1:
        return LocalWorld(1).transports[0]
    from hpcmarl.comm.mpi import mpi_transport as mpi

    return mpi.MpiTransport()


def train(
    config: Config,
    run_dir: str | None = None,
    resume: str | None = None,
    *,
    accept_changes: bool = False,
    signals: StopSignals | None = None,
) -> int:
    """Train as this process's rank; returns the exit code (0, or 75 when a signal stopped the run after a
    good checkpoint).

    `run_dir`: where to write (default runs/<name>-<time>); `resume`: "auto", a run directory or a checkpoint
    file; `accept_changes`: go on even from another environment's checkpoint, or in another run's directory;
    `signals`: which may have come already. Raises HpcmarlError subclasses; a failure after the start aborts
    the whole world instead."""
    return train_planned(lambda _: (config, run_dir), resume, accept_changes=accept_changes, signals=signals)


def train_planned(
    plan: Plan,
    resume: str | None = None,
    finish: Finish | None = None,
    *,
    accept_changes: bool = False,
    signals: StopSignals | None = None,
) -> int:
    """The same where what is trained, and where it is written, is found out by the world (`plan`, called on
    every rank). finish: called on the server's rank with the run's directory when the run is done and whole,
    while the others wait."""
    signals = (signals or StopSignals()).install()
    end = job_end(os.environ)
    transport = join_world()
    hook = AbortHook(transport)
    try:
        config, run_dir = plan(transport)
        context = prepare(transport, config, run_dir, resume, end, accept_changes=accept_changes)
        start_logging(context)
        hook.rank = rank = make_rank(context)
        gc.freeze()  # what is there by now stays: no collection needs to look at it again
        code = serve(rank, signals)
        rank.close()
        seconds = LEAVING_SECONDS if finish is None else FINISHING_SECONDS
        if transport.rank == context.topology.server:
            if finish is not None and code == EXIT_SUCCESS:
                finish(context.run_directory)
            report_outcome(code, os.environ)
            seconds = LEAVING_SECONDS
        signals.ignore_at_exit()
        transport.close(seconds if transport.leaves_at_once else None)
        if transport.leaves_at_once:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code
    except HpcmarlError as error:
        if hook.rank is None and error.everywhere:
            transport.close()
            if transport.rank != 0:
                sys.exit(error.exit_code)  # rank 0 tells
            raise
        if transport.size == 1:
            _close(hook)
            raise
        hook.fail(error)
        raise
    except BaseException as error:
        if transport.size == 1:
            _close(hook)
            raise
        hook.fail(error)
        raise


def make_rank(context: Context) -> Rank:
    """This process's part in the run, or in the league."""
    if context.config.league is None:
        return Rank(context)
    from hpcmarl.league.runtime.league_rank import LeagueRank

    return LeagueRank(context)


def _close(hook: AbortHook) -> None:
    """After a failure in a world of one rank: what is written stays readable, and no thread writes while
    Python ends."""
    if hook.rank is not None:
        hook.rank.close()


def prepare(
    transport: Transport,
    config: Config,
    run_dir: str | None,
    resume: str | None,
    end: float | None = None,
    *,
    accept_changes: bool = False,
) -> Context:
    """Rank 0 checks everything and makes the run directory; all ranks get the outcome. Raises what rank 0
    raised, on every rank."""
    hosts = transport.gather_hosts()
    try:
        topology = assign_roles(transport.size, hosts, config.topology)
    except HpcmarlError as error:
        error.everywhere = True  # all ranks know the same
        raise
    opened: list[OpenedRun] = []
    problem = form_reduction_group(transport, config, topology)
    processes, memory = _processes(transport)

    def check_and_open() -> dict[str, Any]:
        if problem:
            raise UsageError(problem)
        spec = check_environments(config)
        from hpcmarl.opening import Request, open_run  # HDF5 is loaded where checkpoints are read

        opened.append(open_run(config, Request(run_dir, resume, accept_changes), topology, transport.library))
        report_run_directory(opened[0].directory, os.environ)
        start = opened[0].start
        facts = {
            "directory": str(opened[0].directory),
            "start": start.number,
            "version": start.version,
            "run": start.run,
        }
        return facts | {"spec": spec.tree(), "server": list(processes.get(topology.server, ()))}

    found = run_on_root_and_broadcast(transport, check_and_open)
    spec = EnvironmentSpec.of_tree(found["spec"])  # ranks that play no environment need not import it
    context = Context(config, topology, transport, Path(found["directory"]), spec, None, end)
    context = replace(
        context, start_number=found["start"], start_version=found["version"], run_id=found["run"]
    )
    if not opened:
        return replace(
            context, processes={topology.server: tuple(found["server"])} if found["server"] else {}
        )
    context = replace(context, processes=processes)
    crowded = crowded_hosts(topology, context.model(drawn=False).size if config.league is None else 0, memory)
    return replace(
        context, resume=opened[0].state, lock=opened[0].lock, remarks=opened[0].remarks, warnings=crowded
    )


def form_reduction_group(transport: Transport, config: Config, topology: Topology) -> str:
    """Bring the learners together that will sum among themselves; on rank 0 why that cannot be done, in one
    line, or nothing. Collective."""
    if not config.rounds.collective:
        return ""
    own = ""
    try:
        transport.reduction_group(
            [group.learner for group in topology.groups], topology.hosts, config.rounds.reduce
        )
    except UsageError as error:
        own = str(error)
    texts = transport.gather_at_first(own.encode()[:PROBLEM_BYTES].ljust(PROBLEM_BYTES, b"\0"))
    return next((text.rstrip(b"\0").decode(errors="replace") for text in texts if text.rstrip(b"\0")), "")


def _processes(transport: Transport) -> tuple[dict[int, tuple[int, int]], list[MemoryFacts]]:
    """On rank 0 each rank's process, so that a frozen one can be ended, and its memory; no processes where
    the ranks are virtual. Collective."""
    available = available_memory()
    own = np.array(
        [
            os.getpid(),
            started_at(os.getpid()),
            resident_memory(),
            UNKNOWN if available is None else available,
        ],
        np.int64,
    )
    everyone = [np.frombuffer(part, np.int64).tolist() for part in transport.gather_at_first(own.tobytes())]
    virtual = transport.shares_memory((transport.rank + 1) % transport.size)
    if virtual:
        return {}, [MemoryFacts(0.0, UNKNOWN)] * transport.size
    return {rank: (pid, start) for rank, (pid, start, *_) in enumerate(everyone)}, [
        MemoryFacts(resident, free) for *_, resident, free in everyone
    ]


def check_environments(config: Config) -> EnvironmentSpec:
    """Return what the environments of all groups look like to the policies. Raises ConfigError where they
    differ or do not suit the algorithm."""
    from hpcmarl.algos.design import make_design

    spec = describe(config.env, config.policies)
    for group in range(len(config.topology.group_list)):
        own = group_environment(config, group)
        if own != config.env:
            other = describe(own, config.policies)
            if (other.policies, other.state_size, other.turn_based) != (
                spec.policies,
                spec.state_size,
                spec.turn_based,
            ):
                raise ConfigError(
                    f"topology.groups.{group}.env changes the observation, action or state spaces of "
                    f"{spec.id}; groups may differ in rewards and dynamics only, since they train the same "
                    "policies"
                )
    if config.league is not None:
        from hpcmarl.league.runtime.startup import check_league

        check_league(config, spec)
    else:
        make_design(spec, config.algo)
    return spec


def start_logging(context: Context) -> None:
    """Every rank to logs/rank-NNNN.log; the server's rank to standard error as well, beginning with what to
    know about the environment."""
    level = context.config.logging.level.upper()
    handlers: list[logging.Handler] = [LogFile(RunDirectory(context.run_directory).log_path(context.rank))]
    if context.rank == context.topology.server:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("%(message)s"))
        handlers.append(shown)
    handlers[0].setFormatter(
        logging.Formatter(f"%(asctime)s rank {context.rank} %(levelname)s %(name)s: %(message)s")
    )
    if context.config.league is not None:
        for handler in handlers:
            handler.addFilter(
                lambda record: record.levelno >= logging.WARNING or record.name not in TOLD_BY_THE_LEAGUE
            )
    logging.basicConfig(level=level, handlers=handlers, force=True)
    roles = "+".join(context.topology.roles_of(context.rank))
    if context.rank == context.topology.server and (remark := image_remark(context.spec)):
        logging.getLogger(__name__).warning("%s (hpcmarl doctor says what helps)", remark)
    if context.rank == context.topology.server and (remark := batching_remark(context.config.env)):
        logging.getLogger(__name__).info("%s", remark)
    for warning in context.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    for remark in context.remarks:
        logging.getLogger(__name__).info("%s", remark)
    logging.getLogger(__name__).debug(
        "rank %d of %d is %s on %s", context.rank, context.topology.size, roles, context.transport.host
    )
