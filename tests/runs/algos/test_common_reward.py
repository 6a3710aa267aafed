"""Whole runs in which the agents would learn from a constant mean reward."""

import pytest

from hpcmarl.errors import ConfigError
from tests.support.worlds import run_world

DUEL = """
env: {id: "tests.support.environments:Difference"}
algo: {name: ma_trace, unroll: 4, network: {hidden: [4]}}
topology: {groups: 2, environments_per_actor: 4}
trajectories: {enabled: false}
logging: {progress: false, every_seconds: 0.001}
checkpoint: {every_seconds: null}
eval: {episodes: 0}
stop: {updates: 20}
"""


@pytest.mark.parametrize(("critic", "told"), [("joint_observation", 1), ("independent", 0)])
def test_unknown_opponents_are_warned_about_once(tmp_path, caplog, critic, told):
    run_world(5, tmp_path, f"algo.critic={critic}", text=DUEL)
    found = [record.message for record in caplog.records if "learns from the mean reward" in record.message]
    assert len(found) == told
    assert all(
        "algo.critic: joint_observation" in text
        and "duellist" in text
        and text.endswith("use algo.critic: independent")
        for text in found
    )


@pytest.mark.parametrize(
    "changes",
    [("env.id=matrix:rps",), ("env.id=matrix:rps", "league.matchmaking={name: latest}")],
    ids=["run", "league"],
)
def test_known_opponents_are_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(
        ConfigError,
        match=r"critic: joint_observation learns from the mean reward .* use algo\.critic: independent$",
    ):
        run_world(1, tmp_path / "run", *changes, "topology.groups=1", text=DUEL)
    assert not (tmp_path / "run").exists()
