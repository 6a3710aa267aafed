"""Whole runs of MA-Trace with teams and with deaths.

The cases are a team of two policies, deaths in a game with a common reward, and unknown teams.
"""

import numpy as np
import pytest

from hpcmarl.errors import ConfigError
from tests.support.worlds import final_parameters, run_world, summary

LISTENER = ("env.id=mpe2.simple_speaker_listener_v4", "env.common_reward=true")
FADING = (
    "env={id: 'tests.support.environments:Fading', common_reward: true}",
    "policies={a: {agents: [agent_0]}, b: {agents: [agent_1]}}",
)


@pytest.mark.parametrize(
    "changes",
    [LISTENER, FADING, (*FADING, "env.common_reward=false", "algo.teams=[[a, b]]")],
    ids=["listener", "deaths", "named"],
)
def test_team_of_two_policies_resumes_exactly(tmp_path, changes):
    keys = (*changes, "deterministic=true", "rounds.rule=sync")
    run_world(4, tmp_path / "whole", *keys, "stop.updates=6")
    run_world(4, tmp_path / "half", *keys, "stop.updates=3", order=7)
    run_world(4, tmp_path / "half", *keys, "stop.updates=6", resume=str(tmp_path / "half"), order=8)
    np.testing.assert_array_equal(final_parameters(tmp_path / "whole"), final_parameters(tmp_path / "half"))


def test_common_reward_is_what_a_run_reports(tmp_path):
    """Each of four steps earns 1; one of the two agents leaves after the second."""
    for common, wanted in (("true", 4.0), ("false", 3.0)):
        run_world(1, tmp_path / common, FADING[0], f"env.common_reward={common}", "eval.episodes=3")
        assert summary(tmp_path / common)["eval_return_mean"] == wanted


def test_unknown_team_ends_the_run_before_it_begins(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"algo\.teams: .* has no policy prey; allowed: speaker_0, listener_0",
    ):
        run_world(1, tmp_path, *LISTENER, "algo.teams=[[speaker_0, prey]]")
