"""RLOO by enumeration: the expected gradient over all pairs of episodes is exact."""

import numpy as np
import pytest
from my_marl.description import RLOOConfig

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import select
from hpcmarl.config import NetworkConfig
from hpcmarl.errors import ConfigError
from tests.reference.enumeration import GAME, all_trajectories, exact_gradient
from tests.support.rollouts import make_spec

RLOO = "my_marl.description:RLOO"
DISCOUNT = 0.9


def test_expected_gradient_of_two_episodes_is_exact():
    """The game has 16 trajectories, so two independent episodes are one of 256 pairs."""
    config = RLOOConfig(name=RLOO, discount=DISCOUNT, network=NetworkConfig(hidden=(4,)))
    algorithm = make_algorithm(GAME, config, seed=0)
    algorithm.load_parameters(np.random.default_rng(1).normal(size=algorithm.size).astype(np.float32))
    rollout = all_trajectories(seed=2)
    episodes = [select(rollout, np.array([slot])) for slot in range(rollout.count)]
    probabilities = [probability(algorithm, episode) for episode in episodes]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)

    expected = sum(
        p * q * algorithm.gradient([one, other])[0]
        for p, one in zip(probabilities, episodes, strict=True)
        for q, other in zip(probabilities, episodes, strict=True)
    )

    exact = exact_gradient(algorithm, rollout, DISCOUNT)
    assert np.abs(exact).max() > 0.01
    np.testing.assert_allclose(expected, 2 * exact, atol=1e-5)


def probability(algorithm, episode):
    """Return how likely the present policy takes the actions of an episode."""
    part = episode.policies["agent"]
    observations, actions = part.obs[:-1].reshape(-1, *part.obs.shape[3:]), part.action.reshape(-1)
    chances = algorithm.action_probs("agent", observations, mask=None)
    return float(np.prod(chances[np.arange(len(actions)), actions]))


def test_turn_based_games_are_refused():
    with pytest.raises(ConfigError, match="turn-based"):
        make_algorithm(make_spec(turn_based=True), RLOOConfig(name=RLOO), seed=0)
