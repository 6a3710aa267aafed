"""Check a run, render its batch script and submit it with sbatch (`hpcmarl submit`).

launch/slurm.py renders the script and launch/sbatch.py calls sbatch.
"""

from __future__ import annotations

import json
import sys
import time as clock
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpcmarl.cli.common import OptionalConfig, Overrides, file_and_changes
from hpcmarl.errors import ConfigError, HpcmarlError, UsageError
from hpcmarl.placement import wants_cuda

if TYPE_CHECKING:
    from hpcmarl.comm.topology import Topology
    from hpcmarl.config import Config
    from hpcmarl.launch.slurm import Component, Job
    from hpcmarl.launch.submissions import Submission

DIFFERENCES_SHOWN = 10
# roles of the ranks of a heterogeneous job's second component
OF_SECOND_COMPONENT = (("actor",), ("worker",), ("evaluator",))
Extra = Annotated[
    list[str] | None,
    typer.Option(
        "--sbatch",
        metavar="OPTION",
        help="Further option of sbatch, as in --sbatch=--gres=gpu:1 (repeatable).",
    ),
]
ActorExtra = Annotated[
    list[str] | None,
    typer.Option(
        "--actor-sbatch",
        metavar="OPTION",
        help="Option of sbatch for the actors' component of --hetjob (repeatable).",
    ),
]


def submit(
    config: OptionalConfig = None,
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Number of nodes.")] = 1,
    tasks: Annotated[int, typer.Option("--ntasks-per-node", min=1, help="Ranks on each node.")] = 8,
    cores: Annotated[
        int | None,
        typer.Option("--cpus-per-task", min=1, help="Cores and threads of each rank.", show_default=False),
    ] = None,
    time: Annotated[
        str,
        typer.Option(
            "--time", metavar="LIMIT", help="Time limit of each start; the run continues in the next start."
        ),
    ] = "04:00:00",
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Submit an array of this many runs; seeds count up from the configuration's seed.",
        ),
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(
            "--sweep", metavar="FILE", help="Submit an array with a task for each trial of a sweep."
        ),
    ] = None,
    hetjob: Annotated[
        str | None,
        typer.Option(
            "--hetjob",
            metavar="NODESxTASKS",
            help="Put the actors on separate nodes, in a heterogeneous job.",
        ),
    ] = None,
    partition: Annotated[
        str | None, typer.Option("--partition", help="Slurm partition. Default: slurm.partition.")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Slurm account. Default: slurm.account.")
    ] = None,
    extra: Extra = None,
    actor_extra: ActorExtra = None,
    run_dir: Annotated[
        str | None,
        typer.Option("--run-dir", metavar="DIR", help="Run directory. Default: runs/NAME-DATE-TIME."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--depend-verify", help="Submit a second job that verifies the run's files afterwards."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the batch script and submit nothing.")
    ] = False,
) -> None:
    """Train on a Slurm cluster.

    The job stops with a checkpoint before its time limit or at preemption. It then requeues itself, and
    continues until the run is done.

    \b
    hpcmarl submit configs/quickstart.yaml --nodes 2 --ntasks-per-node 8 --time 04:00:00 --seeds 5 --dry-run
    hpcmarl submit configs/quickstart.yaml slurm.partition=gpu slurm.modules='[openmpi/5.0]' --depend-verify
    hpcmarl submit preset=qmix env.id=smax:3m stop.env_steps=2000000 --ntasks-per-node 4
    hpcmarl submit configs/quickstart.yaml --sweep sweep.yaml --ntasks-per-node 4
    hpcmarl submit configs/cluster/rennala_nigt.yaml --ntasks-per-node 9 --sbatch=--gres=gpu:1 --hetjob 4x16

    Section slurm of the configuration holds the settings of the cluster: account, partition, modules,
    launcher. With --hetjob the first component holds the server and the learners, which is one rank more than
    topology.groups. To continue an earlier run, submit it again with its --run-dir after its job has ended.
    """
    from hpcmarl.config.file import load_config

    path, given = file_and_changes(config, overrides)
    changes = list(given)
    for key, value in (("partition", partition), ("account", account)):
        changes += [f"slurm.{key}={json.dumps(value)}"] if value is not None else []
    if hetjob is not None:
        changes = ["topology.placement=separate", "topology.server=dedicated", *changes]
    settings = load_config(path, changes)
    _check_seeds(seeds, hetjob, given)
    _check_sweep(sweep, seeds, hetjob)
    job = _job(
        settings, (nodes, tasks, cores), hetjob, time, (extra or [], actor_extra or []), seeds, run_dir
    )
    job = job if sweep is None else _sweep_job(job, sweep, settings)
    topology = _check_roles(settings, job)
    if dry_run:
        _show(job, verify)
        return
    _send(job, settings, run_dir is None, verify, sweep)
    _report_estimate(settings, topology, site_stages=job.site.stage)


def _job(
    settings: Config,
    size: tuple[int, int, int | None],
    hetjob: str | None,
    time: str,
    extras: tuple[Sequence[str], Sequence[str]],
    seeds: int | None,
    run_dir: str | None,
) -> Job:
    """Return the job to render, after checks.

    Raises:
        UsageError: An option or a setting is not allowed.
    """
    from hpcmarl.launch import sbatch
    from hpcmarl.launch.slurm import Component, Job, directive, render
    from hpcmarl.launch.submissions import Submission

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
            raise UsageError(
                "--hetjob with slurm.launcher: mpirun: mpirun sees the first component only; use "
                "slurm.launcher=srun"
            )
    elif extras[1]:
        raise UsageError("--actor-sbatch needs --hetjob; for a job with one component use --sbatch")
    if site.environment is None and sys.prefix != sys.base_prefix:
        site = site.model_copy(update={"environment": sys.prefix})
    if site.stage and site.environment is None:
        raise UsageError(
            "slurm.stage: true needs slurm.environment; set it to the virtual environment to unpack on the "
            "nodes"
        )
    directory = (
        Path(run_dir)
        if run_dir is not None
        else Path("runs") / f"{settings.name}-{clock.strftime('%Y%m%d-%H%M%S')}"
    )
    job = Job(
        kind="hetjob" if hetjob is not None else "array" if seeds is not None else "train",
        name=settings.name,
        time=time,
        components=tuple(components),
        site=site,
        seeds=(settings.seed, settings.seed + (seeds or 1) - 1),
    )
    job = _placed(job, Submission(directory.absolute(), 1))
    options = job.components[0].options
    if wants_cuda(settings.device) and not site.gpus and not any("gpu" in option for option in options):
        typer.echo(
            f"warning: device: {settings.device}, but the job requests no GPU; set slurm.gpus to the number "
            "of GPUs of a node",
            err=True,
        )
    # Refuse a bad path or option before the run directory is created.
    directive(f"--output={job.output}", f"--run-dir {job.run_dir}")
    render(job)
    return job


def _sweep_job(job: Job, file: Path, settings: Config) -> Job:
    """Return the job with a task for each trial of a sweep that has not ended.

    Raises:
        ConfigError: The file or one of its trials is wrong.
        UsageError: All trials have ended.
    """
    from hpcmarl.config.file import load_sweep
    from hpcmarl.sweeps.directory import SweepDirectory, check, ranges, unended

    sweep = load_sweep(file)
    check(sweep, settings)
    left = unended(SweepDirectory(Path(str(job.run_dir))), sweep)
    if not left:
        raise UsageError(f"--run-dir {job.run_dir}: all {sweep.count} trials of the sweep have ended")
    return replace(
        job,
        kind="sweep",
        trials=f"{ranges(left)}%{sweep.parallel}",
        output=str(job.output).replace("%j", "%A_%a"),
    )


def _placed(job: Job, submission: Submission) -> Job:
    """Return the job with the configuration, run directory and output of a submission."""
    directory = str(submission.directory)
    output = f"{directory.replace('%', '%%')}/slurm-{'%A_%a' if job.kind in ('array', 'sweep') else '%j'}.out"
    return replace(job, config=str(submission.path("yaml")), run_dir=directory, output=output)


def _actor_component(text: str, options: tuple[str, ...]) -> Component:
    from hpcmarl.launch.slurm import Component

    nodes, _, tasks = text.partition("x")
    if not (nodes.isdecimal() and tasks.isdecimal() and int(nodes) and int(tasks)):
        raise UsageError(
            f"--hetjob {text}: write NODESxTASKS, the number of actor nodes and the ranks on each, as in "
            "--hetjob 4x16"
        )
    return Component(int(nodes), int(tasks), None, options)


def _check_seeds(seeds: int | None, hetjob: str | None, overrides: Sequence[str]) -> None:
    if seeds is None:
        return
    if hetjob is not None:
        raise UsageError(
            "--seeds with --hetjob: Slurm has no arrays of heterogeneous jobs; submit a job for each seed "
            "(seed=0, seed=1, ...)"
        )
    if any(change.partition("=")[0].strip() == "seed" for change in overrides) and seeds > 1:
        raise UsageError(
            f"--seeds {seeds} with a fixed seed on the command line: leave out one of them (seeds count up "
            "from the configuration's seed)"
        )


def _check_sweep(sweep: Path | None, seeds: int | None, hetjob: str | None) -> None:
    if sweep is not None and seeds is not None:
        raise UsageError("--sweep with --seeds: set seeds in the file of the sweep")
    if sweep is not None and hetjob is not None:
        raise UsageError(
            "--sweep with --hetjob: Slurm has no arrays of heterogeneous jobs; leave out one of them"
        )


def _check_roles(settings: Config, job: Job) -> Topology:
    """Check that the roles fit the ranks, so that the job does not fail after its time in the queue.

    Returns:
        Roles of the job's ranks.

    Raises:
        ConfigError, UsageError: They do not fit.
    """
    from hpcmarl.comm.topology import assign_roles

    hosts = [
        f"{'first' if part == 0 else 'second'} component, node {task // component.tasks_per_node + 1}"
        if len(job.components) > 1
        else f"node {task // component.tasks_per_node + 1}"
        for part, component in enumerate(job.components)
        for task in range(component.tasks)
    ]
    topology = assign_roles(len(hosts), hosts, settings.topology)
    if job.kind != "hetjob":
        return topology
    first = job.components[0].tasks
    misplaced = [
        rank
        for rank in range(len(hosts))
        if (topology.roles_of(rank) in OF_SECOND_COMPONENT) != (rank >= first)
    ]
    if misplaced:
        needed = len(topology.groups) + (
            not any(group.learner == topology.server for group in topology.groups)
        )
        raise UsageError(
            f"--hetjob: the first component has {first} ranks but the server and {len(topology.groups)} "
            f"learners need {needed}; set --nodes and --ntasks-per-node to {needed} ranks together, or "
            "change topology.groups"
        )
    return topology


def _verification(job: Job) -> Job:
    """Return the job that verifies the run's files afterwards."""
    from hpcmarl.launch.slurm import Component, Job

    return Job(
        kind="verify",
        name=f"{job.name}-verify",
        time="00:30:00",
        components=(Component(1, 1),),
        site=job.site,
        run_dir=job.run_dir,
        output=str(job.output).replace("slurm-%A_%a", "verify-%j").replace("slurm-%j", "verify-%j"),
    )


def _show(job: Job, verify: bool) -> None:
    """Print the scripts."""
    from hpcmarl.launch.slurm import render

    typer.echo(render(job), nl=False)
    if verify:
        typer.echo(
            (
                "\n# ---- then: sbatch --dependency=afterok:JOB "
                f"--kill-on-invalid-dep=yes\n{render(_verification(job))}"
            ),
            nl=False,
        )


def _send(
    job: Job, settings: Config, default_directory: bool, verify: bool, sweep: Path | None = None
) -> None:
    """Write the files that the job will read, and submit it.

    Raises:
        UsageError: The run directory cannot be written, or belongs to a job that has not ended.
        HpcmarlError: sbatch refuses the job, or squeue does not answer.
    """
    from hpcmarl.config.file import dump_config, load_sweep
    from hpcmarl.launch import sbatch
    from hpcmarl.launch.slurm import render
    from hpcmarl.launch.submissions import claim, list_submissions, new_directory
    from hpcmarl.sweeps.directory import SweepDirectory, prepare

    program = sbatch.find_sbatch()
    directory = Path(str(job.run_dir))
    try:
        directory = new_directory(directory) if default_directory else directory
        if sweep is not None:
            prepare(SweepDirectory(directory), load_sweep(sweep), settings)
        # The job uses the configuration as it is now. Later changes of the file do not count, neither in the
        # queue nor between restarts.
        submission = claim(directory, dump_config(settings))
        job = _placed(job, submission)
        submission.write("sbatch", render(job))
    except OSError as error:
        raise UsageError(
            f"--run-dir {directory}: cannot write there: {error.strerror}; choose another"
        ) from None
    changed = _changes(settings, directory, list_submissions(directory)[:-1])
    try:
        answer = sbatch.submit(program, render(job))
    except HpcmarlError:
        submission.remove()
        raise
    number = answer.partition(";")[0]
    typer.echo(f"job {number}, run directory {directory}")
    try:
        submission.write("job", f"{answer}\n")
    except OSError as error:
        path = submission.path("job")
        raise HpcmarlError(
            f"{path}: cannot be written: {error.strerror}; write {answer} into it, or scancel {number}"
        ) from None
    if verify:
        dependency = [f"--dependency=afterok:{number}", "--kill-on-invalid-dep=yes"]
        later = sbatch.submit(program, render(_verification(job)), dependency).partition(";")[0]
        typer.echo(f"job {later} verifies the run afterwards, output {directory}/verify-{later}.out")
    for line in (*changed, *_advice(settings, job)):
        typer.echo(line)


def _changes(settings: Config, directory: Path, earlier: Sequence[Submission]) -> list[str]:
    """Compare the configuration with that of the run's last submission.

    Returns:
        Lines to print; empty for a new run.
    """
    from hpcmarl.config.differences import differences

    former = earlier[-1].path("yaml") if earlier else directory / "config.yaml"
    if not former.is_file():
        return []
    try:
        lines = differences(former.read_text(encoding="utf-8"), settings)
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        return [f"the job continues the run there; its configuration cannot be compared: {error}"]
    heading = f"the job continues the run there; compared with {former.relative_to(directory)} "
    if not lines:
        return [f"{heading}nothing has changed"]
    shown = [f"  {line}" for line in lines[:DIFFERENCES_SHOWN]]
    more = [f"  and {len(lines) - DIFFERENCES_SHOWN} more"] if len(lines) > DIFFERENCES_SHOWN else []
    return [f"{heading}{len(lines)} value{'s have' if len(lines) > 1 else ' has'} changed:", *shown, *more]


def _advice(settings: Config, job: Job) -> list[str]:
    """Return lines to print about a launcher that is better for this job."""
    from hpcmarl.launch.mpiexec import mpiexec_of

    if job.site.launcher != "srun" or job.kind == "hetjob":
        return []
    program = mpiexec_of(job.site.environment)
    if program is None or program.library != "openmpi" or program.version < (5,):
        return []
    respawn = (
        ", and replaces dead actors (topology.respawn, which srun cannot)"
        if settings.topology.respawn
        else ""
    )
    return [
        (
            "with srun a dead rank ends the job, which is requeued and starts again; with "
            f"slurm.launcher=mpirun the run continues without that rank{respawn}"
        )
    ]


def _report_estimate(settings: Config, topology: Topology, *, site_stages: bool) -> None:
    """Print on standard error the job's estimated load on file systems and memory.

    The environment is not created for it, because that takes seconds. `hpcmarl doctor` creates it, and adds
    the bytes of trajectories and networks.
    """
    from hpcmarl.doctor.estimate import estimate

    largest = Counter(topology.hosts).most_common(1)[0][0]
    for finding in estimate(settings, topology, None, staged=site_stages):
        if finding.name != "memory" or finding.value.startswith(f"{largest}: "):
            remedy = f"; {finding.remedy}" if finding.remedy else ""
            typer.echo(f"estimate: {finding.name}: {finding.value}{remedy}", err=True)
