"""IQL, VDN, QMIX, WQMIX and RES against literal twins.

Also acting, exploration, target networks, mixed spaces, and matrix games that the algorithms should solve.
"""

import itertools

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.episodes import Places
from hpcmarl.algos.replayed import Columns
from hpcmarl.config import AgentNetworkConfig, RESConfig, RmspropConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.optim import make_optimizer
from hpcmarl.types import ActionSpace, EnvironmentSpec, Frame, PolicyFrame, PolicyRollout, PolicySpec, Rollout
from tests.reference.q_learning import literal_errors, literal_gradient
from tests.support.rollouts import CONTINUOUS, MULTI_DISCRETE, make_spec, random_rollout
from tests.support.value_based import CONFIGS, SETTINGS, TWO, episodes, make
from tests.support.worlds import SPREAD


@pytest.mark.parametrize(("name", "keys"), SETTINGS)
def test_equals_the_literal_implementation(name, keys):
    algorithm = make(name, **keys)
    rollouts = episodes(algorithm.spec)
    assert {int(rollout.episode_end[-1, 0]) for rollout in rollouts} == {1, 2}
    wanted = literal_gradient(algorithm, rollouts)
    found, statistics = algorithm.gradient(rollouts)
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=2e-4)
    assert statistics["loss"] > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_weighed_gradients_and_errors_equal_the_literal_ones(name):
    """Weights have the order of the rollouts and of their slots.

    The errors of an episode are those of all its rows (and agents).
    """
    algorithm = make(name, **({"central_width": 5} if name == "wqmix" else {}))
    rollouts = [
        *episodes(algorithm.spec, lengths=(3, 6, 1)),
        *episodes(algorithm.spec, lengths=(4,), slots=2),
    ]
    weights = np.random.default_rng(0).uniform(0.1, 1.0, 5).astype(np.float32)
    errors = literal_errors(algorithm, rollouts)
    wanted = literal_gradient(algorithm, rollouts, weights.tolist())
    found, statistics, errors_of_rows = algorithm.staged_gradient(algorithm.stage(rollouts), weights)
    told = errors_of_rows.of_episodes()
    np.testing.assert_allclose(found, wanted, atol=2e-4, rtol=2e-4)
    np.testing.assert_allclose(told.largest, [max(own) for own in errors], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told.mean, [np.mean(own) for own in errors], rtol=1e-4, atol=1e-5)
    plain, other = algorithm.gradient(rollouts)
    assert statistics["value"] == other["value"]
    assert statistics["loss"] < other["loss"]
    np.testing.assert_array_equal(
        algorithm.staged_gradient(algorithm.stage(rollouts), np.ones(5, np.float32))[0], plain
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_value_limit_is_largest_reward_over_one_minus_gamma(name):
    """The limit is the largest reward so far, of the team or of an agent, over 1 - gamma.

    Without discounting there is no limit.
    """
    algorithm = make(name, discount=0.9, reward_scale=0.5)
    first, second = (
        [random_rollout(algorithm.spec, 4, 1, np.random.default_rng(seed), whole_episode=True, memory=4)]
        for seed in (0, 1)
    )
    limits = [algorithm.gradient(rollouts)[1]["value_limit"] for rollouts in (first, second, first)]

    def largest(rollouts):
        rewards = np.concatenate([part.reward for part in rollouts[0].policies.values()], -1)
        return np.abs(rewards if name == "iql" else rewards.mean(-1)).max()

    assert limits[0] == pytest.approx(5.0 * largest(first), rel=1e-5)
    assert limits[1] == limits[2] == pytest.approx(5.0 * max(largest(first), largest(second)), rel=1e-5)
    assert "value_limit" not in make(name, discount=1.0).gradient(first)[1]
    for part in first[0].policies.values():
        part.reward[:] = 0.0
    assert "value_limit" not in make(name).gradient(first)[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_ignores_order_and_padding_of_episodes(name):
    algorithm = make(name, **({"central_width": 5} if name == "wqmix" else {}))
    rollouts = episodes(algorithm.spec)
    backwards = algorithm.gradient(rollouts[::-1])[0]
    np.testing.assert_allclose(backwards, algorithm.gradient(rollouts)[0], atol=1e-4, rtol=1e-4)
    # The number of acting agents differs between episodes.
    if name == "iql":
        return
    pair = [
        random_rollout(algorithm.spec, 4, slots, np.random.default_rng(slots), whole_episode=True, memory=4)
        for slots in (1, 2)
    ]
    summed = sum(algorithm.gradient([rollout])[0] for rollout in pair)
    np.testing.assert_allclose(algorithm.gradient(pair)[0], summed, atol=1e-4, rtol=1e-4)


def test_gradient_does_not_modify_rollouts():
    algorithm, rollout = make("qmix"), episodes(make_spec(*TWO))[1]
    before = {
        name: array.copy() for name, array in vars(rollout.policies["scouts"]).items() if array is not None
    }
    algorithm.gradient([rollout])
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(rollout.policies["scouts"], name), array, err_msg=name)


def test_turn_based_games_are_for_independent_learners_only():
    turns = make_spec(agents=2, turn_based=True, state_size=None)
    algorithm = make("iql", turns, trace_lambda=0.5)
    rollout = random_rollout(turns, 7, 2, np.random.default_rng(0), whole_episode=True, memory=4)
    assert np.isfinite(algorithm.gradient([rollout])[0]).all()
    with pytest.raises(ConfigError, match=r"algo\.name: vdn needs simultaneous actions.*use iql"):
        make("vdn", turns)


def test_turn_based_n_steps_are_own_decisions():
    """Two steps of the first of two agents are its decisions in rows 0 and 2.

    The agents take turns. The target includes the first agent's rewards in rows 1 and 3.
    """
    spec = make_spec(agents=2, turn_based=True, state_size=None)
    algorithm = make("iql", spec, n_step=2)
    rollout = random_rollout(
        spec, 5, 1, np.random.default_rng(0), whole_episode=True, truncations=False, memory=4
    )
    part = rollout.policies["agent"]
    part.alive[:5, 0] = [[True, False], [False, True]] * 2 + [[True, False]]
    columns = Columns(part.reward, part.alive[:5], part.terminated, part.truncated)
    value = np.random.default_rng(1).standard_normal((6, 1, 2)).astype(np.float32)
    found, reward = algorithm._targets(columns, torch.from_numpy(value)).numpy()[:, 0], part.reward[:, 0]
    assert found[0, 0] == pytest.approx(
        reward[0, 0] + 0.9 * (reward[1, 0] + reward[2, 0]) + 0.81 * (reward[3, 0] + value[4, 0, 0]), rel=1e-5
    )
    assert found[1, 1] == pytest.approx(
        reward[1, 1] + 0.9 * (reward[2, 1] + reward[3, 1] + 0.9 * reward[4, 1]), rel=1e-5
    )


def test_turn_based_target_spans_to_the_next_decision():
    spec = make_spec(agents=2, turn_based=True, state_size=None)
    algorithm = make("iql", spec, double_q=False)
    rollout = random_rollout(
        spec, 3, 1, np.random.default_rng(0), whole_episode=True, truncations=False, memory=4
    )
    part = rollout.policies["agent"]
    part.alive[:3, 0] = [[True, False], [False, True], [True, False]]
    targets = {}
    algorithm._targets, own = (
        (lambda columns, *rest, **keys: targets.setdefault("R", own(columns, *rest, **keys))),
        algorithm._targets,
    )
    values = {}
    algorithm._utilities, other = (lambda *given: values.setdefault("V", other(*given))), algorithm._utilities
    algorithm.gradient([rollout])
    reward, found, later = part.reward[:, 0], targets["R"].numpy()[:, 0], values["V"][0].numpy()[:, 0]
    assert found[0, 0] == pytest.approx(reward[0, 0] + 0.9 * (reward[1, 0] + later[2, 0]), rel=1e-5)
    assert found[1, 1] == pytest.approx(reward[1, 1] + 0.9 * reward[2, 1], rel=1e-5)
    assert found[0, 1] == found[1, 0] == 0


@pytest.mark.parametrize("action", [MULTI_DISCRETE, CONTINUOUS])
def test_non_discrete_actions_are_rejected(action):
    with pytest.raises(
        ConfigError,
        match=(
            r"algo\.name: qmix needs discrete actions, but policy agent of tests\.random has "
            rf"{action.kind}"
        ),
    ):
        make("qmix", make_spec(action=action))


def test_missing_state_is_rejected_or_built_from_observations():
    stateless = make_spec(state_size=None)
    with pytest.raises(ConfigError, match=r"algo\.mixer_state: state needs the environment's state"):
        make("qmix", stateless, mixer_state="state")
    assert not make("qmix", stateless).needs_state
    assert make("qmix", make_spec()).needs_state
    assert not make("vdn", make_spec()).needs_state


# ---- acting


def frame(slots, generator, mask=None):
    seen = PolicyFrame(
        generator.standard_normal((slots, 3, 6)).astype(np.float32), np.ones((slots, 3), bool), mask
    )
    return Frame({"agent": seen}, None, np.ones(slots, bool))


def test_epsilon_decays_with_steps_and_respects_the_mask():
    spec = make_spec(has_mask=True)
    algorithm = make("vdn", spec, epsilon_start=1.0, epsilon_final=0.1, epsilon_steps=100)
    generator = np.random.default_rng(0)
    mask = generator.random((2000, 3, 5)) < 0.6
    mask[..., 2] = True
    seen, memory = frame(2000, generator, mask), algorithm.initial_memory(2000)
    best = algorithm.act(seen, memory, generator, greedy=True)["agent"].action
    for env_steps, epsilon in ((0, 1.0), (50, 0.55), (100, 0.1), (500, 0.1)):
        algorithm.on_progress(env_steps)
        decision = algorithm.act(seen, memory, generator)["agent"]
        assert np.take_along_axis(mask, decision.action[..., None], -1).all()
        greedy = (1 - epsilon) + epsilon * (1 / mask.sum(-1)).mean()
        assert (decision.action == best).mean() == pytest.approx(greedy, abs=0.03)
        probability = epsilon / mask.sum(-1) + (1 - epsilon) * (decision.action == best)
        np.testing.assert_allclose(np.exp(decision.logp), probability, rtol=1e-5)


def test_greedy_evaluation_uses_the_final_epsilon():
    algorithm = make("vdn", make_spec(), epsilon_final=0.0)
    seen, memory = frame(50, np.random.default_rng(0)), algorithm.initial_memory(50)
    decisions = [
        algorithm.act(seen, memory, np.random.default_rng(seed), greedy=seed == 1)["agent"].action
        for seed in range(2)
    ]
    np.testing.assert_array_equal(*decisions)


def test_agent_id_distinguishes_agents_of_a_policy():
    same = frame(1, np.random.default_rng(0))
    same.policies["agent"].obs[:] = 1.0
    for agent_id in (True, False):
        algorithm = make("vdn", make_spec(), agent_id=agent_id)
        decision = algorithm.act(same, algorithm.initial_memory(1), np.random.default_rng(0), greedy=True)[
            "agent"
        ]
        assert np.array_equal(decision.memory[0, 0], decision.memory[0, 1]) != agent_id


@pytest.mark.parametrize(
    ("name", "keys"),
    [("vdn", {}), ("qmix", {"agent_id": False}), ("iql", {"network": AgentNetworkConfig(body="mlp")})],
)
def test_distance_is_the_share_of_changed_greedy_actions(name, keys):
    algorithm = make(name, **keys)
    rollouts = episodes(algorithm.spec)
    otherwise = acted = 0
    for rollout in rollouts:
        memory = algorithm.initial_memory(1)
        for step in range(rollout.steps):
            seen = {
                name: PolicyFrame(
                    part.obs[step],
                    part.alive[step],
                    None if part.action_mask is None else part.action_mask[step],
                )
                for name, part in rollout.policies.items()
            }
            decisions = algorithm.act(
                Frame(seen, None, rollout.episode_start[step]), memory, np.random.default_rng(0), greedy=True
            )
            memory = {
                name: decision.memory for name, decision in decisions.items() if decision.memory is not None
            }
            for name, part in rollout.policies.items():
                otherwise += int((part.alive[step] & (decisions[name].action != part.action[step])).sum())
                acted += int(part.alive[step].sum())
    assert 0.2 < otherwise / acted < 0.9
    assert algorithm.distance(rollouts) == otherwise / acted
    assert algorithm.distance(rollouts[:1]) != algorithm.distance(rollouts[1:])


# ---- the target network


def test_target_network_is_copied_every_target_every():
    # The algorithm has seen versions 0 and 1; version 0 was copied.
    algorithm = make("vdn", target_every=3)
    vectors = {}
    for version in range(2, 8):
        algorithm.load_parameters(np.full(algorithm.size, version, np.float32))
        algorithm.on_version(version)
        # A resumed run reports the same version again.
        algorithm.on_version(version)
        vectors[version] = algorithm.state_dict()["target"][0]
    assert [vectors[version] for version in range(3, 8)] == [3, 3, 3, 6, 6]


def test_target_rate_averages_and_its_state_resumes():
    algorithm, other = make("vdn", target_rate=0.25), make("vdn", target_rate=0.25)
    before = algorithm.state_dict()["target"]
    for version in (2, 3):
        algorithm.load_parameters(np.ones(algorithm.size, np.float32))
        algorithm.on_version(version)
        algorithm.on_version(version)
        if version == 2:
            np.testing.assert_allclose(
                algorithm.state_dict()["target"], before + 0.25 * (1 - before), rtol=1e-5, atol=1e-6
            )
            other.load_state_dict(algorithm.state_dict())
            other.load_parameters(np.ones(algorithm.size, np.float32))
            other.on_version(3)
    np.testing.assert_array_equal(algorithm.state_dict()["target"], other.state_dict()["target"])
    with pytest.raises(ValueError, match="shape"):
        algorithm.load_state_dict({"target": np.zeros(3), "version": 1, "copied": 1})


def test_trace_lambda_applies_after_trace_from_steps():
    algorithm, plain = make("vdn", trace_lambda=0.9, trace_from=100), make("vdn")
    rollouts = episodes(algorithm.spec)
    for env_steps, same in ((99, True), (100, False)):
        algorithm.on_progress(env_steps)
        assert np.array_equal(algorithm.gradient(rollouts)[0], plain.gradient(rollouts)[0]) == same


# ---- games


def game(payoffs, steps=1):
    """Return all joint trajectories of two agents in a game, as one rollout.

    The game has one step, or it is the two-step game of QMIX (section 6). There the first agent's first
    action chooses the payoffs of the second step.
    """
    size = len(payoffs[0])
    choices = list(itertools.product(range(size), repeat=2 * steps))
    slots = len(choices)
    obs, action, reward = (
        np.zeros((steps + 1, slots, 2, 3), np.float32),
        np.zeros((steps, slots, 2), np.int64),
        np.zeros((steps, slots, 2), np.float32),
    )
    for slot, chosen in enumerate(choices):
        action[:, slot] = np.reshape(chosen, (steps, 2))
        obs[0, slot, :, 0] = 1.0
        table = payoffs[chosen[0] if steps == 2 else 0]
        if steps == 2:
            obs[1, slot, :, 1 + chosen[0]] = 1.0
        reward[-1, slot] = table[chosen[-2]][chosen[-1]]
    flags = np.zeros((steps, slots, 2), bool)
    ended, end, alive = flags.copy(), np.zeros((steps, slots), np.uint8), np.ones((steps + 1, slots, 2), bool)
    ended[-1], end[-1] = True, 1
    part = PolicyRollout(
        obs,
        alive,
        action,
        np.zeros_like(reward),
        reward,
        ended,
        flags,
        np.zeros((0, 2, 3), np.float32),
        None,
        None,
    )
    zeros = np.zeros(slots, np.int64)
    start = np.zeros((steps + 1, slots), bool)
    start[0] = True
    spec = EnvironmentSpec(
        "tests.game", (PolicySpec("agent", ("a", "b"), (3,), ActionSpace("discrete", (size,))),), None, False
    )
    none, by_itself = np.zeros((0, 2), np.int32), np.full(slots, -1, np.int32)
    return spec, Rollout({"agent": part}, start, end, none, zeros, zeros, zeros, by_itself, 0, 0)


def solve(name, payoffs, steps=1, updates=400, **keys):
    """Return the payoff of the greedy joint actions after `updates` updates.

    Each update uses all joint trajectories with equal weight (as with epsilon 1).
    """
    spec, rollout = game(payoffs, steps)
    config = CONFIGS[name](
        network=AgentNetworkConfig(hidden=(32,), body="mlp"), target_every=20, discount=1.0, **keys
    )
    algorithm = make_algorithm(spec, config, 0)
    optimizer = make_optimizer(RmspropConfig(step_size=3e-3), algorithm.initial_parameters())
    for version in range(updates):
        algorithm.load_parameters(optimizer.query_point())
        algorithm.on_version(version)
        optimizer.step(algorithm.gradient([rollout])[0] / rollout.count)
    algorithm.load_parameters(optimizer.query_point())
    chosen = []
    for step in range(steps):
        slot = next(
            slot
            for slot in range(rollout.count)
            if all((rollout.policies["agent"].action[t, slot] == chosen[t]).all() for t in range(step))
        )
        seen = PolicyFrame(rollout.policies["agent"].obs[step, slot : slot + 1], np.ones((1, 2), bool))
        chosen.append(
            algorithm.act(
                Frame({"agent": seen}, None, np.ones(1, bool)), {}, np.random.default_rng(0), greedy=True
            )["agent"].action[0]
        )
    return payoffs[int(chosen[0][0]) if steps == 2 else 0][int(chosen[-1][0])][int(chosen[-1][1])]


TWO_STEPS = ([[7, 7], [7, 7]], [[0, 1], [1, 8]])
CLIMBING = ([[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],)


@pytest.mark.parametrize(("name", "earned"), [("vdn", 7), ("qmix", 8)])
def test_two_step_game_is_solved_by_mixers_but_not_vdn(name, earned):
    assert solve(name, TWO_STEPS, steps=2) == earned


@pytest.mark.parametrize(("beta", "earned"), [(5.0, 8), (RESConfig().softmax_beta, 7)])
def test_res_needs_a_beta_that_suits_the_returns(beta, earned):
    """At beta 0.05 one state is valued at 3.9, below the other state's 7.

    The joint actions near the greedy one are worth 8, 1 and 1 in that state.
    """
    assert solve("res", TWO_STEPS, steps=2, softmax_beta=beta) == earned


@pytest.mark.parametrize(
    ("name", "keys", "earned"),
    [
        ("iql", {}, 0),
        ("vdn", {}, 0),
        ("qmix", {}, 0),
        ("wqmix", {"weight": 0.1, "central_width": 32}, 8),
        ("wqmix", {"weight": 0.1, "central_width": 32, "weighting": "central"}, 8),
    ],
)
def test_non_monotonic_payoff_is_solved_by_weighting_only(name, keys, earned):
    assert solve(name, CLIMBING, updates=300, **keys) == earned


@pytest.mark.parametrize(("weighting", "alpha"), [("optimistic", 0.5), ("central", 0.75)])
def test_wqmix_default_alpha_depends_on_the_weighting(weighting, alpha):
    keys = {"weighting": weighting, "central_width": 5}
    default, given, other = (
        make("wqmix", **keys),
        make("wqmix", **keys, weight=alpha),
        make("wqmix", **keys, weight=0.1),
    )
    rollouts = episodes(default.spec)
    found = default.gradient(rollouts)[0]
    np.testing.assert_array_equal(found, given.gradient(rollouts)[0])
    assert not np.array_equal(found, other.gradient(rollouts)[0])


def test_agent_networks_are_recurrent_by_default():
    assert load_config(
        SPREAD, ["algo.name=vdn", "algo.network.hidden=[7]"]
    ).algo.network == AgentNetworkConfig(hidden=(7,))
    assert AgentNetworkConfig(hidden=(7,)).recurrent


def test_value_based_configs_reject_incompatible_settings():
    with pytest.raises(
        ConfigError, match=r"algo\.replay\.learning_starts: 40 is more than algo\.replay\.episodes: 30"
    ):
        load_config(SPREAD, ["algo.name=vdn", "algo.replay={learning_starts: 40, episodes: 30}"])
    with pytest.raises(
        ConfigError,
        match=(
            r"algo\.n_step: 3 does not work with algo\.trace_lambda: 0\.6, .* set algo\.n_step: 1 or "
            r"algo\.trace_lambda: 0"
        ),
    ):
        load_config(SPREAD, ["algo.name=vdn", "algo.n_step=3", "algo.trace_lambda=0.6"])
    with pytest.raises(ConfigError, match=r"algo\.operator"):
        load_config(SPREAD, ["algo.name=res", "algo.operator=max"])
    with pytest.raises(
        ConfigError,
        match=(
            r"algo\.replay\.dynamic\.least: 500 is not below algo\.replay\.episodes: 400, so no episode "
            r"could leave early"
        ),
    ):
        load_config(SPREAD, ["algo.name=vdn", "algo.replay={episodes: 400, dynamic: {}}"])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_pick_and_spread_restore_rows_among_zeros(share):
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand((4, 3, 2), generator=generator) < share
    dense = torch.randn((4, 3, 2, 5), generator=generator, requires_grad=True)
    places = Places(chosen)
    picked = places.pick(dense)
    assert picked.tolist() == [
        dense[place].tolist() for place in itertools.product(range(4), range(3), range(2)) if chosen[place]
    ]
    back = places.spread(picked)
    expected = dense * chosen.unsqueeze(-1)
    assert torch.equal(back, expected)
    weights = torch.randn(back.shape, generator=generator)
    assert torch.equal(*(torch.autograd.grad((told * weights).sum(), dense)[0] for told in (back, expected)))


# ---- operations


@pytest.mark.parametrize(("every", "more"), [(200, 0.024), (20, 0.24), (1, 4.75)])
def test_growth_by_gradient_adds_dense_weight_gradients(every, more):
    """At 95 % sparsity in all layers a dense gradient costs 0.95 of a dense pass more.

    One gradient of `every` is dense. A sparse one makes four passes, each a twentieth of a dense pass.
    """
    algorithm = make("qmix")
    layers = len(algorithm.layers)
    sparse, dense = algorithm.operations([0.05] * layers), algorithm.operations([1.0] * layers)
    assert sparse.training(every, 0) == pytest.approx(0.05 * dense.training(every, 0))
    assert sparse.training(every, 1) / sparse.training(every, 0) - 1 == pytest.approx(more, rel=0.02)
    assert (
        dense.training(every, 1)
        == pytest.approx(dense.training(every, 0))
        == pytest.approx(every * dense.learning)
    )
    assert sparse.acting == pytest.approx(0.05 * dense.acting)
