"""Prioritised draws and importance weights, compared with closed forms.

Draws are also compared with a literal walk through the sums. Other tests use priorities in a replay.
"""

import numpy as np
import pytest

from hpcmarl.algos.replayed import EpisodeErrors
from hpcmarl.config import PriorityConfig
from hpcmarl.roles.learner.priorities import SMALLEST, UNKNOWN, Priorities, normalised

ERRORS = [0.5, 2.0, 0.0, 1.0, 4.0]


def make(errors=ERRORS, **keys):
    priorities = Priorities(PriorityConfig(**keys))
    for error in errors:
        priorities.add(error)
    return priorities


def chances(errors, alpha):
    each = (np.array(errors) + SMALLEST) ** alpha
    return each / each.sum()


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_episodes_are_drawn_in_proportion_to_their_priorities(alpha):
    priorities, generator = make(alpha=alpha), np.random.default_rng(0)
    counts = sum(np.bincount(priorities.draw(8, generator), minlength=5) for _ in range(2000)) / (8 * 2000)
    wanted = chances(ERRORS, alpha)
    assert np.abs(counts - wanted).max() < 5 * np.sqrt(0.25 / 16000)


def test_stratified_draws_stay_close_to_their_mean():
    """Each of 30 equal parts of the summed priorities gives one draw: each count is off by less than 2."""
    priorities, generator = make(alpha=1.0), np.random.default_rng(1)
    mean = 30 * chances(ERRORS, 1.0)
    for _ in range(200):
        drawn = priorities.draw(30, generator)
        counts = np.bincount(drawn, minlength=5)
        assert (np.abs(counts - mean) < 2).all()
        assert (np.diff(drawn) >= 0).all()


def test_draws_equal_a_literal_walk_through_the_sums():
    priorities = make(np.random.default_rng(2).random(40).tolist(), alpha=0.7)
    each = [(error + SMALLEST) ** 0.7 for error in priorities.errors]
    random, found = np.random.default_rng(3).random(12), priorities.draw(12, np.random.default_rng(3))
    for k, index in enumerate(found):
        place, passed = (k + random[k]) / 12 * sum(each), 0
        while place >= each[passed]:
            place -= each[passed]
            passed += 1
        assert index == passed


@pytest.mark.parametrize(("env_steps", "beta"), [(0, 0.4), (50, 0.7), (100, 1.0), (1000, 1.0)])
def test_importance_weights_have_their_closed_form(env_steps, beta):
    priorities = make(alpha=0.6, beta=0.4, beta_steps=100)
    drawn = np.array([0, 3, 4, 4])
    wanted = (5 * chances(ERRORS, 0.6)[drawn]) ** -beta
    found = priorities.weights(drawn, env_steps)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_allclose(normalised(found), wanted / wanted.max(), rtol=1e-6)
    assert normalised(found).dtype == np.float32


def test_full_correction_makes_draws_count_as_if_all_were_alike():
    """At beta 1 all episodes have the same mean weight in a gradient.

    The mean weight is the chance of a draw times the importance weight.
    """
    priorities = make([0.5, 2.0, 0.3, 1.0], alpha=0.6, beta=1.0)
    every = np.arange(4)
    np.testing.assert_allclose(
        chances(priorities.errors, 0.6) * priorities.weights(every, 0), np.full(4, 0.25), rtol=1e-6
    )


def test_new_episodes_have_the_largest_error_of_those_kept():
    priorities = make([])
    priorities.add()
    assert list(priorities.errors) == [UNKNOWN]
    priorities = make()
    priorities.add()
    assert priorities.errors[-1] == 4.0
    for _ in range(6):
        priorities.forget_oldest()
    priorities.add()
    assert list(priorities.errors) == [UNKNOWN]


@pytest.mark.parametrize("share", [0.0, 0.9, 1.0])
def test_errors_follow_their_episodes_when_older_ones_leave(share):
    priorities = make(max_share=share)
    numbers = priorities.numbers(np.array([0, 2, 4, 4]))
    for _ in range(2):
        priorities.forget_oldest()
    priorities.add(9.0)
    largest, mean = np.array([7.0, 3.0, 8.0, 8.0]), np.array([1.0, 2.0, 5.0, 5.0])
    priorities.learn(numbers, EpisodeErrors(largest, mean))
    mixed = share * largest + (1 - share) * mean
    np.testing.assert_allclose(list(priorities.errors), [mixed[1], 1.0, mixed[2], 9.0])
