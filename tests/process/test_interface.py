"""`hpcmarl.train` and policies in processes of their own."""

import subprocess
import sys

import pytest

import hpcmarl
from hpcmarl.errors import ConfigError, HpcmarlError

CONFIG = {
    "env": {"id": "mpe2.simple_spread_v3", "kwargs": {"max_cycles": 5}},
    "algo": {"name": "ma_trace", "unroll": 5, "network": {"hidden": [8]}},
    "topology": {"environments_per_actor": 2},
    "eval": {"episodes": 0},
    "stop": {"updates": 3},
}
PLAY = """
import sys
import hpcmarl

policy = hpcmarl.load_policy(sys.argv[1])
environment = hpcmarl.make_env("mpe2.simple_spread_v3", max_cycles=5)
observations, _ = environment.reset(seed=0)
while environment.agents:
    observations, *_ = environment.step(policy.act(observations))
assert not {"torch", "mpi4py", "h5netcdf"} & set(sys.modules), "too much is imported"
"""


@pytest.mark.mpi
def test_train_starts_ranks_and_opens_the_run(tmp_path, capfd):
    run = hpcmarl.train(CONFIG, ranks=2, run_dir=tmp_path / "run", overrides={"stop.updates": 4}, quiet=True)
    assert run.path == tmp_path / "run"
    assert run.state.state == "finished"
    assert run.summary["updates"] == 4
    assert run.summary["ranks"] == 2
    assert capfd.readouterr().err == ""
    subprocess.run([sys.executable, "-c", PLAY, str(run.path)], check=True)
    longer = hpcmarl.train(resume=run.path, overrides={"stop.updates": 5})
    assert longer.path == run.path
    assert longer.summary["updates"] == 5
    assert "5 updates" in capfd.readouterr().err
    assert hpcmarl.evaluate(longer, episodes=4)["episodes"] == 4


def test_train_raises_the_line_of_a_wrong_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key stop\.update"):
        hpcmarl.train({**CONFIG, "stop": {"update": 3}}, run_dir=tmp_path / "run", quiet=True)


def test_train_raises_when_the_training_fails(tmp_path):
    with pytest.raises(HpcmarlError, match=r"injected fault: faults\.raise_in actor"):
        hpcmarl.train(CONFIG, run_dir=tmp_path / "run", overrides={"faults.raise_in": "actor"}, quiet=True)
    failed = hpcmarl.Run(tmp_path / "run")
    assert failed.state.state == "failed"
    assert "injected fault" in failed.summary["error"]
