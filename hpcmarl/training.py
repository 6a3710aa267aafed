"""Train one run as one rank of an MPI world.

Each rank joins the world, waits for rank 0 to prepare the run, builds its roles, and serves until the end.
Rank 0 alone reads checkpoints and creates the run directory. Every error of that phase reaches all ranks
before a role is built. A bad configuration therefore ends a thousand ranks with one line.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcmarl.algos import ALGORITHMS, learner_class
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.shared_memory import free_shared_bytes
from hpcmarl.comm.topology import Topology, assign_roles
from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config
from hpcmarl.envs import batching_remark, describe, image_remark
from hpcmarl.envs.summary import uncovered_remark
from hpcmarl.errors import EXIT_SUCCESS, ConfigError, HpcmarlError, UsageError
from hpcmarl.io.run_directory import RunDirectory
from hpcmarl.launch.memory import available_memory, resident_memory
from hpcmarl.launch.outcome import report_outcome, report_run_directory
from hpcmarl.launch.processes import started_at
from hpcmarl.launch.signals import StopSignals
from hpcmarl.launch.timelimit import job_end
from hpcmarl.nets.inference import check_inference
from hpcmarl.roles.base import Context, group_environment
from hpcmarl.roles.efficiency import cores_of_host
from hpcmarl.roles.worker_number import with_number_of_workers
from hpcmarl.roles.worker_plan import check_shared_memory
from hpcmarl.runtime.abort import AbortHook
from hpcmarl.runtime.announcement import announce, crowded_cores, describe_policies, describe_ranks
from hpcmarl.runtime.devices import check_devices, device_place, first_problem
from hpcmarl.runtime.entry import enter_world
from hpcmarl.runtime.failure import FILE_ONLY, record_failure
from hpcmarl.runtime.host_memory import UNKNOWN, MemoryFacts, crowded_hosts, free_shared_memory
from hpcmarl.runtime.log_files import LogFile
from hpcmarl.runtime.rank import Rank, serve
from hpcmarl.runtime.root_broadcast import run_on_root_and_broadcast
from hpcmarl.runtime.tracing import measure_clocks_again, traced
from hpcmarl.tracking import check_trackers
from hpcmarl.types import EnvironmentSpec

if TYPE_CHECKING:
    from hpcmarl.opening import OpenedRun

logger = logging.getLogger(__name__)
# Time limits for the other ranks to finish before this rank leaves the MPI world.
LEAVING_SECONDS = 20.0
FINISHING_SECONDS = 3600.0  # if the server's rank runs a `finish` function at the end
# These modules log each training assignment of a league. The league's server logs a summary instead, so their
# lines below warnings are hidden.
MUTED_IN_LEAGUES = (
    "hpcmarl.roles.server.server",
    "hpcmarl.roles.server.recorder",
    "hpcmarl.roles.server.progress",
)
# Returns the configuration and the run directory; both are equal on every rank.
Plan = Callable[[Transport], tuple[Config, str | None]]
Finish = Callable[[Path], None]


def join_world() -> Transport:
    """Join the MPI world of this process; without a launcher return a world of one rank.

    Raises:
        LaunchError: The launcher started another number of ranks than MPI found (silent singletons).
    """
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
    """Train as the rank of this process.

    Args:
        config: Configuration of the run; used on every rank.
        run_dir: Output directory; None: runs/<name>-<time>.
        resume: "auto", a run directory or a checkpoint file; None: a new run.
        accept_changes: Whether to resume from a checkpoint of another environment, or in the directory of
            another run.
        signals: Handler of stop signals, which may have received one already; None: a new handler.

    Returns:
        The exit code: 0, or 75 if a signal stopped the run after a good checkpoint.

    Raises:
        HpcmarlError: The run cannot start. In a world of several ranks, a later failure aborts the whole
            world.
    """
    return train_planned(lambda _: (config, run_dir), resume, accept_changes=accept_changes, signals=signals)


def train_planned(
    plan: Plan,
    resume: str | None = None,
    finish: Finish | None = None,
    *,
    accept_changes: bool = False,
    signals: StopSignals | None = None,
) -> int:
    """Train a run whose configuration and directory are determined inside the world.

    Args:
        plan: Returns the configuration and the run directory; called on every rank.
        resume: As in `train`.
        finish: Called with the run directory on the server's rank after a complete run; other ranks wait.
        accept_changes: As in `train`.
        signals: As in `train`.

    Returns:
        The exit code: 0, or 75 if a signal stopped the run after a good checkpoint.

    Raises:
        HpcmarlError: As in `train`.
    """
    signals = (signals or StopSignals()).install()
    end = job_end(os.environ)
    transport = join_world()
    hook = AbortHook(transport)
    try:
        config, run_dir = plan(transport)
        context = prepare(transport, config, run_dir, resume, end, accept_changes=accept_changes)
        hook.context = context
        start_logging(context)
        hook.rank = rank = make_rank(context)
        # Objects that exist now stay until the end: garbage collections need not visit them.
        gc.freeze()
        code = serve(rank, signals)
        measure_clocks_again(context)
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
                sys.exit(error.exit_code)  # rank 0 prints the error
            raise
        if transport.size == 1:
            _close(hook, error)
            raise
        hook.fail(error)
        raise
    except BaseException as error:
        if transport.size == 1:
            _close(hook, error)
            raise
        hook.fail(error)
        raise


def make_rank(context: Context) -> Rank:
    """Return this process's rank of the run, or of the league."""
    if context.config.league is None:
        return Rank(context)
    from hpcmarl.league.runtime.league_rank import LeagueRank

    return LeagueRank(context)


def _close(hook: AbortHook, error: BaseException) -> None:
    """Close the rank after a failure in a world of one rank, and record the failure.

    Written files stay readable, and no thread writes while Python shuts down.
    """
    place = hook.place()
    if hook.rank is not None:
        hook.rank.close()
    if hook.context is not None and isinstance(error, Exception):
        _, path = record_failure(hook.context, error, place)
        if isinstance(error, HpcmarlError) and path is not None:
            error.recorded = str(path)


def prepare(
    transport: Transport,
    config: Config,
    run_dir: str | None,
    resume: str | None,
    end: float | None = None,
    *,
    accept_changes: bool = False,
) -> Context:
    """Check the run and open its directory on rank 0; send the outcome to all ranks. Collective.

    Args:
        transport: The world.
        config: Configuration of the run.
        run_dir: Output directory; None: the default.
        resume: "auto", a run directory or a checkpoint file; None: a new run.
        end: End of the Slurm job, seconds since 1970; None: unknown.
        accept_changes: Whether a checkpoint of another environment or run is accepted.

    Returns:
        The context of this rank.

    Raises:
        HpcmarlError: The error of rank 0, raised on every rank.
    """
    hosts = transport.gather_hosts()
    config, choice = with_number_of_workers(transport, config, hosts)
    try:
        topology = assign_roles(transport.size, hosts, config.topology)
    except HpcmarlError as error:
        error.everywhere = True  # every rank raises the same error
        raise
    opened: list[OpenedRun] = []
    # All calls are collective, so none may be left out.
    devices = check_devices(transport, config, topology)
    of_group = form_reduction_group(transport, config, topology)
    problem = check_learner_class(transport, config, topology) or devices.problem or of_group
    processes, memory, cores = _processes(transport)
    if transport.rank == 0 and transport.size > 1:
        announce(config, describe_ranks(topology))

    def check_and_open() -> dict[str, Any]:
        if problem:
            raise UsageError(problem)
        check_trackers(config.logging)
        spec = check_environments(config)
        if not transport.shares_memory(transport.size - 1):
            free = free_shared_memory(topology, memory)
            check_shared_memory(config, topology, spec, free, _sides(config, spec))
        # Only the rank that reads checkpoints loads HDF5.
        from hpcmarl.opening import Request, open_run

        opened.append(open_run(config, Request(run_dir, resume, accept_changes), topology, transport.library))
        report_run_directory(opened[0].directory, os.environ)
        start = opened[0].start
        facts = {
            "directory": str(opened[0].directory),
            "start": start.number,
            "version": start.version,
            "run": start.run,
            "clock": time.perf_counter(),
        }
        return facts | {"spec": spec.tree(), "server": list(processes.get(topology.server, ()))}

    found = run_on_root_and_broadcast(transport, check_and_open)
    # Ranks without environments need not import the environment's package.
    spec = EnvironmentSpec.of_tree(found["spec"])
    context = Context(config, topology, transport, Path(found["directory"]), spec, None, end)
    context = replace(
        context,
        start_number=found["start"],
        start_version=found["version"],
        run_id=found["run"],
        place=device_place(config, topology, transport.rank),
    )
    if opened:
        remarks = tuple(line for line in (choice, devices.remark) if line)
        context = _of_root(replace(context, processes=processes), opened[0], remarks, memory, cores)
    elif found["server"]:
        context = replace(context, processes={topology.server: tuple(found["server"])})
    return traced(context, found["clock"])


def _of_root(
    context: Context,
    run: OpenedRun,
    choices: tuple[str, ...],
    memory: Sequence[MemoryFacts],
    cores: Mapping[int, int],
) -> Context:
    """Return the context of rank 0: the opened run, with remarks and warnings to log.

    Args:
        context: Context without them.
        run: The opened run.
        choices: Remarks about the number of workers and the devices.
        memory: Memory of each rank.
        cores: Cores of each rank's host.
    """
    config, topology = context.config, context.topology
    size = context.model(drawn=False).size if config.league is None else 0
    first = describe_policies(context.spec, size, run.directory)
    return replace(
        context,
        resume=run.state,
        lock=run.lock,
        remarks=(first, *choices, *run.remarks),
        warnings=(
            *crowded_hosts(topology, size, memory),
            *crowded_cores(topology, cores, config.topology.threads),
        ),
    )


def _sides(config: Config, spec: EnvironmentSpec) -> Sequence[EnvironmentSpec]:
    """Return the specification of each side of a league; empty without a league."""
    if config.league is None:
        return ()
    from hpcmarl.league.runtime.sides import specs_of_sides

    return specs_of_sides(config, spec)


def form_reduction_group(transport: Transport, config: Config, topology: Topology) -> str:
    """Form the group of learners that sum gradients among themselves. Collective.

    Returns:
        On rank 0 the reason why the group cannot be formed, in one line; empty on success, with
        `rounds.reduce: server`, and on other ranks.
    """
    if not config.rounds.collective:
        return ""
    own = ""
    try:
        transport.reduction_group(
            [group.learner for group in topology.groups], topology.hosts, config.rounds.reduce
        )
    except UsageError as error:
        own = str(error)
    return first_problem(transport, own)


def check_learner_class(transport: Transport, config: Config, topology: Topology) -> str:
    """Check that learners can import the class of an algorithm outside hpcmarl. Collective.

    Returns:
        On rank 0 the reason why a learner cannot, in one line; empty on success, with an algorithm of
        hpcmarl, and on other ranks.
    """
    if config.algo.name in ALGORITHMS:
        return ""
    own, rank = "", transport.rank
    if rank in [group.learner for group in topology.groups]:
        try:
            learner_class(config.algo.name)
        except UsageError as error:
            own = f"rank {rank} (learner) on {topology.hosts[rank]}: algo.name {config.algo.name}: {error}"
    return first_problem(transport, own)


def _processes(
    transport: Transport,
) -> tuple[dict[int, tuple[int, int]], list[MemoryFacts], dict[int, int]]:
    """Collect the process, the memory and the cores of each rank on rank 0. Collective.

    Returns:
        Rank -> process number and start time, used to end a frozen process; empty for virtual ranks. Then
        memory use and available memory of each rank. Then the cores that the ranks of its host may use, by
        rank; empty for virtual ranks.
    """
    available = available_memory()
    own = np.array(
        [
            os.getpid(),
            started_at(os.getpid()),
            resident_memory(),
            UNKNOWN if available is None else available,
            UNKNOWN if (shared := free_shared_bytes()) is None else shared,
            cores_of_host(transport.size),
        ],
        np.int64,
    )
    everyone = [np.frombuffer(part, np.int64).tolist() for part in transport.gather_at_first(own.tobytes())]
    virtual = transport.shares_memory((transport.rank + 1) % transport.size)
    if virtual:
        return {}, [MemoryFacts(0.0, UNKNOWN)] * transport.size, {}
    return (
        {rank: (pid, start) for rank, (pid, start, *_) in enumerate(everyone)},
        [MemoryFacts(*facts[:-1]) for _, _, *facts in everyone],
        {rank: facts[-1] for rank, facts in enumerate(everyone)},
    )


def check_environments(config: Config) -> EnvironmentSpec:
    """Check that the environments of all groups and kinds of workers suit the algorithm and each other.

    Returns:
        Specification of the environments.

    Raises:
        ConfigError: The spaces of a group or kind differ from the others', or the environment does not suit
            the algorithm.
    """
    from hpcmarl.algos.design import make_design

    spec = describe(config.env, config.policies)
    groups = range(len(config.topology.group_list))
    variants = {f"topology.groups.{group}.env": group_environment(config, group) for group in groups}
    variants |= {
        f"topology.workers.{kind}.env": group_environment(config, group).changed(settings.env)
        for kind, settings in enumerate(config.topology.workers)
        for group in groups
    }
    for key, own in variants.items():
        if own != config.env:
            other = describe(own, config.policies)
            if (other.policies, other.state_size, other.turn_based) != (
                spec.policies,
                spec.state_size,
                spec.turn_based,
            ):
                raise ConfigError(
                    f"{key} changes the observation, action or state spaces of {spec.id}; allowed: other "
                    "rewards and dynamics only, because all train the same policies"
                )
    if config.league is not None:
        from hpcmarl.league.runtime.startup import check_league

        check_league(config, spec)
    else:
        check_inference(config.topology.inference, make_design(spec, config.algo).policies, spec.id)
    return spec


class Terse(logging.Formatter):
    """Format of the terminal: without the traceback of a failure that training survives."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the terminal shows a record; a failing rank prints its failure itself."""
        return not getattr(record, FILE_ONLY, False)

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno < logging.ERROR:
            return record.getMessage()
        return super().format(record)


def start_logging(context: Context) -> None:
    """Start logging to logs/rank-NNNN.log, and on the server's rank to standard error as well.

    The server's rank first logs remarks about the environment, warnings and the remarks of the opened run.
    """
    level = context.config.logging.level.upper()
    handlers: list[logging.Handler] = [LogFile(RunDirectory(context.run_directory).log_path(context.rank))]
    if context.rank == context.topology.server:
        shown = logging.StreamHandler()
        shown.setFormatter(terse := Terse("%(message)s"))
        shown.addFilter(terse)
        handlers.append(shown)
    handlers[0].setFormatter(
        logging.Formatter(f"%(asctime)s rank {context.rank} %(levelname)s %(name)s: %(message)s")
    )
    if context.config.league is not None:
        for handler in handlers:
            handler.addFilter(
                lambda record: record.levelno >= logging.WARNING or record.name not in MUTED_IN_LEAGUES
            )
    logging.basicConfig(level=level, handlers=handlers, force=True)
    roles = "+".join(context.topology.roles_of(context.rank))
    encoder = context.config.algo.network.encoder
    if context.rank == context.topology.server and (remark := image_remark(context.spec, encoder)):
        logging.getLogger(__name__).warning("%s (hpcmarl doctor names a remedy)", remark)
    if context.rank == context.topology.server and (
        remark := uncovered_remark(context.spec, context.config.policies)
    ):
        logging.getLogger(__name__).info("%s", remark)
    if context.rank == context.topology.server and (remark := batching_remark(context.config.env)):
        logging.getLogger(__name__).info("%s", remark)
    for warning in context.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    for remark in context.remarks:
        logging.getLogger(__name__).info("%s", remark)
    logging.getLogger(__name__).debug(
        "rank %d of %d is %s on %s", context.rank, context.topology.size, roles, context.transport.host
    )
