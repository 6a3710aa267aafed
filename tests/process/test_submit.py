"""`hpcmarl submit` with a stand-in for sbatch."""

from pathlib import Path

import pytest

from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.launch import submissions

SBATCH = """#!/bin/sh
# stands for sbatch: keeps what it is given
number=$(($(ls "{login_node}" | grep -c '^call') + 1))
echo "$@" > "{login_node}/call$number"
cat > "{login_node}/script$number"
echo "4$number;cluster"
"""


SQUEUE = """#!/bin/sh
# stands for squeue: `queue` holds its lines; `deaf` stands for a controller that does not answer
fail() {{ echo "slurm_load_jobs error: $1" >&2; exit 1; }}
[ ! -e "{login_node}/deaf" ] || fail 'Unable to contact slurm controller'
[ -e "{login_node}/queue" ] || {{ echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }}
echo "$@" > "{login_node}/asked"
cat "{login_node}/queue"
"""


@pytest.fixture
def slurm(login_node, monkeypatch):
    """Install an sbatch that accepts jobs and a squeue that lists none."""
    place = login_node / "bin"
    place.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE}.items():
        (place / name).write_text(text.format(login_node=place))
        (place / name).chmod(0o755)
    monkeypatch.setattr(
        "shutil.which", lambda name, path=None: str(place / name) if (place / name).exists() else None
    )
    return place / "sbatch"


def test_rejected_submission_quotes_sbatch_and_leaves_nothing(run, login_node, slurm):
    slurm.write_text("#!/bin/sh\necho 'sbatch: error: Invalid qos specification' >&2\nexit 1\n")
    code, _, err = run("submit", "tiny.yaml", "--run-dir", "runs/x")
    assert code == 1
    assert "error: sbatch refused the job (exit code 1): sbatch: error: Invalid qos specification\n" in err
    assert not (login_node / "runs" / "x").exists()


def test_submitted_script_and_configuration_are_kept(run, login_node, slurm):
    code, out, _ = run(
        "submit",
        "tiny.yaml",
        "rounds.rule=rennala",
        "--partition=short",
        "--run-dir=runs/x",
        "--depend-verify",
        "--seeds=2",
    )
    assert code == 0
    assert out.startswith(f"job 41, run directory {login_node}/runs/x\njob 42 verifies the run afterwards")
    place = login_node / "runs" / "x" / "submissions"
    config = load_config(place / "0001.yaml")
    assert (config.rounds.rule, config.slurm.partition) == ("rennala", "short")
    script = (place / "0001.sbatch").read_text()
    assert script == (slurm.parent / "script1").read_text()
    assert "#SBATCH --array=3-4\n" in script
    assert f"\nconfig={place}/0001.yaml\n" in script
    assert (place / "0001.job").read_text() == "41;cluster\n"
    assert (
        slurm.parent / "call2"
    ).read_text() == "--parsable --dependency=afterok:41 --kill-on-invalid-dep=yes\n"
    assert f"\nrun_dir={login_node}/runs/x\n" in (slurm.parent / "script2").read_text()


def test_submitted_configuration_has_the_values_of_a_preset(run, login_node, slurm):
    assert run("submit", "preset=qmix", "env.id=a.b", "stop.updates=3", "--run-dir=runs/x")[0] == 0
    submitted = login_node / "runs" / "x" / "submissions" / "0001.yaml"
    assert load_config(submitted) == load_config(None, ["preset=qmix", "env.id=a.b", "stop.updates=3"])
    assert "preset" not in submitted.read_text()


def kept(login_node):
    return {path.name: path.read_bytes() for path in (login_node / "runs" / "x" / "submissions").iterdir()}


def test_directory_of_a_waiting_job_is_refused(run, login_node, slurm):
    submit = ("submit", "tiny.yaml", "--run-dir=runs/x")
    assert run(*submit, "optimizer.step_size=0.001")[0] == 0
    before = kept(login_node)
    (slurm.parent / "queue").write_text("CLUSTER: cluster\n41 PENDING\n")
    code, out, err = run(*submit, "optimizer.step_size=0.5")
    assert (code, out) == (2, "")
    assert err == (
        f"error: --run-dir {login_node}/runs/x: job 41 (PENDING) of an earlier submission uses it; wait for "
        "its end, cancel it with scancel 41, or choose another --run-dir\n"
    )
    assert kept(login_node) == before
    assert (slurm.parent / "asked").read_text() == "--noheader --format=%i %T --jobs=41 --clusters=cluster\n"
    (slurm.parent / "queue").write_text("41_[3-4] PENDING\n41_2 RUNNING\n")
    assert (
        "job 41_[3-4] (PENDING) and 1 more of an earlier submission uses it; wait for its end, cancel it "
        "with scancel 41," in run(*submit)[2]
    )


def test_directory_is_refused_while_squeue_does_not_answer(run, login_node, slurm):
    assert run("submit", "tiny.yaml", "--run-dir=runs/x")[0] == 0
    (slurm.parent / "deaf").touch()
    before = kept(login_node)
    code, _, err = run("submit", "tiny.yaml", "--run-dir=runs/x")
    assert code == 1
    assert (
        "cannot check whether its earlier jobs have ended: squeue failed (exit code 1): slurm_load_jobs "
        "error: Unable to contact"
    ) in err
    assert kept(login_node) == before
    assert run("submit", "tiny.yaml", "--run-dir=runs/y")[0] == 0  # no earlier jobs to check


def test_later_submission_leaves_the_earlier_and_tells_changes(run, login_node, slurm):
    submit = ("submit", "tiny.yaml", "--run-dir=runs/x")
    run(*submit)
    before = kept(login_node)
    code, out, _ = run(*submit, "rounds.rule=rennala", "optimizer.step_size=0.5")
    assert code == 0
    lines = out.splitlines()
    start = lines.index(
        "the job continues the run there; compared with submissions/0001.yaml 2 values have changed:"
    )
    assert lines[start + 1].startswith("  optimizer.step_size: ")
    assert lines[start + 1].endswith(" -> 0.5")
    assert lines[start + 2] == "  rounds.rule: sync -> rennala"
    after = kept(login_node)
    assert before.items() <= after.items()
    assert sorted(after.keys() - before.keys()) == ["0002.job", "0002.sbatch", "0002.yaml"]
    assert b"/submissions/0002.yaml\n" in after["0002.sbatch"]
    assert "compared with submissions/0002.yaml 2 values have changed" in run(*submit)[1]
    assert "compared with submissions/0003.yaml nothing has changed" in run(*submit)[1]


def test_refused_later_submission_keeps_the_run(run, login_node, slurm):
    run("submit", "tiny.yaml", "--run-dir=runs/x")
    before = kept(login_node)
    slurm.write_text("#!/bin/sh\nexit 1\n")
    assert run("submit", "tiny.yaml", "--run-dir=runs/x")[0] == 1
    assert kept(login_node) == before


def test_submission_in_the_making_is_not_taken_for_none(run, login_node, slurm):
    run("submit", "tiny.yaml", "--run-dir=runs/x")
    (login_node / "runs" / "x" / "submissions" / "0001.job").unlink()
    code, _, err = run("submit", "tiny.yaml", "--run-dir=runs/x")
    assert code == 2
    assert "submissions/0001.yaml has no job number yet" in err


def test_two_claims_of_a_directory_get_one_number(login_node, slurm, monkeypatch):
    directory = login_node / "runs" / "x"
    # As if both had listed the submissions before either wrote its own.
    monkeypatch.setattr(submissions, "list_submissions", lambda _: [])
    assert submissions.claim(directory, "first").number == 1
    with pytest.raises(UsageError, match="another hpcmarl submit is running"):
        submissions.claim(directory, "second")
    assert (directory / "submissions" / "0001.yaml").read_text() == "first"


def test_submissions_of_one_second_get_directories_of_their_own(run, login_node, slurm, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-120000")
    places = [run("submit", "tiny.yaml")[1].splitlines()[0].rpartition(" ")[2] for _ in range(3)]
    first = f"{login_node}/runs/tiny-20260101-120000"
    assert places == [first, f"{first}-2", f"{first}-3"]
    for place in places:
        script = Path(place, "submissions", "0001.sbatch").read_text()
        assert f"\nrun_dir={place}\n" in script
        assert f"#SBATCH --output={place}/slurm-%j.out\n" in script


@pytest.mark.parametrize(
    ("version", "changes", "words"),
    [
        ("mpiexec (Open MPI) 5.0.11", [], "with slurm.launcher=mpirun the run continues without that rank\n"),
        (
            "mpiexec (Open MPI) 5.0.11",
            ["topology.respawn=true"],
            "without that rank, and replaces dead actors (topology.respawn, which srun cannot)\n",
        ),
        ("mpiexec (Open MPI) 5.0.11", ["slurm.launcher=mpirun"], ""),
        ("mpiexec (Open MPI) 4.1.4", [], ""),
        ("HYDRA build details: Version: 5.0.2", [], ""),
    ],
)
def test_submit_tells_where_mpirun_serves_better(run, login_node, slurm, version, changes, words):
    program = login_node / "env" / "bin" / "mpiexec"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\necho "{version}"\n')
    program.chmod(0o755)
    code, out, err = run(
        "submit", "tiny.yaml", f"slurm.environment={login_node}/env", "--run-dir=runs/x", *changes
    )
    assert code == 0, err
    advice = [line for line in out.splitlines(keepends=True) if line.startswith("with srun a dead rank")]
    assert "".join(advice).endswith(words)
    assert bool(advice) == bool(words)
