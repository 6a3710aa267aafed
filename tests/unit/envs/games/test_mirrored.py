"""The mirrored environment of the Malenia experiment."""

import numpy as np
import pytest

from hpcmarl.envs.games.mirrored import make


@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_observations_are_negated_and_say_so(mirrored):
    plain, seen = make("CartPole-v1"), make("CartPole-v1", mirrored=mirrored)
    own, other = plain.reset(seed=3)[0], seen.reset(seed=3)[0]
    for action in (0, 1, 1):
        np.testing.assert_array_equal(other, np.append((-1 if mirrored else 1) * own[:-1], float(mirrored)))
        assert other in seen.observation_space
        (own, *told), (other, *again) = plain.step(action), seen.step(action)
        assert told[:3] == again[:3]


def test_arguments_reach_the_environment():
    assert make("CartPole-v1", sutton_barto_reward=True).unwrapped._sutton_barto_reward
