"""`hpcmarl submit` with a stand-in for sbatch."""

import pytest

from hpcmarl.config.file import load_config

SBATCH = """#!/bin/sh
# stands for sbatch: keeps what it is given
number=$(($(ls "{login_node}" | grep -c '^call') + 1))
echo "$@" > "{login_node}/call$number"
cat > "{login_node}/script$number"
echo "4$number;cluster"
"""


@pytest.fixture
def slurm(login_node, monkeypatch):
    """An sbatch that answers."""
    program = login_node / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(SBATCH.format(login_node=program.parent))
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    return program


def test_rejected_submission_quotes_sbatch_and_leaves_nothing(run, login_node, slurm):
    slurm.write_text("#!/bin/sh\necho 'sbatch: error: Invalid qos specification' >&2\nexit 1\n")
    code, _, err = run("submit", "tiny.yaml", "--run-dir", "runs/x")
    assert code == 1
    assert "error: sbatch refused the job (exit code 1) and said: sbatch: error: Invalid qos specification\n" in err
    assert not (login_node / "runs" / "x").exists()


def test_submitted_script_and_configuration_are_kept(run, login_node, slurm):
    code, out, _ = run("submit", "tiny.yaml", "rounds.rule=rennala", "--partition=short", "--run-dir=runs/x", "--depend-verify", "--seeds=2")
    assert code == 0
    assert out.startswith(f"job 41, run directory {login_node}/runs/x\njob 42 verifies it afterwards")
    kept = load_config(login_node / "runs" / "x" / "submitted.yaml")
    assert (kept.rounds.rule, kept.slurm.partition) == ("rennala", "short")
    script = (login_node / "runs" / "x" / "job.sbatch").read_text()
    assert script == (slurm.parent / "script1").read_text()
    assert "#SBATCH --array=3-4\n" in script
    assert f"\nconfig={login_node}/runs/x/submitted.yaml\n" in script
    assert (slurm.parent / "call2").read_text() == "--parsable --dependency=afterok:41 --kill-on-invalid-dep=yes\n"
    assert f"\nrun_dir={login_node}/runs/x\n" in (slurm.parent / "script2").read_text()


def test_submitted_configuration_has_the_values_of_a_preset(run, login_node, slurm):
    assert run("submit", "preset=qmix", "env.id=a.b", "stop.updates=3", "--run-dir=runs/x")[0] == 0
    submitted = login_node / "runs" / "x" / "submitted.yaml"
    assert load_config(submitted) == load_config(None, ["preset=qmix", "env.id=a.b", "stop.updates=3"])
    assert "preset" not in submitted.read_text()
