"""hpcmarl submit: what is refused before it waits in a queue, what sbatch is given, what it answers."""

import re
import sys

import pytest

from hpcmarl import cli
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import GroupConfig, TopologyConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import UsageError
from hpcmarl.launch.sbatch import seconds_of

CONFIG = "name: tiny\nseed: 3\nenv: {id: a.b}\nstop: {updates: 3}\nslurm: {partition: long, options: [--exclusive]}\n"
SBATCH = """#!/bin/sh
# stands for sbatch: keeps what it is given
number=$(($(ls "{here}" | grep -c '^call') + 1))
echo "$@" > "{here}/call$number"
cat > "{here}/script$number"
echo "4$number;cluster"
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with tiny.yaml, and no Slurm."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: None)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def slurm(here, monkeypatch):
    """An sbatch that answers."""
    program = here / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(SBATCH.format(here=program.parent))
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    return program


@pytest.fixture
def submit(capsys, monkeypatch):
    """`hpcmarl submit ...`; returns (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["hpcmarl", "submit", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.yaml"], "none.yaml: no such file"),
        (["tiny.yaml", "stop.updates=0"], "stop.updates is 0"),
        (["tiny.yaml", "slurm.acount=x"], "did you mean slurm.account?"),
        (["tiny.yaml", "slurm.launcher=mpiexec"], "one of srun, mpirun"),
        (["tiny.yaml", "--account", "a\nb"], "slurm.account is"),
        (["tiny.yaml", "--time=1:2:3:4"], "--time 1:2:3:4: not a time limit; allowed: MINUTES"),
        (["tiny.yaml", "--time=four"], "--time four: not a time limit"),
        (["tiny.yaml", "--time=0"], "no time at all"),
        (["tiny.yaml", "--time=2"], "no longer than slurm.signal_seconds 120"),
        (["tiny.yaml", "--seeds=2", "seed=5"], "with a fixed seed"),
        (["tiny.yaml", "--seeds=2", "--hetjob=1x2"], "no arrays of heterogeneous jobs"),
        (["tiny.yaml", "--sbatch=--partitoin=x"], "did you mean --partition?"),
        (["tiny.yaml", "--sbatch=--nodes=2"], "hpcmarl sets --nodes itself"),
        (["tiny.yaml", "--sbatch=-N2"], "write a long option"),
        (["tiny.yaml", "slurm.options=[--exclusiv]"], "slurm.options --exclusiv: sbatch has no option"),
        (["tiny.yaml", "--sbatch=--comment='"], "quotes, backslashes"),
        (["tiny.yaml", "--run-dir=it's"], "quotes, backslashes"),
        (["tiny.yaml", "--actor-sbatch=--gres=gpu:1"], "--actor-sbatch needs --hetjob"),
        (["tiny.yaml", "--hetjob=4"], "write NODESxTASKS"),
        (["tiny.yaml", "--hetjob=0x4"], "write NODESxTASKS"),
        (["tiny.yaml", "--hetjob=1x4", "--ntasks-per-node=2", "slurm.launcher=mpirun"], "mpirun sees the first component only"),
        (["tiny.yaml", "--hetjob=1x4", "--ntasks-per-node=4"], "the first component has 4 ranks but the server and 1 learners take 2"),
        (["tiny.yaml", "topology.groups=9", "--ntasks-per-node=8"], "topology.groups asks for 9 learners"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(submit, here, arguments, words):
    code, out, err = submit(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert words in err
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("2-3", 183600), ("1-02:30", 95400), ("1-00:00:01", 86401)]
)
def test_time_limits_are_read_like_slurm_reads_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1-", "-1", "1:2:3:4", "1 ", "UNLIMITED", "١"])
def test_other_time_limits_are_refused(text):
    with pytest.raises(UsageError, match="not a time limit"):
        seconds_of(text)


def test_no_slurm_here(submit, here):
    code, _, err = submit("tiny.yaml")
    assert code == 1
    assert "no sbatch on PATH" in err
    assert not (here / "runs").exists()


def test_sbatch_that_refuses_is_quoted_and_nothing_stays(submit, here, slurm):
    slurm.write_text("#!/bin/sh\necho 'sbatch: error: Invalid qos specification' >&2\nexit 1\n")
    code, _, err = submit("tiny.yaml", "--run-dir", "runs/x")
    assert code == 1
    assert "error: sbatch refused the job (exit code 1) and said: sbatch: error: Invalid qos specification\n" in err
    assert not (here / "runs" / "x").exists()


def test_a_dry_run_prints_the_script_and_touches_nothing(submit, here):
    code, out, err = submit("tiny.yaml", "--nodes=2", "--ntasks-per-node=4", "--dry-run", "--sbatch=--gres=gpu:1", "slurm.environment=/e")
    assert (code, err) == (0, "")
    for line in ("#SBATCH --nodes=2", "#SBATCH --partition=long", "#SBATCH --exclusive", "#SBATCH --gres=gpu:1", "environment=/e"):
        assert f"\n{line}\n" in out
    assert [path.name for path in here.iterdir()] == ["tiny.yaml"]


def test_what_is_submitted_is_kept_with_the_configuration_as_it_was(submit, here, slurm):
    code, out, _ = submit("tiny.yaml", "rounds.rule=rennala", "--partition=short", "--run-dir=runs/x", "--depend-verify", "--seeds=2")
    assert code == 0
    assert out.startswith(f"job 41, run directory {here}/runs/x\njob 42 verifies it afterwards")
    kept = load_config(here / "runs" / "x" / "submitted.yaml")
    assert (kept.rounds.rule, kept.slurm.partition) == ("rennala", "short")
    script = (here / "runs" / "x" / "job.sbatch").read_text()
    assert script == (slurm.parent / "script1").read_text()
    assert "#SBATCH --array=3-4\n" in script
    assert f"\nconfig={here}/runs/x/submitted.yaml\n" in script
    assert (slurm.parent / "call2").read_text() == "--parsable --dependency=afterok:41 --kill-on-invalid-dep=yes\n"
    assert f"\nrun_dir={here}/runs/x\n" in (slurm.parent / "script2").read_text()


def test_a_heterogeneous_job_has_its_actors_on_the_second_component(submit, here):
    code, out, _ = submit("tiny.yaml", "topology.groups=3", "--ntasks-per-node=4", "--hetjob=2x8", "--actor-sbatch=--mem=8G", "--dry-run")
    assert code == 0
    first, second = out.split("#SBATCH hetjob\n")
    assert "#SBATCH --ntasks-per-node=4\n" in first
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n" in second
    assert "#SBATCH --mem=8G\n" in second


@pytest.mark.parametrize("shared", [True, False])
def test_learners_apart_from_actors(shared):
    config = TopologyConfig(
        groups=(GroupConfig(actors=2), GroupConfig(), GroupConfig()), placement="apart", server="shared" if shared else "dedicated"
    )
    learners = 3 if shared else 4
    hosts = ["gpu"] * learners + ["cpu0"] * 3 + ["cpu1"] * 3
    topology = assign_roles(len(hosts), hosts, config)
    assert [group.learner for group in topology.groups] == ([0, 1, 2] if shared else [1, 2, 3])
    assert [len(group.actors) for group in topology.groups] == [2, 2, 2]
    assert sorted(topology.actors) == list(range(learners, len(hosts)))
