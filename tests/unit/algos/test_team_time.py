"""Central critics count the team's time, with returns known in closed form.

They discount every step and learn in every row of the game, whichever agents have died.

Networks are linear in the row's number, and their weights are zero. So the gradient of a weight shows the
target, or the advantage, of its row.
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
    """Return the discounted sum of the rewards from each row on, and of `last` after them."""
    found = [last]
    for _ in range(steps):
        found.append(reward + DISCOUNT * found[-1])
    return np.array(found[:0:-1])


def spec_of(steps, *teams):
    """Return a specification with one policy for each of the given numbers of agents."""
    action = ActionSpace("discrete", (ACTIONS,))
    names = [f"policy{number}" for number in range(len(teams))]
    policies = [
        PolicySpec(name, tuple(f"{name}_{k}" for k in range(agents)), (steps + 1,), action)
        for name, agents in zip(names, teams, strict=True)
    ]
    return make_spec(*policies, state_size=steps + 1)


def linear(spec, config, **keys):
    """Return an algorithm without hidden layers; all its weights are zero.

    value_cost 0.5 makes the critic's slopes plain sums of targets.
    """
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
    """Return the ascent direction by parameter, as a sum over rows.

    The gradient is a mean over rows; it is multiplied by their number.
    """
    vector = algorithm.gradient([rollout])[0] * rollout.steps
    algorithm.load_parameters(vector)
    found = {name: array.copy() for name, array in algorithm.named_parameters().items()}
    algorithm.load_parameters(np.zeros(algorithm.size, np.float32))
    return found


def lone_game(steps, deaths, end=1, reward=1.0):
    """Return a game of policies with one agent each; each acts up to its row of death.

    All agents are rewarded in every row.
    """
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
    # The actor learns only where it acts.
    np.testing.assert_allclose(advantage, [wanted[0], *[0.0] * steps], atol=1e-4)
    # Weights of the state, or of the other agent's observation.
    seen_by_other = found[f"policy0.{CRITIC}"][0, -(steps + 1) :]
    np.testing.assert_allclose(seen_by_other[:steps], wanted, rtol=1e-5)


@pytest.mark.parametrize(("config", "critic"), CENTRAL)
@pytest.mark.parametrize("end", [0, 2])
def test_value_after_a_policys_death_is_bootstrapped(config, critic, end):
    """The value is bootstrapped at the unroll's border and at a truncation.

    It comes from a critic that learns in such rows. At a truncation it uses the last observation.
    """
    steps = 6
    spec, rollout = lone_game(steps, deaths=[1, steps], end=end)
    algorithm = linear(spec, config, critic=critic)
    weights = algorithm.parameters.copy()
    algorithm.load_parameters(weights)
    # This is the value after the last row.
    algorithm.named_parameters()[f"policy0.{CRITIC}"][0, -1] = 5.0
    vector = algorithm.gradient([rollout])[0] * steps
    algorithm.load_parameters(vector)
    found = algorithm.named_parameters()[f"policy0.{CRITIC}"][0, -(steps + 1) :]
    np.testing.assert_allclose(found[:steps], returns(steps, last=5.0), rtol=1e-5)


@pytest.mark.parametrize("ratios", ["joint", "agent"])
def test_agents_of_one_policy_share_the_teams_time(ratios):
    """A row in which no agent of the policy acts has the mean of its agents' targets.

    This holds with ratios of each agent, too.
    """
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
    """The rewards of others' turns are added, not discounted.

    A player's horizon does not depend on the number of players.
    """
    steps = 4
    spec = make_spec(*spec_of(steps, 1, 1).policies, state_size=steps + 1, turn_based=True)
    turns = np.arange(steps + 1)[:, None, None] % 2
    end = np.zeros((steps, 1), np.uint8)
    end[-1] = 1
    reward = {name: np.ones((steps, 1, 1)) for name in ("policy0", "policy1")}
    rollout = written_rollout(spec, {"policy0": turns == 0, "policy1": turns == 1}, reward, end)
    found = slopes(linear(spec, MATraceConfig, critic="state"), rollout)
    # The agent acts in row 2 and is rewarded in rows 2 and 3.
    second = 1 + DISCOUNT
    np.testing.assert_allclose(
        found[f"policy0.{CRITIC}"][0, :steps], [1 + DISCOUNT * (1 + second), 0, second, 0], rtol=1e-5
    )


def test_game_rows_are_the_steps_of_episodes_that_are_played():
    """Four slots of five steps, as one side of a league sees them.

    Slot 0: all agents of the side die in mid-episode, and the episode is truncated with no agent left.
    Slot 1: one agent dies, and the other one lives on.
    Slot 2: no agent is present until an episode ends; the next one is truncated with an agent present.
    Slot 3: no agent ever plays.
    """
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
    """Return COMA's targets [agents, T] and the targets of the dead [T].

    Each agent's action is its own number.

    Args:
        steps: Number of steps T.
        deaths: Row of death of each agent, by policy.
        end: Kind of the episode's end in the last row.
        last: The target network's value of an agent that does nothing.
        teams: Number of agents of each policy.
        **keys: Settings of COMA.
    """
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
    """Over an unroll's border or a truncation, the team's row gives the later value.

    In that row the dead have a value, too.
    """
    steps = 6
    found, dead = coma_targets(steps, {"policy0": [1, steps]}, end=end, last=5.0)
    # The border's row closes the column and is not learned.
    # The row of a truncation stands for all later rows.
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
    """TD(lambda) with a death before the end, from the recursion written out."""
    steps, last = 4, 2.0
    found, _ = coma_targets(steps, {"policy0": [1, steps]}, end=1, last=last, trace_lambda=trace_lambda)
    value = [0.0, 0.0, last, last]
    wanted = [0.0] * (steps + 1)
    for t in reversed(range(steps)):
        following = value[t + 1] if t + 1 < steps else 0.0
        wanted[t] = 1 + DISCOUNT * ((1 - trace_lambda) * following + trace_lambda * wanted[t + 1])
    np.testing.assert_allclose(found[0][:2], wanted[:2], rtol=1e-5)


# --- learning to stay


def parting(steps, loss):
    """Return a rollout for each row in which a leaver may leave, and one in which it never leaves.

    Each row after the departure earns the team `loss` less.
    """
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
    """Return the leaver's chance to leave in each row, after `updates` steps.

    The steps follow the exact expectation of the gradient: nothing is sampled.
    """
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
    """The leaver learns to stay.

    Without discounting of later rewards, leaving looked good. COMA's leaver still left with chances of 0.4 to
    0.6 in every row.
    """
    assert learned_chances(config, steps=6, updates=150, **keys).max() < 0.2
