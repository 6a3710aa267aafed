"""MA-Trace's gradients in the simulator.

Whole episodes replace unrolls, and a critic is optimised together with the policy.
"""

import numpy as np
import pytest

from hpcmarl.config.file import load_simulation
from hpcmarl.errors import ConfigError
from hpcmarl.sim.objectives import make_objective
from hpcmarl.sim.running import run_one
from tests.support.simulations import CARTPOLE

CRITIC = CARTPOLE.replace("name: reinforce", "name: ma_trace, entropy_cost: 0.0")


def objective_of(*changes, text=CRITIC):
    return make_objective(load_simulation(text, changes), np.random.default_rng(3))


def slices(objective):
    return {part.kind: part.place for part in objective.parts}


def test_critics_that_value_nothing_leave_reinforce_per_step():
    """With a critic of V = 0, the actor's gradient of an episode of T steps is REINFORCE's divided by T.

    This holds for lambda = 1, no discount and no entropy bonus.
    """
    objective, plain = (objective_of("objective.algo.discount=1", text=text) for text in (CRITIC, CARTPOLE))
    place = slices(objective)
    point = objective.initial()
    point[place["critic"]] = 0.0
    (rollout,) = objective._play([0], point, np.random.default_rng(1))
    objective._store([0], [rollout])
    found = objective.weighted([0], np.ones(1), point, np.random.default_rng(1))
    plain._store([0], [rollout])
    expected = plain.weighted([0], np.ones(1), point[place["actor"]], np.random.default_rng(1))
    np.testing.assert_allclose(found[place["actor"]] * rollout.steps, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found[place["critic"]]).max() > 0


def test_episodes_keep_what_ratios_and_bootstrapping_need():
    """Episodes keep the values for importance ratios and bootstrapping.

    The behaviour's log probabilities belong to the point, and a truncated episode ends with its last
    observation.
    """
    objective = objective_of("objective.env.max_steps=7")
    point = objective.initial()
    rollouts = objective._play([0, 1, 2, 0], point, np.random.default_rng(2))
    assert {rollout.steps for rollout in rollouts} == {7}
    for rollout in rollouts:
        part = rollout.policies["agent_0"]
        assert part.logp.shape == part.reward.shape
        assert (part.logp < 0).all()
        assert rollout.final_index.tolist() == [[6, 0]]
        assert part.final_obs.shape == (1, *part.obs.shape[2:])
        assert not np.array_equal(part.final_obs[0], part.obs[6, 0])
    gradient, statistics = objective.algorithm.gradient(rollouts)
    assert statistics["mean_rho"] == pytest.approx(1.0, abs=1e-4)
    assert np.isfinite(gradient).all()


def test_terminated_episodes_keep_no_last_observation():
    objective = objective_of()
    for rollout in objective._play([0, 1, 2], objective.initial(), np.random.default_rng(2)):
        assert rollout.final_index.shape == (0, 2)
        assert len(rollout.policies["agent_0"].final_obs) == 0


@pytest.mark.parametrize("rule", ["rennala", "afedpg"])
def test_a_seed_repeats_a_simulation_with_a_critic(rule):
    config = load_simulation(CRITIC, [f"rounds={{rule: {rule}}}", "optimizer.critic_step_size=0.2"])
    first, again = run_one(config, 4), run_one(config, 4)
    np.testing.assert_array_equal(first.course["parameter_mean"], again.course["parameter_mean"])
    assert first.figures["rounds"] == 3


@pytest.mark.parametrize(
    ("text", "change", "words"),
    [
        (
            CRITIC,
            "objective.algo.critic=state",
            "objective.algo.critic is 'state'; allowed: one of joint_obs",
        ),
        (
            CRITIC,
            "objective.algo.critic_network={hidden: [8], body: gru}",
            "critic_network.body: gru needs the critics' memory",
        ),
        (
            CARTPOLE,
            "optimizer.critic_step_size=0.1",
            "critic_step_size: 0.1 is for critics, which objective.algo.name: reinforce does not have",
        ),
    ],
)
def test_simulations_reject_what_their_critics_lack(text, change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        load_simulation(text, [change])
    assert "\n" not in str(caught.value)
