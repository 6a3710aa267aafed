"""Batch scripts for Slurm, for `hpcmarl submit` and for the folder slurm/, rendered from the same templates.

slurm/*.sbatch are the texts of `by_hand(kind)`; tests compare them. Every value from outside is quoted for
the shell or for an #SBATCH line, wherever it is inserted, and must not contain a line break.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from hpcmarl.config.slurm import SlurmConfig
from hpcmarl.errors import UsageError

KINDS = ("train", "array", "sweep", "hetjob", "verify")
BY_HAND = ("train", "array", "hetjob", "verify")  # those of the folder slurm/
_MARK = re.compile("@([a-z_]+)@")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-[]()*&|!~^")
TITLES = {
    "train": (
        "One training run. Before its time limit, or on preemption, it writes a checkpoint, requeues "
        "itself and continues."
    ),
    "array": (
        "One training run for each seed, each in its own directory. Each is requeued and continues like "
        "train.sbatch."
    ),
    "sweep": "One training run for each trial of a sweep, each in its own directory, as a job array.",
    "hetjob": (
        "One training run on two kinds of nodes: server and learners on the first (for instance with "
        "GPUs), actors on the second."
    ),
    "verify": "Verifies every file of a finished run; exit code 1 if one is damaged.",
}
USAGE = {
    "train": "sbatch --nodes=2 --ntasks-per-node=8 --time=04:00:00 slurm/train.sbatch CONFIG [key=value ...]",
    "array": (
        "sbatch --array=0-4 --ntasks-per-node=8 --time=04:00:00 slurm/array.sbatch CONFIG [key=value ...]"
    ),
    "sweep": "hpcmarl submit CONFIG --sweep FILE",
    "hetjob": (
        "sbatch slurm/hetjob.sbatch CONFIG [key=value ...]      (the first component: one rank more "
        "than topology.groups)"
    ),
    "verify": "sbatch --dependency=afterok:JOB --kill-on-invalid-dep=yes slurm/verify.sbatch RUN",
}
SITE_COMMENTS = """\
# modules: names for `module load`, for instance (gcc/13 openmpi/5.0).
# environment: directory of a virtual environment; '': the environment that is active at submission.
# launcher: (srun --mpi=pmix) for Open MPI, (srun --mpi=pmi2) for MPICH and Intel MPI,
# or (mpirun -n "$SLURM_NTASKS").
# stage=yes: first unpack the environment on the local disk of each node ($SLURM_TMPDIR, $TMPDIR or /tmp).
# requeues: number of consecutive requeues without a newer checkpoint after which the job ends."""
THREADS = """\
# One thread for each core of a rank. Since Slurm 22.05 srun does not take the number of cores from sbatch.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
    changes=("topology.threads=$SLURM_CPUS_PER_TASK" "${changes[@]}")
fi"""
HETJOB_THREADS = """\
# One thread for each core of a rank; the components may have different numbers of cores.
# Since Slurm 22.05 srun does not take the number of cores from sbatch.
learner_threads=${SLURM_CPUS_PER_TASK_HET_GROUP_0:-1} actor_threads=${SLURM_CPUS_PER_TASK_HET_GROUP_1:-1}"""
SWEEP_TRIAL = """\

# The first start of a trial writes its configuration, if it is not known beforehand (search: optuna).
trial=$(printf %04d "$SLURM_ARRAY_TASK_ID")
config=$run_dir/trials/$trial.yaml
sweep=$run_dir run_dir=$run_dir/trial-$trial
if [ ! -e "$sweep/trials/$trial.json" ]; then
    (
        [ -z "$environment" ] || PATH="$environment/bin:$PATH"
        exec python3 -m hpcmarl sweep-trial "$sweep" "$SLURM_ARRAY_TASK_ID"
    ) || exit
fi"""
EACH_NODE = """\
each_node() {
    local nodes=$SLURM_JOB_NUM_NODES
    srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --mpi=none "$@"
}"""
HETJOB_EACH_NODE = """\
each_node() {
    local first=$SLURM_JOB_NUM_NODES_HET_GROUP_0 second=$SLURM_JOB_NUM_NODES_HET_GROUP_1
    srun --het-group=0 --nodes="$first" --ntasks="$first" --mpi=none "$@" &&
        srun --het-group=1 --nodes="$second" --ntasks="$second" --mpi=none "$@"
}"""
LAUNCH = '"${launcher[@]}" "${train[@]}" "${changes[@]}"'
HETJOB_LAUNCH = """\
"${launcher[@]}" --het-group=0 --cpus-per-task="$learner_threads" \\
        "${train[@]}" "topology.threads=$learner_threads" "${changes[@]}" : \\
        --het-group=1 --cpus-per-task="$actor_threads" \\
        "${train[@]}" "topology.threads=$actor_threads" "${changes[@]}\""""


@dataclass(frozen=True)
class Component:
    """Nodes of one kind. A job has one component, a heterogeneous job two.

    Attributes:
        nodes: Number of nodes.
        tasks_per_node: Ranks on each node.
        cpus_per_task: Cores of each rank; None: the default of the cluster.
        options: Additional sbatch options such as "--gres=gpu:1".
    """

    nodes: int = 1
    tasks_per_node: int = 8
    cpus_per_task: int | None = None
    options: tuple[str, ...] = ()

    @property
    def tasks(self) -> int:
        return self.nodes * self.tasks_per_node


@dataclass(frozen=True)
class Job:
    """Values of a batch script.

    Attributes:
        kind: One of KINDS.
        name: Name of the job.
        time: Time limit as Slurm writes it.
        components: Nodes; the second component of a heterogeneous job is for actors.
        site: Settings of the cluster.
        seeds: First and last seed of an array.
        trials: Trials of a sweep as Slurm writes them, such as "1-20%4".
        config: Path of the configuration; None: an argument of the script.
        run_dir: Run directory; None: chosen by the script.
        output: File for the job's output; None: a file in the working directory.
    """

    kind: str
    name: str = "hpcmarl"
    time: str = "04:00:00"
    components: tuple[Component, ...] = (Component(),)
    site: SlurmConfig = field(default_factory=SlurmConfig)
    seeds: tuple[int, int] = (0, 4)
    trials: str = ""
    config: str | None = None
    run_dir: str | None = None
    output: str | None = None


def by_hand(kind: str) -> str:
    """Return the text of slurm/KIND.sbatch: default site settings, configuration from the command line."""
    learners, actors = Component(1, 2, 4), Component(2, 16, 1)
    components = {"hetjob": (learners, actors), "verify": (Component(1, 1),)}.get(kind, (Component(),))
    return render(Job(kind, components=components, time="00:30:00" if kind == "verify" else "04:00:00"))


def render(job: Job) -> str:
    """Render the batch script of a job.

    Raises:
        UsageError: If a value contains a control character, or characters that an #SBATCH line cannot hold.
    """
    het = job.kind == "hetjob"
    parts = {
        "title": _title(job),
        "directives": "\n".join(_directives(job)),
        "site": _site(job),
        "run": _run(job),
        "threads": _threads(job),
        "each_node": HETJOB_EACH_NODE if het else EACH_NODE,
        "launch": HETJOB_LAUNCH if het else LAUNCH,
    }
    template = "verify.sbatch" if job.kind == "verify" else "job.sbatch"
    text = files("hpcmarl.launch").joinpath("templates", template).read_text(encoding="utf-8")
    # substitute in one pass, so that a value that looks like a mark stays as it is
    return _MARK.sub(lambda mark: parts[mark[1]], text)


def _threads(job: Job) -> str:
    if job.kind == "hetjob":
        return HETJOB_THREADS
    return THREADS + (f"\n{SWEEP_TRIAL}" if job.kind == "sweep" else "")


def _title(job: Job) -> str:
    if job.config is None and job.run_dir is None:
        more = "" if job.kind == "verify" else "# RUN_DIR=... before sbatch sets the run directory. "
        return (
            f"# {TITLES[job.kind]}\n#   {USAGE[job.kind]}\n{more or '# '}`hpcmarl submit` writes such a "
            "script for you: docs/cluster.md."
        )
    again = "" if job.kind == "verify" else " Submit it again to continue the run."
    return f"# {TITLES[job.kind]}\n# Written by `hpcmarl submit`.{again}"


def _directives(job: Job) -> list[str]:
    """Return the #SBATCH lines of the job itself; those of the site are in the site block."""
    number = "%A_%a" if job.kind in ("array", "sweep") else "%j"
    lines = [f"--job-name={job.name}", *_size(job.components[0]), f"--time={job.time}"]
    if job.kind == "array":
        lines.append(f"--array={job.seeds[0]}-{job.seeds[1]}")
    elif job.kind == "sweep":
        lines.append(f"--array={job.trials}")
    lines.append(f"--output={job.output if job.output is not None else f'%x-{number}.out'}")
    if job.kind != "verify":
        lines += ["--requeue", "--open-mode=append", f"--signal=B:USR1@{job.site.signal_seconds}"]
    return [directive(line) for line in lines]


def _size(component: Component) -> list[str]:
    cores = [f"--cpus-per-task={component.cpus_per_task}"] if component.cpus_per_task is not None else []
    return [f"--nodes={component.nodes}", f"--ntasks-per-node={component.tasks_per_node}", *cores]


def _site(job: Job) -> str:
    site = job.site
    gpus = [f"--gpus-per-node={site.gpus}"] if site.gpus else []
    lines = _site_directives(site, site.partition, [*gpus, *job.components[0].options])
    if len(job.components) > 1:
        actors = job.components[1]
        lines += [
            "# second component, for actors",
            "#SBATCH hetjob",
            *(directive(line) for line in (*_size(actors), f"--time={job.time}")),
        ]
        lines += _site_directives(site, site.actor_partition, actors.options)
    comments = SITE_COMMENTS.splitlines()
    lines += comments[:1] if job.kind == "verify" else comments
    lines += [f"modules=({' '.join(map(word, site.modules))})", f"environment={word(site.environment or '')}"]
    if job.kind != "verify":
        lines += [
            f"launcher=({launcher(site)})",
            f"stage={'yes' if site.stage else 'no'}",
            f"requeues={site.requeues}",
        ]
    return "\n".join(lines)


def _site_directives(site: SlurmConfig, partition: str | None, options: Sequence[str]) -> list[str]:
    """Return the #SBATCH lines of the site; unset ones as disabled lines (two #) for the user to fill in."""
    named = [("account", site.account), ("partition", partition)]
    lines = [
        directive(f"--{name}={value}") if value is not None else f"##SBATCH --{name}=..."
        for name, value in named
    ]
    return lines + [directive(option) for option in options]


def _run(job: Job) -> str:
    asked = f"usage: {USAGE[job.kind].split('      ')[0]}"
    if job.kind == "verify":
        return f"run_dir={word(job.run_dir) if job.run_dir is not None else '${1:?' + asked + '}'}"
    arguments = [f"config=${{1:?{asked}}}", 'changes=("${@:2}")']
    lines = arguments if job.config is None else [f"config={word(job.config)}", "changes=()"]
    job_of_task = (
        "job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID # SLURM_JOB_ID of the last task names the whole array"
    )
    name = "$SLURM_JOB_NAME-$SLURM_ARRAY_JOB_ID" if job.kind == "array" else "$SLURM_JOB_NAME-$SLURM_JOB_ID"
    directory = word(job.run_dir) if job.run_dir is not None else f"${{RUN_DIR:-runs/{name}}}"
    if job.kind == "array":
        lines += [
            f"run_dir={directory}/seed-$SLURM_ARRAY_TASK_ID",
            'changes+=("seed=$SLURM_ARRAY_TASK_ID")',
            job_of_task,
        ]
    elif job.kind == "sweep":
        lines += [f"run_dir={directory}", job_of_task]
    else:
        lines += [f"run_dir={directory}", "job=$SLURM_JOB_ID"]
    if job.kind == "hetjob" and job.config is None:
        lines.append('changes=(topology.placement=separate topology.server=dedicated "${changes[@]}")')
    return "\n".join(lines)


def launcher(site: SlurmConfig) -> str:
    """Return the command that starts the ranks, quoted for the shell."""
    if site.launcher == "mpirun":
        return " ".join(["mpirun", '-n "$SLURM_NTASKS"', *map(word, site.launcher_options)])
    plugin = [f"--mpi={word(site.mpi)}"] if site.mpi is not None else []
    return " ".join(["srun", *plugin, *map(word, site.launcher_options)])


def one_line(value: str) -> str:
    """Return the value unchanged.

    Raises:
        UsageError: If it contains a line break or another control character.
    """
    if not value.isprintable():
        raise UsageError(
            f"{value!r}: a batch script must not contain control characters; use printable characters only"
        )
    return value


def word(value: str) -> str:
    """Return the value as one word of the shell.

    Raises:
        UsageError: If it contains a control character.
    """
    return shlex.quote(one_line(value))


def directive(option: str, origin: str = "") -> str:
    """Return an #SBATCH line. Blanks are quoted.

    Args:
        option: Option such as "--gres=gpu:1".
        origin: The option as the user wrote it, for messages.

    Raises:
        UsageError: If the option contains a control character, a quote, a backslash or #. sbatch does not
            read these as a shell does.
    """
    one_line(option)
    if set(option) <= _PLAIN:
        return f"#SBATCH {option}"
    if set("\"'\\#") & set(option):
        raise UsageError(
            f"{origin or option}: an #SBATCH line must not contain quotes, backslashes or #; remove them"
        )
    name, equals, value = option.partition("=")
    return f'#SBATCH {name}{equals}"{value}"'
