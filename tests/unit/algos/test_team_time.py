"""Central critics keep the team's time: discounted every step, learned in every row of the game, whoever has
died. Returns known in closed form.

Networks are linear in the row's number and zero, so that the gradient of a weight shows the target, or the
advantage, of its row.
"""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import game_rows, join
from hpcmarl.config import COMAConfig, MATraceConfig, NetworkConfig, PPOConfig
from hpcmarl.types import ActionSpace, PolicySpec
from tests.support.rollouts import make_spec, written_rollout

DISCOUNT = 0.9
ACTIONS = 3
CENTRAL = [
    (MATraceConfig, "joint_observation"),
    (MATraceConfig, "state"),
    (PPOConfig, "state"),
    (PPOConfig, "joint_observation"),
]
OUTPUTS, CRITIC = "actor.outputs.layers.0.weight", "critic.layers.layers.0.weight"


def returns(steps, reward=1.0, last=0.0):
    """The discounted sum of the rewards from each row on, and of `last` after them."""
    found = [last]
    for _ in range(steps):
        found.append(reward + DISCOUNT * found[-1])
    return np.array(found[:0:-1])


def spec_of(steps, *teams):
    """One policy for each of the given numbers of agents."""
    action = ActionSpace("discrete", (ACTIONS,))
    names = [f"policy{number}" for number in range(len(teams))]
    policies = [
        PolicySpec(name, tuple(f"{name}_{k}" for k in range(agents)), (steps + 1,), action)
        for name, agents in zip(names, teams, strict=True)
    ]
    return make_spec(*policies, state_size=steps + 1)


def linear(spec, config, **keys):
    """An algorithm without hidden layers, all of whose weights are zero; value_cost 0.5 makes slopes of the
    critic plain sums of targets."""
    network = NetworkConfig(hidden=())
    plain = {
        "network": network,
        "discount": DISCOUNT,
        "trace_lambda": 1.0,
        "value_cost": 0.5,
        "entropy_cost": 0.0,
        "normalise_advantages": False,
    }
    algorithm = make_algorithm(spec, config(**(plain | keys)), 0)
    algorithm.load_parameters(np.zeros(algorithm.size, np.float32))
    algorithm.on_version(0)
    return algorithm


def slopes(algorithm, rollout):
    """The ascent direction by parameter, times the number of rows: the sum over rows, not their mean."""
    vector = algorithm.gradient([rollout])[0] * rollout.steps
    algorithm.load_parameters(vector)
    found = {name: array.copy() for name, array in algorithm.named_parameters().items()}
    algorithm.load_parameters(np.zeros(algorithm.size, np.float32))
    return found


def lone_game(steps, deaths, end=1, reward=1.0):
    """Policies of one agent each, which act up to their row of death; everybody is rewarded in every row."""
    spec = spec_of(steps, *[1] * len(deaths))
    alive = {
        policy.name: (np.arange(steps + 1) <= death)[:, None, None]
        for policy, death in zip(spec.policies, deaths, strict=True)
    }
    ends = np.zeros((steps, 1), np.uint8)
    ends[-1] = end
    return spec, written_rollout(spec, alive, {name: np.full((steps, 1, 1), reward) for name in alive}, ends)


@pytest.mark.parametrize(("config", "critic"), CENTRAL)
def test_rewards_after_a_policys_death_are_discounted(config, critic):
    steps = 20
    spec, rollout = lone_game(steps, deaths=[0, steps])
    found = slopes(linear(spec, config, critic=critic), rollout)
    wanted = returns(steps)
    assert wanted[0] == pytest.approx(8.784, abs=1e-3)
    advantage = found[f"policy0.{OUTPUTS}"][0] / (1 - 1 / ACTIONS)
    # the actor learns where it acts alone
    np.testing.assert_allclose(advantage, [wanted[0], *[0.0] * steps], atol=1e-4)
    # the state, or the other agent's observation
    seen_by_other = found[f"policy0.{CRITIC}"][0, -(steps + 1) :]
    np.testing.assert_allclose(seen_by_other[:steps], wanted, rtol=1e-5)


@pytest.mark.parametrize(("config", "critic"), CENTRAL)
@pytest.mark.parametrize("end", [0, 2])
def test_value_after_a_policys_death_is_bootstrapped(config, critic, end):
    """At the unroll's border and at the last observation of an episode that is cut off: from a critic that
    learns in such rows."""
    steps = 6
    spec, rollout = lone_game(steps, deaths=[1, steps], end=end)
    algorithm = linear(spec, config, critic=critic)
    weights = algorithm.parameters.copy()
    algorithm.load_parameters(weights)
    algorithm.named_parameters()[f"policy0.{CRITIC}"][0, -1] = 5.0  # of what follows the last row
    vector = algorithm.gradient([rollout])[0] * steps
    algorithm.load_parameters(vector)
    found = algorithm.named_parameters()[f"policy0.{CRITIC}"][0, -(steps + 1) :]
    np.testing.assert_allclose(found[:steps], returns(steps, last=5.0), rtol=1e-5)


@pytest.mark.parametrize("ratios", ["joint", "agent"])
def test_agents_of_one_policy_share_the_teams_time(ratios):
    """With ratios of each agent, too: a row in which nobody of the policy acts has the mean of its agents'
    targets."""
    steps = 5
    spec = spec_of(steps, 2, 1)
    alive = {
        "policy0": np.arange(steps + 1)[:, None, None] <= np.array([0, 2]),
        "policy1": np.ones((steps + 1, 1, 1)),
    }
    reward = {"policy0": np.ones((steps, 1, 2)), "policy1": np.zeros((steps, 1, 1))}
    end = np.zeros((steps, 1), np.uint8)
    end[-1] = 1
    found = slopes(
        linear(spec, MATraceConfig, critic="state", ratios=ratios), written_rollout(spec, alive, reward, end)
    )
    np.testing.assert_allclose(found[f"policy0.{CRITIC}"][0, :steps], returns(steps), rtol=1e-5)
    assert not found[f"policy1.{CRITIC}"].any()


def test_a_turn_based_game_counts_time_in_own_decisions():
    """The rewards of others' turns are gathered, not discounted: a player's horizon does not depend on the
    number of players."""
    steps = 4
    spec = make_spec(*spec_of(steps, 1, 1).policies, state_size=steps + 1, turn_based=True)
    turns = np.arange(steps + 1)[:, None, None] % 2
    end = np.zeros((steps, 1), np.uint8)
    end[-1] = 1
    reward = {name: np.ones((steps, 1, 1)) for name in ("policy0", "policy1")}
    rollout = written_rollout(spec, {"policy0": turns == 0, "policy1": turns == 1}, reward, end)
    found = slopes(linear(spec, MATraceConfig, critic="state"), rollout)
    second = 1 + DISCOUNT  # acts in row 2, is paid in rows 2 and 3
    np.testing.assert_allclose(
        found[f"policy0.{CRITIC}"][0, :steps], [1 + DISCOUNT * (1 + second), 0, second, 0], rtol=1e-5
    )


def test_game_rows_are_the_steps_of_episodes_that_are_played():
    """Four slots of five steps, as a league's side sees them: all its agents die in mid-episode; one lives on
    beside it; none is there until an episode ends; one rests. The first and the third end cut off, with
    nobody left and with somebody there."""
    steps, slots = 5, 4
    spec = spec_of(steps, 1, 1)
    first, second = np.zeros((2, steps + 1, slots, 1))
    first[:2, 0], first[:3, 1], second[:, 1], second[3:, 2] = 1, 1, 1, 1
    end = np.zeros((steps, slots), np.uint8)
    end[3, 0], end[2, 2], end[4, 2] = 2, 1, 2
    reward = {name: np.zeros((steps, slots, 1)) for name in ("policy0", "policy1")}
    rows = game_rows(join([written_rollout(spec, {"policy0": first, "policy1": second}, reward, end)]))
    assert rows.active[..., 0].T.tolist() == [[True] * 4 + [False], [True] * 5, [True] * 5, [False] * 5]
    assert np.argwhere(rows.terminated[..., 0]).tolist() == [[2, 2], [3, 0]]
    assert np.argwhere(rows.truncated[..., 0]).tolist() == [[4, 2]]


# --- COMA: a value of each agent's actions


def coma_targets(steps, deaths, end, last=0.0, teams=(2,), **keys):
    """Agents that do as their number says: what each learns, [agents, T], and what stands for the dead [T];
    last: the target network's value of an agent that does nothing."""
    spec = spec_of(steps, *teams)
    alive, action = {}, {}
    for policy in spec.policies:
        agents = np.arange(len(policy.agents))
        alive[policy.name] = np.arange(steps + 1)[:, None, None] <= np.array(deaths[policy.name])
        action[policy.name] = np.where(alive[policy.name][:-1], agents, 0)
    ends = np.zeros((steps, 1), np.uint8)
    ends[-1] = end
    reward = {name: np.ones(array.shape) for name, array in action.items()}
    algorithm = linear(spec, COMAConfig, critic="state", **keys)
    if last:
        algorithm._target_critics["policy0"].layers.layers[0].bias.data[-1] = last
    found = slopes(algorithm, written_rollout(spec, alive, reward, ends, action=action))[f"policy0.{CRITIC}"][
        :, :steps
    ]
    agents = teams[0]
    return found[:agents] * agents, found[-1] * agents


def test_coma_discounts_what_follows_an_agents_death():
    steps = 6
    found, dead = coma_targets(steps, {"policy0": [1, steps]}, end=1)
    wanted = returns(steps)
    np.testing.assert_allclose(found[1], wanted, rtol=1e-5)
    np.testing.assert_allclose(found[0], [*wanted[:2], 0, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(dead, [0, 0, *wanted[2:]], rtol=1e-5)


@pytest.mark.parametrize("end", [0, 2])
def test_coma_learns_a_death_that_the_episode_outlives(end):
    """Over the unroll's border, or an episode's that is cut off, the team's row says what follows: there the
    dead have a value, too."""
    steps = 6
    found, dead = coma_targets(steps, {"policy0": [1, steps]}, end=end, last=5.0)
    # the border's row closes the column and is not learned from; a row at which an episode is cut off stands
    # for what follows it
    wanted = returns(steps - 1, last=5.0) if end == 0 else returns(steps, last=5.0)
    np.testing.assert_allclose(found[0], [*wanted[:2], 0, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(dead[2 : len(wanted)], wanted[2:], rtol=1e-5)


def test_coma_critic_learns_where_its_whole_policy_is_dead():
    steps = 6
    found, dead = coma_targets(steps, {"policy0": [0], "policy1": [steps]}, end=1, teams=(1, 1))
    wanted = returns(steps)
    np.testing.assert_allclose(found[0], [wanted[0], *[0] * 5], rtol=1e-5)
    np.testing.assert_allclose(dead, [0, *wanted[1:]], rtol=1e-5)


@pytest.mark.parametrize("trace_lambda", [0.0, 0.5])
def test_coma_mixes_the_target_networks_values(trace_lambda):
    """TD(lambda) with a death on the way, from the recursion written out."""
    steps, last = 4, 2.0
    found, _ = coma_targets(steps, {"policy0": [1, steps]}, end=1, last=last, trace_lambda=trace_lambda)
    value = [0.0, 0.0, last, last]
    wanted = [0.0] * (steps + 1)
    for t in reversed(range(steps)):
        following = value[t + 1] if t + 1 < steps else 0.0
        wanted[t] = 1 + DISCOUNT * ((1 - trace_lambda) * following + trace_lambda * wanted[t + 1])
    np.testing.assert_allclose(found[0][:2], wanted[:2], rtol=1e-5)


# --- what is learned of it


def parting(steps, loss):
    """All games in which a leaver goes in some row, or never, and each later row earns the team `loss` less:
    a rollout for each row of leaving."""
    policies = [
        PolicySpec(name, (name,), (steps + 1,), ActionSpace("discrete", (actions,)))
        for name, actions in (("leaver", 2), ("other", 1))
    ]
    spec, rows, found = make_spec(*policies, state_size=2 * (steps + 1)), np.arange(steps + 1), []
    end = np.zeros((steps, 1), np.uint8)
    end[-1] = 1
    for left in range(steps + 1):
        alive = {"leaver": (rows <= left)[:, None, None], "other": np.ones((steps + 1, 1, 1))}
        earned = np.where(rows[:steps] <= left, 1.0, 1.0 - loss)[:, None, None]
        action = {
            "leaver": (rows[:steps] == left)[:, None, None].astype(int),
            "other": np.zeros((steps, 1, 1), int),
        }
        rollout = written_rollout(spec, alive, dict.fromkeys(alive, earned), end, action=action)
        rollout.state = np.eye(2 * (steps + 1), dtype=np.float32)[rows + (steps + 1) * (rows > left)][:, None]
        found.append(rollout)
    return spec, found


def learned_chances(config, steps, updates, **keys):
    """How likely the leaver goes in each row after so many steps along the exact expectation of the gradient:
    nothing is sampled."""
    spec, rollouts = parting(steps, loss=0.2)
    algorithm, seen = (
        linear(spec, config, critic="state", value_cost=1.0, **keys),
        np.eye(steps + 1, dtype=np.float32)[:steps],
    )
    for version in range(updates):
        algorithm.on_version(version)
        chances = algorithm.action_probs("leaver", seen, None)
        stays = np.cumprod([1.0, *chances[:, 0]])
        total = np.zeros(algorithm.size)
        for rollout, likely in zip(rollouts, [*(chances[:, 1] * stays[:-1]), stays[-1]], strict=True):
            part = rollout.policies["leaver"]
            part.logp[:, 0, 0] = np.where(
                part.alive[:-1, 0, 0], np.log(chances[np.arange(steps), part.action[:, 0, 0]]), 0.0
            )
            total += likely * algorithm.gradient([rollout])[0]
        algorithm.load_parameters((algorithm.parameters + 0.2 * total).astype(np.float32))
    return algorithm.action_probs("leaver", seen, None)[:, 1]


@pytest.mark.parametrize(
    ("config", "keys"),
    [(COMAConfig, {"target_every": 1, "trace_lambda": 0.8}), (MATraceConfig, {}), (PPOConfig, {})],
)
def test_who_would_cost_the_team_by_leaving_learns_to_stay(config, keys):
    """With later rewards undiscounted leaving had looked good: COMA's leaver still went with chances of 0.4
    to 0.6 in every row."""
    assert learned_chances(config, steps=6, updates=150, **keys).max() < 0.2
