"""Observations of all types in rollout messages and in the memory that workers share with their actor."""

import numpy as np
import pytest

from hpcmarl.roles.learner.replay_file import check_episode
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.exchange import Exchange, ExchangePlan
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import EnvironmentSpec, fields_of
from tests.support.rollouts import make_spec, observing_spec, random_observations, random_rollout

SPEC = observing_spec()


def assert_same(one, other):
    """Assert that observations are equal, entry by entry."""
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    for key, part in fields_of(one).items():
        np.testing.assert_array_equal(part, fields_of(other)[key])


def test_messages_hold_observations_in_their_types():
    codec = RolloutCodec(SPEC)
    rollout = random_rollout(SPEC, 9, 3, np.random.default_rng(0), end_rate=0.4)
    message = codec.pack(rollout)
    opened = codec.read(message, rollout.version)
    for name, part in rollout.policies.items():
        assert_same(opened.policies[name].obs, part.obs)
        assert_same(opened.policies[name].final_obs, part.final_obs)
    assert len(rollout.final_index) > 0


def test_messages_of_one_slot_are_read_together():
    codec = RolloutCodec(SPEC)
    generator = np.random.default_rng(1)
    rollouts = [random_rollout(SPEC, 6, 1, generator, end_rate=0.5) for _ in range(3)]
    (joined,) = codec.read_together([codec.open(codec.pack(rollout)) for rollout in rollouts])
    for name in ("eyes", "camera"):
        parts = [rollout.policies[name] for rollout in rollouts]
        assert_same(joined.policies[name].obs, np.concatenate([part.obs for part in parts], 1))
        assert_same(joined.policies[name].final_obs, np.concatenate([part.final_obs for part in parts]))


def test_an_unroll_begins_with_the_last_frame_of_another():
    layout = RolloutCodec(SPEC).layout(4, 2)
    one, other = RolloutArena(layout), RolloutArena(layout)
    generator = np.random.default_rng(2)
    for policy in SPEC.policies:
        one.arrays[f"{policy.name}/obs"][4] = random_observations(policy, (2, len(policy.agents)), generator)
    other.begin_after(one)
    for policy in SPEC.policies:
        assert_same(other.frames[0].policies[policy.name].obs, one.frames[4].policies[policy.name].obs)


def test_an_image_takes_a_quarter_of_the_bytes_of_float32():
    (camera,) = (policy for policy in SPEC.policies if policy.name == "camera")
    images = make_spec(camera, state_size=None)
    tree = images.tree()
    tree["policies"][0]["observation_type"] = "float32"
    numbers = EnvironmentSpec.of_tree(tree)
    sizes = [RolloutCodec(spec).layout(10, 4)._fields["camera/obs"][1].itemsize for spec in (images, numbers)]
    assert 4 * sizes[0] == sizes[1] == 4 * 11 * 4 * 30


def test_workers_and_actor_share_records():
    seen = EnvironmentSpec(SPEC.id, SPEC.policies[1:], SPEC.state_size, False)
    plan = ExchangePlan(RolloutCodec(seen), SPEC, steps=3, slots=4, workers=2, arenas=2, together=False)
    memory = np.zeros(plan.size(), np.uint8)
    worker, actor = Exchange(plan, memory), Exchange(plan, memory)
    generator = np.random.default_rng(3)
    for policy in SPEC.policies:
        half = worker.halves[1]
        given = random_observations(policy, (half.plan.slots, len(policy.agents)), generator)
        half.frame(1, 2).policies[policy.name].obs[...] = given
        assert_same(actor.halves[1].frame(1, 2).policies[policy.name].obs, given)


def test_stored_episodes_are_checked_in_their_float_entries():
    generator = np.random.default_rng(4)
    episode = random_rollout(SPEC, 5, 1, generator, end_rate=0.0)
    episode.episode_end[-1], episode.final_index = 1, np.zeros((0, 2), np.int32)
    check_episode(episode, SPEC)
    episode.policies["eyes"].obs["place"][2, 0, 1, 0] = np.nan
    with pytest.raises(ValueError, match="non-finite values of eyes"):
        check_episode(episode, SPEC)
