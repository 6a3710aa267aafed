"""Slots that rest after an episode: no reset is lost and no episode is left out.

Every kind of environment is tested.
"""

import numpy as np
import pytest

from hpcmarl.config import EnvConfig
from hpcmarl.envs import Seeds, make_environment, new_frame, new_outcome
from hpcmarl.roles.evaluator import random_actions

ENVIRONMENTS = [
    ("matrix:rps", {"rounds": 3}, "numpy"),
    ("pettingzoo.classic.tictactoe_v3", {}, "pygame"),
    ("openspiel:kuhn_poker", {}, "pyspiel"),
    ("tests.support.environments:Crowd", {}, "pettingzoo"),
    ("tests.support.environments:Duel", {}, "pettingzoo"),
    pytest.param("smax:3m", {}, "jaxmarl", marks=pytest.mark.slow("compiles a game")),
]


class Slots:
    """Three slots that play random actions, always with the same random numbers."""

    def __init__(self, name, kwargs):
        self.environment = make_environment(EnvConfig(id=name, kwargs=kwargs), {}, 3, Seeds(5))
        self.frame, self.outcome = new_frame(self.environment.spec, 3), new_outcome(self.environment.spec, 3)
        self.environment.reset(self.frame)
        self.steps = 0

    def step(self):
        generator = np.random.default_rng(self.steps)
        self.steps += 1
        actions = {}
        for policy in self.environment.spec.policies:
            mask = self.frame.policies[policy.name].action_mask
            actions[policy.name] = random_actions(policy.action, (3, len(policy.agents)), mask, generator)
        self.environment.step(actions, self.outcome, self.frame)

    def until_first_end(self):
        while not self.outcome.episode_end[0]:
            self.step()

    def alive(self, slot):
        return any(part.alive[slot].any() for part in self.frame.policies.values())

    def seen(self, slot):
        return {name: part.obs[slot].copy() for name, part in self.frame.policies.items()}


@pytest.mark.parametrize(("name", "kwargs", "needs"), ENVIRONMENTS)
def test_slot_rests_after_its_episode_and_loses_none(name, kwargs, needs):
    pytest.importorskip(needs)
    going_on, resting = Slots(name, kwargs), Slots(name, kwargs)
    resting.environment.rests_next[0] = True
    going_on.until_first_end()
    resting.until_first_end()
    assert (going_on.alive(0), resting.alive(0)) == (True, False)
    assert [episode.index for episode in resting.outcome.episodes if episode.slot == 0] == [0]
    wanted = going_on.seen(0)
    for _ in range(4):
        resting.step()
        assert not resting.alive(0)
        assert not resting.outcome.episode_end[0]
    assert resting.environment.episode_index[0] == 0
    resting.environment.rests_next[0] = False
    resting.environment.restart_slots([0], resting.frame)
    assert (resting.environment.episode_index[0], resting.environment.episode_step[0], resting.alive(0)) == (
        1,
        0,
        True,
    )
    for policy, obs in wanted.items():
        np.testing.assert_array_equal(resting.seen(0)[policy], obs)
