"""The environment in words, for the doctor and config check --env."""

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import describe
from hpcmarl.envs.summary import describe_policy, describe_state, uncovered_remark

TAG = EnvConfig(id="mpe2.simple_tag_v3")


def test_policies_and_state_are_described_with_masks():
    adversary, _ = describe(TAG, {}).policies
    assert describe_policy(adversary) == (
        "3 agents (adversary_0, adversary_1, adversary_2), observations 16, actions discrete 5, "
        "no action masks"
    )
    assert describe_state(describe(TAG, {})).startswith("62 numbers")
    board = describe(EnvConfig(id="pettingzoo.classic.tictactoe_v3"), {})
    words = "observations 3x3x2 int8, actions discrete 9, with action masks"
    assert describe_policy(board.policies[0]).endswith(words)
    assert describe_state(board).startswith("none")


def test_agents_without_a_pattern_are_named():
    one = {"good": PolicyConfig(agents=("agent_*",))}
    remark = uncovered_remark(describe(TAG, one), one)
    assert "covers adversary_0, adversary_1, adversary_2 (policy adversary);" in remark
    assert not uncovered_remark(describe(TAG, {}), {})
    both = one | {"chasers": PolicyConfig(agents=("adversary_*",))}
    assert not uncovered_remark(describe(TAG, both), both)
