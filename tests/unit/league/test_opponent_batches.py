"""Replies of opponents to several environments of an actor in one batch."""

from collections import Counter
from types import SimpleNamespace

import numpy as np

from hpcmarl.algos import make_model
from hpcmarl.config import EnvConfig, MATraceConfig, NetworkConfig, PolicyConfig
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.io.pool import Pool, write_snapshot
from hpcmarl.league.runtime.opponent_env import OpponentEnv, Sides, side_of
from hpcmarl.league.runtime.opponents import Opponents
from hpcmarl.types import Frame, PolicyFrame

TAG = EnvConfig(id="mpe2.simple_tag_v3", kwargs={"max_cycles": 6})
POLICIES = {"predators": PolicyConfig(agents=("adversary_*",)), "prey": PolicyConfig(agents=("agent_*",))}
SIDES = Sides(("predators",), ("prey",))
NAMES = ("other-000001", "other-000002")


class Counting:
    """Opponents whose policies note the number of slots of each forward pass."""

    def __init__(self, opponents):
        self.opponents, self.passes = opponents, []

    def __getattr__(self, name):
        return getattr(self.opponents, name)

    def policy(self, name):
        policy = self.opponents.policy(name)
        return SimpleNamespace(
            initial_memory=policy.initial_memory,
            act=lambda frame, *rest, **keys: (
                self.passes.append((name, len(frame.episode_start))) or policy.act(frame, *rest, **keys)
            ),
        )


def make_two(tmp_path):
    """Return two environments of 3 and 2 slots with the same opponents, the own policy and the opponents."""
    spec = describe(TAG, POLICIES)
    algo = MATraceConfig(critic="independent", network=NetworkConfig(hidden=(8,), body="mlp"))
    prey = side_of(spec, SIDES.other)
    for seed, name in enumerate(NAMES, 1):
        write_snapshot(tmp_path, name, make_model(prey, algo, seed).initial_parameters(), {})
    opponents = Opponents(
        Pool(tmp_path, 4), lambda: make_model(prey, algo, 0), np.random.default_rng(0), at_once=2, stay=2
    )
    opponents.change(NAMES, np.full(2, 0.5), 0.0)
    counting, generator = Counting(opponents), np.random.default_rng(1)
    both = [
        OpponentEnv(
            make_environment(TAG, POLICIES, slots, Seeds(slots)),
            SIDES,
            counting,
            lambda own, other: float(own > other),
            generator,
            greedy=True,
        )
        for slots in (3, 2)
    ]
    return both, make_model(side_of(spec, SIDES.own), algo, 9), counting


def test_each_opponent_replies_to_several_environments_at_once(tmp_path):
    both, own, opponents = make_two(tmp_path)
    frames = [new_frame(one.spec, one.slots) for one in both]
    for one, frame in zip(both, frames, strict=True):
        one.reset(frame)
    for _ in range(8):
        opponents.passes.clear()
        both[0].prepare(both)
        assert sorted(opponents.passes) == sorted(Counter([*both[0].who, *both[1].who]).items())
        for one, frame in zip(both, frames, strict=True):
            for slot, name in enumerate(one.who):
                part = one.frame.policies["prey"]
                seen = PolicyFrame(part.obs[[slot]], part.alive[[slot]], None)
                turn = Frame({"prey": seen}, None, frame.episode_start[[slot]])
                alone = opponents.opponents.policy(name).act(turn, {}, one.generator, greedy=True)
                np.testing.assert_array_equal(one.replies["prey"][[slot]], alone["prey"].action)
            decisions, passes = own.act(frame, {}, one.generator), len(opponents.passes)
            actions = {name: decision.action for name, decision in decisions.items()}
            one.step(actions, new_outcome(one.spec, one.slots), frame)
            assert len(opponents.passes) == passes


def test_opponents_do_not_reply_in_resting_slots(tmp_path):
    (one, _), _, opponents = make_two(tmp_path)
    one.reset(new_frame(one.spec, one.slots))
    one.rest_slots([0, 2])
    one.prepare([one])
    assert opponents.passes == [(one.who[1], 1)]
