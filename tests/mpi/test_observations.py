"""Dictionaries as observations on real ranks: workers, files, and the message about a wrong entry."""

import sys

from hpcmarl.io.trajectories.shard_reader import list_shards, verify_shard
from tests.support.launch import ranks_take_seconds, run

TEXT = """
env: {id: "tests.support.observations:Seeing"}
algo: {name: ppo, unroll: 4, minibatches: 1, network: {hidden: [8], encoder: flat}}
topology: {environments_per_actor: 4, workers_per_actor: 1}
eval: {episodes: 4}
stop: {updates: 3}
"""


@ranks_take_seconds
def test_ranks_train_on_dictionaries_and_name_a_wrong_entry(tmp_path):
    (tmp_path / "run.yaml").write_text(TEXT)
    command = [sys.executable, "-m", "hpcmarl", "train", str(tmp_path / "run.yaml"), "-n", "3", "--run-dir"]
    job = run([*command, str(tmp_path / "good")])
    assert job.code == 0, job.text
    (shard,) = list_shards(tmp_path / "good")
    verify_shard(shard)
    job = run([*command, str(tmp_path / "bad"), "env.kwargs={fault: range}"])
    assert job.code != 0
    assert "agent b observes at key image the number" in job.text
    assert not job.orphans
