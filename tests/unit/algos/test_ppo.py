"""PPO against a literal implementation, parts of rollouts, and batches with several passes."""

from types import SimpleNamespace

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import evaluate, join, select
from hpcmarl.comm.topology import Group
from hpcmarl.config import MATraceConfig, MinibatchPasses, NetworkConfig, PPOConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.optim.rounds import make_rule
from hpcmarl.optim.rounds.base import Accept
from hpcmarl.roles.learner.minibatches import MinibatchSampler
from tests.reference.ppo import literal_gradient
from tests.support.algorithms import TEAM_AND_PREY, TURNS, outlived_rows, rollouts_of
from tests.support.contexts import make_context
from tests.support.rollouts import CONTINUOUS, MULTI_DISCRETE, make_spec, random_rollout
from tests.support.worlds import SPREAD


def make(spec, *, algorithm=PPOConfig, **keys):
    """Return PPO with random parameters; the ratios lie on both sides of both clips."""
    config = algorithm(
        **{
            "network": NetworkConfig(hidden=(5,)),
            "discount": 0.9,
            "trace_lambda": 0.8,
            "entropy_cost": 0.1,
            **keys,
        }
    )
    made = make_algorithm(spec, config, 0)
    made.load_parameters(np.random.default_rng(1).standard_normal(made.size).astype(np.float32) * 0.6)
    return made


@pytest.mark.parametrize(
    ("critic", "agent_id"),
    [
        ("joint_observation", False),
        ("state", False),
        ("independent", False),
        ("joint_observation", True),
        ("independent", True),
    ],
)
@pytest.mark.parametrize("spec", [make_spec(), TEAM_AND_PREY], ids=["one_policy", "two_policies"])
def test_equals_the_literal_implementation(spec, critic, agent_id):
    algorithm, rollouts = (
        make(spec, critic=critic, agent_id=agent_id, reward_scale=0.5, normalise_advantages=False),
        rollouts_of(spec),
    )
    assert outlived_rows(rollouts) > 0
    wanted = literal_gradient(algorithm, rollouts)
    found, statistics = algorithm.gradient(rollouts)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=2e-4)
    assert 0 < statistics["clip_fraction"] < 1
    assert statistics["approximate_kl"] > 0


@pytest.mark.parametrize("seed", range(3))
def test_turn_based_games_keep_per_agent_transitions(seed):
    algorithm, rollouts = (
        make(TURNS, critic="independent", normalise_advantages=False),
        rollouts_of(TURNS, seed=seed, steps=6),
    )
    np.testing.assert_allclose(
        algorithm.gradient(rollouts)[0], literal_gradient(algorithm, rollouts), atol=2e-4, rtol=2e-4
    )


def test_normalised_advantages_ignore_a_reward_offset():
    algorithm = make(make_spec(), discount=1e-9, value_cost=0.0, entropy_cost=0.0, critic="independent")
    rollout = random_rollout(make_spec(), 6, 4, np.random.default_rng(0), deaths=False)
    before = algorithm.gradient([rollout])[0]
    for part in rollout.policies.values():
        part.reward += 3.0
    np.testing.assert_allclose(algorithm.gradient([rollout])[0], before, atol=1e-3)


@pytest.mark.parametrize("recurrent", [False, True])
def test_slot_subset_gradients_sum_to_the_whole(recurrent):
    spec = TEAM_AND_PREY
    algorithm = make(
        spec,
        algorithm=MATraceConfig,
        critic="state",
        network=NetworkConfig(hidden=(5,), body="gru" if recurrent else "mlp", memory=4),
    )
    rollout = rollouts_of(spec, slots=5, count=1, memory=4 if recurrent else None)[0]
    parts = [select(rollout, np.array(slots)) for slots in ([0, 3], [1], [2, 4])]
    assert [part.count for part in parts] == [2, 1, 2]
    assert sum(len(part.final_index) for part in parts) == len(rollout.final_index) > 0
    summed = sum(algorithm.gradient([part])[0] for part in parts)
    np.testing.assert_allclose(summed, algorithm.gradient([rollout])[0], atol=1e-4)


class FakeMessage:
    """Stand-in for a message."""

    def __init__(self, source):
        self.source, self.released = source, False

    def release(self):
        self.released = True


def source_of(batch, epochs, minibatches, *changes, rule=None):
    context = make_context(SPREAD, "algo.name=ppo", *changes)
    algorithm = SimpleNamespace(on_policy=False, begin_batch=list)
    passes = MinibatchPasses(epochs, minibatches)
    source = MinibatchSampler(
        context, Group(0, 0, (1, 2)), rule or make_rule("sync", 1, batch), algorithm, passes
    )
    source.limit = 8
    return source


def arrive(source, version, rank, slots=2):
    rollout, message = (
        random_rollout(make_spec(), 3, slots, np.random.default_rng(rank)),
        FakeMessage(rank),
    )
    rollout.version, rollout.actor = version, rank
    source.add(message, rollout, version)
    return message


def test_batch_is_split_randomly_and_kept_until_done():
    source = source_of(batch=3, epochs=2, minibatches=2)
    source.on_version(0)
    messages = [arrive(source, 0, rank) for rank in (1, 2)]
    assert source.take(0, 0) is None
    messages.append(arrive(source, 0, 3))
    seen = []
    for version in range(4):
        work = source.take(version, 0)
        seen.append([(rollout.actor, int(slot)) for rollout in work.rollouts for slot in rollout.slots])
        assert len(seen[-1]) == work.count == 3
        assert source.take(version, 3) is None
        source.done(work, 0)
        assert not any(letter.released for letter in messages)
        source.on_version(version + 1)
    first, second = sorted(seen[0] + seen[1]), sorted(seen[2] + seen[3])
    assert first == second
    assert len(set(first)) == 6
    assert sorted(map(sorted, seen[:2])) != sorted(map(sorted, seen[2:]))
    assert all(letter.released for letter in messages)


def test_next_batch_takes_newest_of_two_iterations():
    source = source_of(batch=2, epochs=1, minibatches=1)
    arrive(source, 0, 1)
    source.done(source.take(0, 0), 0)
    source.on_version(1)
    old, new = arrive(source, 0, 1), arrive(source, 1, 2)
    assert [rollout.version for rollout in source.take(1, 0).rollouts] == [1]
    source.on_version(2)
    assert (source.late, old.released, new.released) == (0, False, True)
    assert [rollout.version for rollout in source.take(2, 0).rollouts] == [0]
    source.on_version(3)
    assert arrive(source, 0, 1).released
    assert not arrive(source, 1, 1).released
    assert source.late == 2


def uses_when_a_round_closes_early(seed):
    """Return how often each of four trajectories counts.

    The batch is passed twice, in halves. The other group ends the round during the second half of
    the first pass.
    """
    rule = make_rule("rennala", 2, 4)
    source = source_of(4, 2, 2, f"seed={seed}", rule=rule)
    for rank in (1, 2):
        arrive(source, 0, rank)
    uses, begun = dict.fromkeys(((rank, slot) for rank in (1, 2) for slot in (0, 1)), 0), 0
    for number in range(4):
        at, work = rule.round, source.take(rule.round, 0)
        begun += work.count
        if number == 1:
            rule.on_gradient(1, at, 2)
        if any(isinstance(command, Accept) for command in rule.on_gradient(0, at, work.count)):
            for rollout in work.rollouts:
                for slot in rollout.slots.tolist():
                    uses[rollout.actor, slot] += 1
        source.on_version(rule.round)
    assert begun == 8
    # The part that came too late is not used again.
    assert source.take(rule.round, 0) is None
    return list(uses.values())


def test_parts_dropped_by_a_closing_round_are_drawn_evenly():
    """Dropped parts leave fewer passes of a batch (6 of 8 uses here) and favour no trajectory.

    The content of a part does not decide whether it is late.
    """
    seeds = 400
    uses = np.array([uses_when_a_round_closes_early(seed) for seed in range(seeds)])
    assert (uses.sum(1) == 6).all()
    assert set(uses.ravel().tolist()) == {1, 2}
    np.testing.assert_allclose(uses.mean(0), 1.5, atol=5 * 0.5 / seeds**0.5)


@pytest.mark.parametrize(("target", "ends"), [(0.19, True), (0.2, False), (None, False)])
def test_batch_ends_above_the_kl_target(target, ends):
    """Every action is half as likely as it was at sampling: w - 1 - log w = log 2 - 1/2 = 0.193."""
    spec = make_spec()
    algorithm, rollouts = make(spec, kl_target=target), rollouts_of(spec)
    for rollout in rollouts:
        part, evaluation = (
            rollout.policies["agent"],
            evaluate(algorithm._policies["agent"], join([rollout]).policies["agent"], rollout.episode_start),
        )
        part.logp[:] = evaluation.rows.spread(evaluation.logp.detach().numpy()) + np.float32(np.log(2))
    statistics = algorithm.gradient(rollouts)[1]
    assert statistics["approximate_kl"] == pytest.approx(np.log(2) - 0.5, abs=1e-4)
    assert algorithm.ends_batch(statistics) is ends


def test_group_whose_batch_ended_starts_its_next_one():
    """Under sync the round waits for the group's next batch; the other group's batch continues."""
    rule = make_rule("sync", 2, 4)
    feeds = [source_of(4, 3, 2, "algo.kl_target=0.1", rule=rule) for _ in range(2)]
    for source in feeds:
        for rank in (1, 2):
            arrive(source, 0, rank)
    rule.on_gradient(0, 0, feeds[0].take(0, 0).count)
    feeds[0].end_batch()
    rule.on_gradient(1, 0, feeds[1].take(0, 0).count)
    assert rule.round == 1
    for source in feeds:
        source.on_version(rule.round)
    assert [len(source.parts) for source in feeds] == [0, 5]
    assert feeds[0].take(1, 0) is None
    rule.on_gradient(1, 1, feeds[1].take(1, 0).count)
    assert rule.round == 1
    fresh = [arrive(feeds[0], 1, rank) for rank in (1, 2)]
    work = feeds[0].take(1, 0)
    assert work.versions == [1, 1]
    rule.on_gradient(0, 1, work.count)
    assert rule.round == 2
    assert not any(letter.released for letter in fresh)
    assert feeds[0].statistics() == {"gradients_left_out": pytest.approx(5 / 7)}
    assert feeds[1].statistics() == {"gradients_left_out": 0.0}


def test_in_flight_unrolls_are_used_under_backpressure():
    source = source_of(4, 1, 1, "rounds.backpressure=true")
    messages = [arrive(source, 0, rank) for rank in (1, 2)]
    assert source.is_behind(0)
    # This message was in flight when the actors were asked to wait.
    messages.append(arrive(source, 0, 1))
    used = []
    for version in range(4):
        used.append([rollout.version for rollout in source.take(version, 0).rollouts])
        assert not source.is_behind(version)
        messages.append(arrive(source, version, 1))
        assert source.is_behind(version)
        messages.append(arrive(source, version, 2))
        source.on_version(version + 1)
    assert used == [[0, 0], [0, 0], [0, 1], [1, 2]]
    assert source.late == source.overflow == 0
    assert sum(letter.released for letter in messages) == 2 * len(used)


def test_ppo_rejects_incompatible_settings():
    with pytest.raises(ConfigError, match=r"deterministic: true does not work with algo\.name: ppo"):
        load_config(SPREAD, ["algo.name=ppo", "deterministic=true"])
    with pytest.raises(ConfigError, match=r"algo\.clip"):
        load_config(SPREAD, ["algo.name=ppo", "algo.clip=1.5"])
    with pytest.raises(ConfigError, match="critic: independent is needed"):
        make(TURNS)


def test_continuous_and_multi_discrete_gradients_are_finite():
    for action in (CONTINUOUS, MULTI_DISCRETE):
        spec = make_spec(action=action)
        vector, statistics = make(spec).gradient(rollouts_of(spec))
        assert np.isfinite(vector).all()
        assert statistics["gradient_norm"] > 0
