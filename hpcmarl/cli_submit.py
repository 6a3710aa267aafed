"""`hpcmarl submit`: checks a run before it waits in a queue, renders its batch script, hands it to sbatch. Part of cli.py, and lazy.

The script's text is made in launch/slurm.py, sbatch is asked in launch/sbatch.py.
"""

from __future__ import annotations

import json
import shutil
import sys
import time as clock
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli_common import OptionalConfig, Overrides, file_and_changes
from hpcmarl.errors import UsageError

if TYPE_CHECKING:
    from hpcmarl.config import Config
    from hpcmarl.launch.slurm import Component, Job

CONFIG_NAME, SCRIPT_NAME = "submitted.yaml", "job.sbatch"
Extra = Annotated[list[str] | None, typer.Option("--sbatch", metavar="OPTION", help="further sbatch option, --sbatch=--gres=gpu:1 (repeatable)")]
ActorExtra = Annotated[list[str] | None, typer.Option("--actor-sbatch", metavar="OPTION", help="the same for the actors' component of --hetjob")]


def submit(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1)] = 1,
    tasks: Annotated[int, typer.Option("--ntasks-per-node", min=1, help="ranks of each node")] = 8,
    cores: Annotated[int | None, typer.Option("--cpus-per-task", min=1, help="cores, and threads, of each rank", show_default=False)] = None,
    time: Annotated[str, typer.Option("--time", metavar="LIMIT", help="of each start; the run goes on after it")] = "04:00:00",
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="an array: so many runs, from the configuration's seed on")] = None,
    hetjob: Annotated[str | None, typer.Option("--hetjob", metavar="NODESxTASKS", help="put the actors on nodes of their own")] = None,
    partition: Annotated[str | None, typer.Option("--partition", help="default: slurm.partition")] = None,
    account: Annotated[str | None, typer.Option("--account", help="default: slurm.account")] = None,
    extra: Extra = None,
    actor_extra: ActorExtra = None,
    run_dir: Annotated[str | None, typer.Option("--run-dir", metavar="DIR", help="default: runs/NAME-DATE-TIME")] = None,
    verify: Annotated[bool, typer.Option("--depend-verify", help="afterwards a job that verifies the run's files")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the script and submit nothing")] = False,
) -> None:
    """Train on a Slurm cluster.

    The job stops with a checkpoint before its time limit or at preemption, requeues itself and goes on until it is done.

    \b
    hpcmarl submit configs/quickstart.yaml --nodes 2 --ntasks-per-node 8 --time 04:00:00 --seeds 5 --dry-run
    hpcmarl submit configs/quickstart.yaml slurm.partition=gpu slurm.modules='[openmpi/5.0]' --depend-verify
    hpcmarl submit preset=qmix env.id=smax:3m stop.env_steps=2000000 --ntasks-per-node 4
    hpcmarl submit configs/cluster/rennala_nigt.yaml --ntasks-per-node 9 --sbatch=--gres=gpu:1 --hetjob 4x16

    The cluster's settings (account, partition, modules, launcher) are the section slurm of the configuration. With --hetjob
    the first component holds the server and the learners: one rank more than topology.groups. Submitted again
    with the --run-dir of an earlier run, it goes on with that.
    """
    from hpcmarl.config.file import load_config

    path, given = file_and_changes(config, overrides)
    changes = list(given)
    for key, value in (("partition", partition), ("account", account)):
        changes += [f"slurm.{key}={json.dumps(value)}"] if value is not None else []
    if hetjob is not None:
        changes = ["topology.placement=apart", "topology.server=dedicated", *changes]
    settings = load_config(path, changes)
    _check_seeds(seeds, hetjob, given)
    job = _job(settings, (nodes, tasks, cores), hetjob, time, (extra or [], actor_extra or []), seeds, run_dir)
    _check_roles(settings, job)
    _send(job, settings, verify, dry_run)


def _job(
    settings: Config,
    size: tuple[int, int, int | None],
    hetjob: str | None,
    time: str,
    extras: tuple[Sequence[str], Sequence[str]],
    seeds: int | None,
    run_dir: str | None,
) -> Job:
    """What will be rendered, checked. Raises UsageError."""
    from hpcmarl.launch import sbatch
    from hpcmarl.launch.slurm import Component, Job, directive

    site = settings.slurm
    sbatch.check_time(time, site.signal_seconds)
    sbatch.check_options(site.options, "slurm.options")
    sbatch.check_options(site.actor_options, "slurm.actor_options")
    sbatch.check_options(extras[0], "--sbatch")
    sbatch.check_options(extras[1], "--actor-sbatch")
    components = [Component(*size, (*site.options, *extras[0]))]
    if hetjob is not None:
        components.append(_actor_component(hetjob, (*site.actor_options, *extras[1])))
        if site.launcher == "mpirun":
            raise UsageError("--hetjob with slurm.launcher: mpirun: mpirun sees the first component only; use slurm.launcher=srun")
    elif extras[1]:
        raise UsageError("--actor-sbatch needs --hetjob: without it there is one component only (--sbatch)")
    if site.environment is None and sys.prefix != sys.base_prefix:
        site = site.model_copy(update={"environment": sys.prefix})
    if site.stage and site.environment is None:
        raise UsageError("slurm.stage needs slurm.environment: the directory of the virtual environment to unpack on the nodes")
    directory = Path(run_dir) if run_dir is not None else Path("runs") / f"{settings.name}-{clock.strftime('%Y%m%d-%H%M%S')}"
    directory = directory.absolute()
    output = f"{str(directory).replace('%', '%%')}/slurm-{'%A_%a' if seeds else '%j'}.out"
    directive(f"--output={output}", f"--run-dir {directory}")  # refused before it is made
    return Job(
        kind="hetjob" if hetjob is not None else "array" if seeds is not None else "train",
        name=settings.name,
        time=time,
        components=tuple(components),
        site=site,
        seeds=(settings.seed, settings.seed + (seeds or 1) - 1),
        config=str(directory / CONFIG_NAME),
        run_dir=str(directory),
        output=output,
    )


def _actor_component(text: str, options: tuple[str, ...]) -> Component:
    from hpcmarl.launch.slurm import Component

    nodes, _, tasks = text.partition("x")
    if not (nodes.isdecimal() and tasks.isdecimal() and int(nodes) and int(tasks)):
        raise UsageError(f"--hetjob {text}: write NODESxTASKS, nodes for actors and ranks on each: --hetjob 4x16")
    return Component(int(nodes), int(tasks), None, options)


def _check_seeds(seeds: int | None, hetjob: str | None, overrides: Sequence[str]) -> None:
    if seeds is None:
        return
    if hetjob is not None:
        raise UsageError("--seeds with --hetjob: Slurm has no arrays of heterogeneous jobs; submit one job a seed (seed=0, seed=1, ...)")
    if any(change.partition("=")[0].strip() == "seed" for change in overrides) and seeds > 1:
        raise UsageError(f"--seeds {seeds} with a fixed seed on the command line: leave out one (seeds count up from the configuration's seed)")


def _check_roles(settings: Config, job: Job) -> None:
    """Roles must fit the ranks: better said now than after a day in the queue. Raises ConfigError or UsageError."""
    from hpcmarl.comm.topology import assign_roles

    hosts = [f"{part}-{task // component.tasks_per_node}" for part, component in enumerate(job.components) for task in range(component.tasks)]
    topology = assign_roles(len(hosts), hosts, settings.topology)
    if job.kind != "hetjob":
        return
    first = job.components[0].tasks
    misplaced = [rank for rank in range(len(hosts)) if (topology.roles_of(rank) in (("actor",), ("evaluator",))) != (rank >= first)]
    if misplaced:
        needed = len(topology.groups) + (not any(group.learner == topology.server for group in topology.groups))
        raise UsageError(
            f"--hetjob: the first component has {first} ranks but the server and {len(topology.groups)} learners take {needed}; "
            f"set --nodes and --ntasks-per-node to {needed} ranks together, or change topology.groups"
        )


def _send(job: Job, settings: Config, verify: bool, dry_run: bool) -> None:
    """Print the scripts, or write what the job will read, and submit. Raises HpcmarlError where sbatch refuses."""
    from hpcmarl.config.file import dump_config
    from hpcmarl.launch import sbatch
    from hpcmarl.launch.slurm import Component, Job, render

    script = render(job)
    directory = Path(str(job.run_dir))
    after = Job(
        kind="verify",
        name=f"{job.name}-verify",
        time="00:30:00",
        components=(Component(1, 1),),
        site=job.site,
        run_dir=job.run_dir,
        output=str(job.output).replace("slurm-%A_%a", "verify-%j").replace("slurm-%j", "verify-%j"),
    )
    if dry_run:
        typer.echo(script, nl=False)
        if verify:
            typer.echo(f"\n# ---- then: sbatch --dependency=afterok:JOB --kill-on-invalid-dep=yes\n{render(after)}", nl=False)
        return
    program = sbatch.find_sbatch()
    new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # The configuration as it is now: what the user changes while the job waits or between its restarts does not count.
        (directory / CONFIG_NAME).write_text(dump_config(settings), encoding="utf-8")
        (directory / SCRIPT_NAME).write_text(script, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--run-dir {directory}: cannot write there: {error.strerror}; choose another") from None
    try:
        number = sbatch.submit(program, script)
    except BaseException:
        if new:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    typer.echo(f"job {number}, run directory {directory}")
    if verify:
        later = sbatch.submit(program, render(after), [f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes"])
        typer.echo(f"job {later} verifies it afterwards, output {directory}/verify-{later}.out")
