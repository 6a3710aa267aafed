"""MA-Trace against a literal implementation, and its properties.

The literal implementation goes agent by agent and row by row.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.ma_trace import MATrace
from hpcmarl.config import MATraceConfig, NetworkConfig, ReinforceConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.types import EnvironmentSpec, PolicySpec, Rollout
from tests.reference.ma_trace import LiteralMATrace, literal_gradient
from tests.support.algorithms import TEAM_AND_PREY, TURNS, outlived_rows, rollouts_of
from tests.support.rollouts import CONTINUOUS, DISCRETE, make_spec, random_rollout
from tests.support.worlds import SPREAD


def make(spec: EnvironmentSpec, *, recurrent: bool = False, seed: int = 1, **keys: Any) -> MATrace:
    """Return MA-Trace with random parameters; its ratios and costs make every term count."""
    network = NetworkConfig(hidden=(5,), body="gru" if recurrent else "mlp", memory=4)
    config = MATraceConfig(
        **{
            "network": network,
            "discount": 0.9,
            "rho_max": 1.5,
            "c_max": 1.2,
            "trace_lambda": 0.8,
            "entropy_cost": 0.1,
            **keys,
        }
    )
    algorithm = make_algorithm(spec, config, 0)
    assert isinstance(algorithm, MATrace)
    algorithm.load_parameters(
        np.random.default_rng(seed).standard_normal(algorithm.size).astype(np.float32) * 0.6
    )
    return algorithm


VARIANTS: list[dict[str, Any]] = [
    {"critic": "joint_observation"},
    {"critic": "state"},
    {"critic": "joint_observation", "ratios": "agent"},
    {"critic": "independent"},
]
NUMBERED: list[dict[str, Any]] = [
    {"critic": "state", "agent_id": True},
    {"critic": "independent", "agent_id": True},
]


@pytest.mark.parametrize(
    "keys",
    VARIANTS + NUMBERED,
    ids=["joint_observation", "state", "obs_agent", "independent", "full_numbered", "dec_numbered"],
)
@pytest.mark.parametrize("spec", [make_spec(), TEAM_AND_PREY], ids=["one_policy", "two_policies"])
def test_equals_the_literal_implementation(spec: EnvironmentSpec, keys: dict[str, Any]) -> None:
    algorithm, rollouts = make(spec, reward_scale=0.5, **keys), rollouts_of(spec)
    assert sum(len(rollout.final_index) for rollout in rollouts) > 0
    assert outlived_rows(rollouts) > 0
    wanted = literal_gradient(algorithm, rollouts)
    found, statistics = algorithm.gradient(rollouts)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=2e-4)
    assert all(math.isfinite(value) for value in statistics.values())


@pytest.mark.parametrize("seed", range(4))
def test_turn_based_games_keep_per_agent_transitions(seed: int) -> None:
    algorithm, rollouts = make(TURNS, critic="independent"), rollouts_of(TURNS, seed=seed, steps=6)
    np.testing.assert_allclose(
        algorithm.gradient(rollouts)[0], literal_gradient(algorithm, rollouts), atol=2e-4, rtol=2e-4
    )


def test_turn_based_policy_per_player_allows_central_critic() -> None:
    spec = make_spec(
        PolicySpec("white", ("w",), (4,), DISCRETE, True),
        PolicySpec("black", ("b",), (4,), DISCRETE, True),
        turn_based=True,
    )
    for critic in ("joint_observation", "state"):
        algorithm, rollouts = make(spec, critic=critic), rollouts_of(spec, steps=6)
        np.testing.assert_allclose(
            algorithm.gradient(rollouts)[0], literal_gradient(algorithm, rollouts), atol=2e-4, rtol=2e-4
        )


def test_disabling_importance_sampling_sets_ratios_to_one() -> None:
    spec = make_spec()
    algorithm, rollouts = make(spec, importance_sampling=False), rollouts_of(spec)
    np.testing.assert_allclose(
        algorithm.gradient(rollouts)[0], literal_gradient(algorithm, rollouts), atol=2e-4, rtol=2e-4
    )
    assert algorithm.gradient(rollouts)[1]["mean_rho"] == 1.0


# --- properties


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(VARIANTS), st.booleans(), st.integers(0, 1000))
def test_gradient_is_additive_over_rollouts(keys: dict[str, Any], recurrent: bool, seed: int) -> None:
    """The gradient is a sum over rollouts, also if their lengths differ."""
    algorithm = make(TEAM_AND_PREY, recurrent=recurrent, **keys)
    memory = 4 if recurrent else None
    rollouts = rollouts_of(TEAM_AND_PREY, seed=seed, memory=memory)
    rollouts += rollouts_of(TEAM_AND_PREY, seed=seed + 1, steps=4, slots=2, count=1, memory=memory)
    together, _ = algorithm.gradient(rollouts)
    apart = sum(algorithm.gradient([rollout])[0] for rollout in rollouts)
    np.testing.assert_allclose(together, apart, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("keys", VARIANTS, ids=["joint_observation", "state", "obs_agent", "independent"])
def test_dead_agents_contribute_zero(keys: dict[str, Any]) -> None:
    """The actions, log-probabilities and masks of dead agents do not matter.

    Their observations are zero by contract: central critics read them.
    """
    algorithm, rollouts = make(TEAM_AND_PREY, **keys), rollouts_of(TEAM_AND_PREY)
    before, _ = algorithm.gradient(rollouts)
    changed = copy.deepcopy(rollouts)
    for rollout in changed:
        part = rollout.policies["team"]
        dead = ~part.alive
        assert dead[:-1].any()
        part.action[dead[:-1]] = 2
        part.logp[dead[:-1]] = -50
        if keys["critic"] == "independent":
            part.obs[dead] = 1e3
    np.testing.assert_array_equal(algorithm.gradient(changed)[0], before)


def on_policy_logp(algorithm: MATrace, rollouts: list[Rollout]) -> None:
    """Replace the behaviour log-probabilities by those of the present policy."""
    for rollout in rollouts:
        for policy in algorithm.spec.policies:
            part = rollout.policies[policy.name]
            for index in np.argwhere(part.alive[: rollout.steps]):
                t, slot, agent = map(int, index)
                part.logp[t, slot, agent] = (
                    LiteralMATrace(algorithm, rollout, policy, slot).logp_and_entropy(t, agent)[0].item()
                )


def test_on_policy_ratio_settings_give_equal_gradients() -> None:
    spec, rollouts = make_spec(), rollouts_of(make_spec())
    joint, agent, ablated = make(spec), make(spec, ratios="agent"), make(spec, importance_sampling=False)
    on_policy_logp(joint, rollouts)
    wanted = joint.gradient(rollouts)[0]
    np.testing.assert_allclose(agent.gradient(rollouts)[0], wanted, atol=1e-4)
    np.testing.assert_allclose(ablated.gradient(rollouts)[0], wanted, atol=1e-4)


def test_termination_cuts_and_truncation_bootstraps() -> None:
    """Changes after an episode's end change nothing.

    A change of the last observation matters for truncations only.
    """
    spec = make_spec()
    algorithm = make(spec, critic="state")
    rollout = random_rollout(spec, 4, 1, np.random.default_rng(2), end_rate=0.0)
    part = rollout.policies["agent"]
    assert not part.terminated.any()
    for end in (1, 2):
        ended = copy.deepcopy(rollout)
        ended.episode_end[3] = end
        (ended.policies["agent"].terminated if end == 1 else ended.policies["agent"].truncated)[3] = True
        if end == 2:
            ended.final_index, ended.final_state = np.array([[3, 0]], np.int32), np.ones((1, 7), np.float32)
            ended.policies["agent"].final_obs = np.ones((1, 3, 6), np.float32)
        before = algorithm.gradient([ended])[0]
        later = copy.deepcopy(ended)
        assert later.state is not None
        later.state[4] += 1.0
        np.testing.assert_array_equal(algorithm.gradient([later])[0], before)
        assert not np.allclose(before, algorithm.gradient([rollout])[0])
        if end == 2:
            assert later.final_state is not None
            later.final_state += 1.0
            assert not np.allclose(algorithm.gradient([later])[0], before)


def test_critic_gradient_equals_finite_differences() -> None:
    """With constant advantages the slope is that of the regression.

    With lambda 1, ratio 1 and a termination, values play no part in the targets.
    """
    spec = make_spec(agents=1)
    algorithm = make(
        spec,
        importance_sampling=False,
        trace_lambda=1.0,
        entropy_cost=0.0,
        rho_max=1.0,
        c_max=1.0,
        value_cost=0.25,
    )
    rollout = random_rollout(spec, 5, 2, np.random.default_rng(0), end_rate=0.0)
    rollout.episode_end[-1], rollout.policies["agent"].terminated[-1] = 1, True
    origin = algorithm.parameters.copy()
    found, _ = algorithm.gradient([rollout])
    actor = sum(parameter.numel() for parameter in algorithm._policies["agent"].parameters())
    assert np.abs(found[actor:]).max() > 1e-2
    for index in range(actor, algorithm.size, 7):
        losses = []
        for step in (1e-2, -1e-2):
            moved = origin.copy()
            moved[index] += step
            algorithm.load_parameters(moved)
            losses.append(algorithm.gradient([rollout])[1]["value_loss"])
        algorithm.load_parameters(origin)
        # Summed over the two unrolls; value_loss is their mean.
        assert -0.25 * 2 * (losses[0] - losses[1]) / 2e-2 == pytest.approx(
            float(found[index]), abs=5e-3, rel=1e-2
        )


def test_recurrent_gradient_uses_memory_and_episode_starts() -> None:
    spec = make_spec(agents=2)
    algorithm = make(spec, recurrent=True)
    (rollout,) = rollouts_of(spec, count=1, memory=4)
    rollout.episode_start[0] = [True, False, False]
    before, _ = algorithm.gradient([rollout])
    changed = copy.deepcopy(rollout)
    assert changed.policies["agent"].memory is not None
    # The memory is set to zero at an episode's start.
    changed.policies["agent"].memory[rollout.episode_start[0]] += 3.0
    np.testing.assert_array_equal(algorithm.gradient([changed])[0], before)
    changed.policies["agent"].memory[~rollout.episode_start[0]] += 3.0
    assert not np.allclose(algorithm.gradient([changed])[0], before)
    changed.policies["agent"].memory = None
    with pytest.raises(ValueError, match="memory"):
        algorithm.gradient([changed])


def test_learned_entropy_cost_moves_entropy_to_its_target() -> None:
    spec = make_spec(has_mask=True)
    for target, sign in ((1.0, 1.0), (0.0, -1.0)):
        algorithm = make(spec, target_entropy=target, entropy_cost=0.05, entropy_cost_rate=0.5)
        rollouts = rollouts_of(spec)
        found, statistics = algorithm.gradient(rollouts)
        assert algorithm.initial_parameters()[-1] == pytest.approx(math.log(0.05), rel=1e-6)
        assert statistics["entropy_cost"] == pytest.approx(math.exp(algorithm.parameters[-1]), rel=1e-5)
        entropy, maximum = 0.0, 0.0
        for rollout in rollouts:
            part = rollout.policies["agent"]
            assert part.action_mask is not None
            maximum += float(np.log(part.action_mask[:-1].sum(-1)[part.alive[:-1]]).sum())
            for t, slot, agent in np.argwhere(part.alive[:-1]):
                entropy += (
                    LiteralMATrace(algorithm, rollout, spec.policies[0], int(slot))
                    .logp_and_entropy(int(t), int(agent))[1]
                    .item()
                )
        assert found[-1] == pytest.approx(0.5 * (target * maximum - entropy) / 9, rel=1e-3)
        assert np.sign(found[-1]) == sign
        # The rule moves the cost alone; the bonus weighs exp(log c).
        fixed = make(spec, entropy_cost=float(np.exp(algorithm.parameters[-1])))
        fixed.load_parameters(algorithm.parameters[:-1])
        np.testing.assert_allclose(found[:-1], fixed.gradient(rollouts)[0], atol=1e-4)


def test_entropy_cost_decays_with_environment_steps() -> None:
    spec, rollouts = make_spec(), rollouts_of(make_spec())
    falls = make(spec, entropy_cost=0.05, entropy_cost_final=0.01, entropy_cost_steps=1000)
    for done, cost in ((0, 0.05), (250, 0.04), (1000, 0.01), (5000, 0.01)):
        falls.on_progress(done)
        vector, statistics = falls.gradient(rollouts)
        assert statistics["entropy_cost"] == pytest.approx(cost)
        np.testing.assert_allclose(vector, make(spec, entropy_cost=cost).gradient(rollouts)[0], atol=1e-5)
    assert not np.allclose(vector, make(spec, entropy_cost=0.05).gradient(rollouts)[0], atol=1e-4)
    with pytest.raises(ConfigError, match=r"algo\.entropy_cost_steps"):
        load_config(SPREAD, ["algo.entropy_cost_steps=10", "algo.target_entropy=0.5"])


def test_normalised_advantages_have_mean_zero() -> None:
    """With equally likely actions, the policy loss is a sum of advantages times one logarithm."""
    spec, rollouts = make_spec(), rollouts_of(make_spec())
    plain, normalised = make(spec), make(spec, normalise_advantages=True)
    for algorithm in (plain, normalised):
        algorithm.load_parameters(np.zeros(algorithm.size, np.float32))
    assert abs(plain.gradient(rollouts)[1]["policy_loss"]) > 0.1
    vector, statistics = normalised.gradient(rollouts)
    assert statistics["policy_loss"] == pytest.approx(0.0, abs=1e-5)
    assert np.abs(vector).max() > 0.1
    for rollout in rollouts:
        rollout.policies["agent"].alive[:] = False
    assert np.isfinite(normalised.gradient(rollouts)[0]).all()


def test_gradient_is_repeatable_and_has_no_side_effects() -> None:
    algorithm, rollouts = make(TURNS, critic="independent"), rollouts_of(TURNS)
    kept, parameters = copy.deepcopy(rollouts), algorithm.parameters.copy()
    first, second = algorithm.gradient(rollouts)[0], algorithm.gradient(rollouts)[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(algorithm.parameters, parameters)
    for left, right in zip(kept, rollouts, strict=True):
        for key, array in vars(left.policies["agent"]).items():
            np.testing.assert_array_equal(array, getattr(right.policies["agent"], key))


def test_gradient_accepts_read_only_rollouts() -> None:
    spec = make_spec()
    algorithm, (rollout,) = make(spec), rollouts_of(spec, count=1)
    for array in [*vars(rollout.policies["agent"]).values(), *vars(rollout).values()]:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    assert np.isfinite(algorithm.gradient([rollout])[0]).all()


# --- construction


def test_algorithm_properties_and_seeding_match_the_config() -> None:
    spec = make_spec()
    one, same, other = (make_algorithm(spec, MATraceConfig(unroll=7), seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.initial_parameters(), same.initial_parameters())
    assert not np.array_equal(one.initial_parameters(), other.initial_parameters())
    assert (one.unit, one.on_policy, one.unroll, one.needs_state) == ("unroll", False, 7, False)
    assert make_algorithm(spec, MATraceConfig(critic="state"), 0).needs_state
    assert one.parameters.dtype == np.float32
    assert one.segments == {"agent": slice(0, one.size)}
    one.load_parameters(np.zeros(one.size, np.float32))
    assert one.initial_parameters().any()


def test_segments_split_the_gradient_by_policy() -> None:
    algorithm, rollouts = make(TEAM_AND_PREY), rollouts_of(TEAM_AND_PREY)
    assert list(algorithm.segments) == ["team", "prey"]
    assert algorithm.segments["team"].stop == algorithm.segments["prey"].start
    for rollout in rollouts:
        rollout.policies["prey"].alive[:] = False
    found, statistics = algorithm.gradient(rollouts)
    algorithm.load_parameters(found)
    by_part = {
        name: max(np.abs(found).max() for found in slopes) for name, slopes in _by_part(algorithm).items()
    }
    # An actor that never acts has no gradient.
    assert by_part.pop("prey.actor") == 0.0
    assert len(by_part) == 3
    # The critic of such a policy still learns the value of the game.
    assert min(by_part.values()) > 1e-3
    assert {"entropy", "entropy_team", "entropy_prey"} <= statistics.keys()


def _by_part(algorithm: MATrace) -> dict[str, list[np.ndarray]]:
    """Return the parameters by part: the actor and the critic of each policy."""
    found: dict[str, list[np.ndarray]] = {}
    for name, array in algorithm.named_parameters().items():
        found.setdefault(".".join(name.split(".")[:2]), []).append(array)
    return found


@pytest.mark.parametrize(
    ("spec", "keys", "words"),
    [
        (make_spec(state_size=None), {"critic": "state"}, "algo.critic"),
        (
            TURNS,
            {"critic": "joint_observation"},
            "independent is needed for turn-based games whose agents share a policy",
        ),
        (make_spec(), {"critic": "independent", "ratios": "joint"}, "algo.ratios"),
        (make_spec(action=CONTINUOUS), {"target_entropy": 0.5}, "algo.target_entropy"),
        (make_spec(), {"target_entropy": 0.5, "entropy_cost": 0.0}, "algo.entropy_cost"),
    ],
)
def test_ma_trace_rejects_incompatible_settings(
    spec: EnvironmentSpec, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make_algorithm(spec, MATraceConfig(**keys), 0)
    assert "\n" not in str(caught.value)


def test_unknown_algorithms_are_refused() -> None:
    class Other(ReinforceConfig):
        name: Any = "other"

    with pytest.raises(ConfigError, match="reinforce, ma_trace"):
        make_algorithm(make_spec(), Other(), 0)
