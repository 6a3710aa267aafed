"""The limit of all returns, which every learner with a critic reports beside its values."""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.value_limit import ValueLimit
from hpcmarl.config import COMAConfig, MATraceConfig, NetworkConfig, PPOConfig
from tests.support.rollouts import DISCRETE, make_spec, random_rollout

CONFIGS = {"ma_trace": MATraceConfig, "ppo": PPOConfig, "coma": COMAConfig}


def test_value_limit_uses_the_largest_absolute_reward():
    limit = ValueLimit(make_spec(), 0.9)
    assert limit.statistics() == {}
    for rewards, told in (([0.0, 0.0], None), ([0.1, -0.5], 5.0), ([0.2], 5.0), ([], 5.0), ([3.0], 30.0)):
        limit.see(np.array(rewards, np.float32))
        assert limit.statistics() == ({} if told is None else {"value_limit": pytest.approx(told)})
    limit.see(np.array([9.0]), np.array([False]))
    assert limit.statistics() == {"value_limit": pytest.approx(30.0)}


def test_value_limit_is_absent_without_discounting():
    limit = ValueLimit(make_spec(), 1.0)
    limit.see(np.ones(3))
    assert limit.statistics() == {}


def test_value_limit_counts_all_turns_between_decisions():
    limit = ValueLimit(make_spec(agents=4, turn_based=True), 0.5)
    limit.see(np.ones(3))
    assert limit.statistics() == {"value_limit": 8.0}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("critic", ["joint_observation", "independent"])
def test_actor_critics_report_value_limit_and_mean_value(name, critic):
    spec = make_spec(action=DISCRETE)
    keys = {"network": NetworkConfig(hidden=(4,)), "discount": 0.9, "reward_scale": 0.5}
    algorithm = make_algorithm(
        spec, CONFIGS[name](**keys, **({} if name == "coma" else {"critic": critic})), 0
    )
    rollout = random_rollout(spec, 5, 2, np.random.default_rng(0))
    statistics = algorithm.gradient([rollout])[1]
    reward = rollout.policies["agent"].reward
    team = name == "coma" or critic == "joint_observation"
    assert statistics["value_limit"] == pytest.approx(
        0.5 * np.abs(reward.mean(-1) if team else reward).max() / 0.1, rel=1e-5
    )
    algorithm.load_parameters(np.zeros(algorithm.size, np.float32))
    assert algorithm.gradient([rollout])[1]["value"] == 0.0
    assert statistics["value"] != 0.0
