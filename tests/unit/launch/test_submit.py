"""`hpcmarl submit`: jobs that it refuses before they are queued, and the script for sbatch."""

import re

import pytest

from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import GroupConfig, TopologyConfig
from hpcmarl.errors import UsageError
from hpcmarl.launch.sbatch import seconds_of


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
        (["tiny.yaml", "--time=0"], "Slurm reads 0 as no limit"),
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
        (
            ["tiny.yaml", "--hetjob=1x4", "--ntasks-per-node=2", "slurm.launcher=mpirun"],
            "mpirun sees the first component only",
        ),
        (
            ["tiny.yaml", "--hetjob=1x4", "--ntasks-per-node=4"],
            "the first component has 4 ranks but the server and 1 learners need 2",
        ),
        (["tiny.yaml", "topology.groups=9", "--ntasks-per-node=8"], "topology.groups asks for 9 learners"),
        (
            ["tiny.yaml", "--nodes=2", "--ntasks-per-node=3", "topology.workers_per_actor=2"],
            "an actor and its workers must be on one host, and node 1 has 1 of the ranks of group 0",
        ),
    ],
)
def test_submit_errors_are_one_line_and_exit_with_code_2(run, login_node, arguments, words):
    code, out, err = run("submit", *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert words in err
    assert not (login_node / "runs").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("5:30", 330),
        ("1:00:00", 3600),
        ("2-3", 183600),
        ("1-02:30", 95400),
        ("1-00:00:01", 86401),
    ],
)
def test_time_limits_are_read_like_slurm_reads_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1-", "-1", "1:2:3:4", "1 ", "UNLIMITED", "١"])
def test_malformed_time_limits_are_rejected(text):
    with pytest.raises(UsageError, match="not a time limit"):
        seconds_of(text)


def test_missing_sbatch_is_reported(run, login_node):
    code, _, err = run("submit", "tiny.yaml")
    assert code == 1
    assert "no sbatch on PATH" in err
    assert not (login_node / "runs").exists()


def test_a_dry_run_prints_the_script_and_touches_nothing(run, login_node):
    code, out, err = run(
        "submit",
        "tiny.yaml",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--dry-run",
        "--sbatch=--gres=gpu:1",
        "slurm.environment=/e",
    )
    assert code == 0
    assert err == ""
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --partition=long",
        "#SBATCH --exclusive",
        "#SBATCH --gres=gpu:1",
        "environment=/e",
    ):
        assert f"\n{line}\n" in out
    assert [path.name for path in login_node.iterdir()] == ["tiny.yaml"]


def test_gpus_are_requested_for_the_learners_nodes(run, login_node):
    changes = ("slurm.gpus=2", "slurm.environment=/e", "device=cuda", "topology.groups=4")
    code, out, err = run("submit", "tiny.yaml", "--hetjob=2x4", "--ntasks-per-node=5", "--dry-run", *changes)
    assert (code, err) == (0, "")
    learners, _, actors = out.partition("#SBATCH hetjob")
    assert "\n#SBATCH --gpus-per-node=2\n" in learners
    assert "gpus" not in actors.partition("launcher=")[0]


def test_a_device_without_a_requested_gpu_is_warned_about(run, login_node):
    code, _, err = run("submit", "tiny.yaml", "--dry-run", "slurm.environment=/e", "device=cuda:0")
    assert code == 0
    assert err.splitlines()[0].startswith(
        "warning: device: cuda:0, but the job requests no GPU; set slurm.gpus"
    )


def test_heterogeneous_job_puts_actors_on_second_component(run, login_node):
    code, out, _ = run(
        "submit",
        "tiny.yaml",
        "topology.groups=3",
        "--ntasks-per-node=4",
        "--hetjob=2x8",
        "--actor-sbatch=--mem=8G",
        "--dry-run",
    )
    assert code == 0
    first, second = out.split("#SBATCH hetjob\n")
    assert "#SBATCH --ntasks-per-node=4\n" in first
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=8\n" in second
    assert "#SBATCH --mem=8G\n" in second


@pytest.mark.parametrize("shared", [True, False])
def test_placement_apart_separates_learners_from_actors(shared):
    config = TopologyConfig(
        groups=(GroupConfig(actors=2), GroupConfig(), GroupConfig()),
        placement="separate",
        server="shared" if shared else "dedicated",
    )
    learners = 3 if shared else 4
    hosts = ["gpu"] * learners + ["cpu0"] * 3 + ["cpu1"] * 3
    topology = assign_roles(len(hosts), hosts, config)
    assert [group.learner for group in topology.groups] == ([0, 1, 2] if shared else [1, 2, 3])
    assert [len(group.actors) for group in topology.groups] == [2, 2, 2]
    assert sorted(topology.actors) == list(range(learners, len(hosts)))
