"""A game seen from one side: masks, rewards and opponents' actions.

The bare game, stepped with the same actions, is the reference.
"""

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.config import (
    AgentNetworkConfig,
    COMAConfig,
    EnvConfig,
    IQLConfig,
    MATraceConfig,
    NetworkConfig,
    PolicyConfig,
    PPOConfig,
    QMIXConfig,
    ReinforceConfig,
    VDNConfig,
)
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.errors import FormatError, HpcmarlError
from hpcmarl.io.pool import Pool, write_snapshot
from hpcmarl.league.runtime.opponent_env import OpponentEnv, Sides, side_of
from hpcmarl.league.runtime.opponents import SELF, Opponents
from hpcmarl.types import PolicyRollout, Rollout

TAG = EnvConfig(id="mpe2.simple_tag_v3", kwargs={"max_cycles": 6})
TAG_POLICIES = {"predators": PolicyConfig(agents=("adversary_*",)), "prey": PolicyConfig(agents=("agent_*",))}
TICTACTOE = EnvConfig(id="pettingzoo.classic.tictactoe_v3")
SPREAD = EnvConfig(id="mpe2.simple_spread_v3", kwargs={"max_cycles": 5})


def win(own, other):
    return 0.5 if own == other else float(own > other)


class Listening:
    """An environment that records the actions that it is stepped with."""

    def __init__(self, environment):
        self.environment, self.heard = environment, []

    def __getattr__(self, name):
        return getattr(self.environment, name)

    def step(self, actions, outcome, frame):
        self.heard.append({name: np.array(action) for name, action in actions.items()})
        self.environment.step(actions, outcome, frame)


def make(
    tmp_path,
    config,
    policies,
    sides,
    slots=4,
    own_share=0.0,
    recurrent=False,
    critic="independent",
    names=("other-000001", "other-000002"),
    algo=None,
):
    """Return the game, the member's policy and the opponents."""
    spec = describe(config, policies)
    settings = algo or MATraceConfig(
        critic=critic, network=NetworkConfig(hidden=(8,), body="gru" if recurrent else "mlp")
    )
    theirs = side_of(spec, sides.other)
    for seed, name in enumerate(names, 1):
        write_snapshot(tmp_path, name, make_algorithm(theirs, settings, seed).initial_parameters(), {})
    opponents = Opponents(
        Pool(tmp_path, 4),
        lambda: make_algorithm(theirs, settings, 0),
        np.random.default_rng(0),
        at_once=2,
        stay=2,
    )
    opponents.change(names, np.full(len(names), (1 - own_share) / len(names)), own_share)
    bare = Listening(make_environment(config, policies, slots, Seeds(3)))
    versus = OpponentEnv(bare, sides, opponents, win, np.random.default_rng(1))
    own = make_algorithm(side_of(spec, sides.own), settings, 9)
    return versus, own, opponents


def play(versus, own, steps):
    """Return copied frames, decisions, outcomes, own seats and opponents of each step."""
    frames = [new_frame(versus.spec, versus.slots), new_frame(versus.spec, versus.slots)]
    memory, generator, told = own.initial_memory(versus.slots), np.random.default_rng(2), []
    versus.reset(frames[0])
    for _ in range(steps):
        outcome = new_outcome(versus.spec, versus.slots)
        decisions = own.act(frames[0], memory, generator)
        for name, decision in decisions.items():
            if decision.memory is not None:
                memory[name] = decision.memory
        shapes = {policy.name: (versus.slots, len(policy.agents)) for policy in versus.spec.policies}
        seats = {
            name: versus.seats[0].copy() if versus.sides.symmetric else np.ones(shape, bool)
            for name, shape in shapes.items()
        }
        who = list(versus.who)
        versus.step({name: decision.action for name, decision in decisions.items()}, outcome, frames[1])
        seen = {name: (part.obs.copy(), part.alive.copy()) for name, part in frames[0].policies.items()}
        told.append((seen, decisions, outcome, seats, who))
        frames.reverse()
    return told


@pytest.mark.parametrize(
    ("config", "policies", "sides"),
    [
        (TICTACTOE, {}, Sides(("player",), ("player",))),
        (SPREAD, {}, Sides(("agent",), ("agent",), own_seats=2)),
        (TAG, TAG_POLICIES, Sides(("predators",), ("prey",))),
        (TAG, TAG_POLICIES, Sides(("prey",), ("predators",))),
    ],
    ids=["tictactoe", "spread", "predators", "prey"],
)
def test_versus_environment_masks_but_preserves_the_game(tmp_path, config, policies, sides):
    versus, own, _ = make(tmp_path, config, policies, sides)
    told = play(versus, own, 40)
    twin = make_environment(config, policies, versus.slots, Seeds(3))
    frames = [new_frame(twin.spec, twin.slots), new_frame(twin.spec, twin.slots)]
    twin.reset(frames[0])
    for (seen, decisions, outcome, seats, _), heard in zip(told, versus.environment.heard, strict=True):
        bare = new_outcome(twin.spec, twin.slots)
        for name in sides.own:
            obs, alive = seen[name]
            np.testing.assert_array_equal(obs, frames[0].policies[name].obs)
            np.testing.assert_array_equal(alive, frames[0].policies[name].alive & seats[name])
            # The game receives the decided actions.
            np.testing.assert_array_equal(heard[name][alive], decisions[name].action[alive])
        twin.step(heard, bare, frames[1])
        for name in sides.own:
            np.testing.assert_array_equal(
                outcome.policies[name].reward[seats[name]], bare.policies[name].reward[seats[name]]
            )
            np.testing.assert_array_equal(
                outcome.policies[name].terminated, bare.policies[name].terminated & seats[name]
            )
        np.testing.assert_array_equal(outcome.episode_end, bare.episode_end)
        frames.reverse()
    assert sum(len(outcome.episodes) for _, _, outcome, _, _ in told) > 4


@pytest.mark.parametrize("own_seats", [1, 2])
@pytest.mark.parametrize("own_share", [0.0, 0.5, 1.0])
def test_team_reward_is_the_mean_over_own_seats(tmp_path, own_seats, own_share):
    """The team reward does not contain rewards of other seats.

    Agents get individual rewards here, so that the mean over all seats differs from the mean over some.
    """
    config = SPREAD.model_copy(update={"kwargs": {"max_cycles": 5, "local_ratio": 0.9}})
    versus, own, _ = make(
        tmp_path, config, {}, Sides(("agent",), ("agent",), own_seats=own_seats), own_share=own_share
    )
    twin = make_environment(config, {}, versus.slots, Seeds(3))
    frame, returns, found = new_frame(twin.spec, twin.slots), np.zeros(4), []
    twin.reset(frame)
    told = play(versus, own, 40)
    for (_, _, outcome, seats, who), heard in zip(told, versus.environment.heard, strict=True):
        bare = new_outcome(twin.spec, twin.slots)
        twin.step(heard, bare, frame)
        mine, paid = seats["agent"], bare.policies["agent"].reward
        assert mine.sum(1).tolist() == [3 if name == SELF else own_seats for name in who]
        wanted = np.array([paid[slot, mine[slot]].mean() for slot in range(4)])
        np.testing.assert_allclose(outcome.policies["agent"].reward.mean(1), wanted, rtol=1e-5)
        returns += wanted
        for episode in outcome.episodes:
            found.append(episode)
            assert episode.return_mean == pytest.approx(returns[episode.slot], rel=1e-5)
            assert episode.returns == {"agent": episode.return_mean}
            returns[episode.slot] = 0.0
    assert len(found) == 32


# Rewards that do not depend on the actions. ONES: both players get 1 a round. UNEQUAL: the row player gets 1,
# the column player 3.
ONES = EnvConfig(
    id="matrix:own", kwargs={"payoff": [[1, 1], [1, 1]], "column_payoff": [[1, 1], [1, 1]], "rounds": 3}
)
UNEQUAL = EnvConfig(
    id="matrix:own", kwargs={"payoff": [[1, 1], [1, 1]], "column_payoff": [[3, 3], [3, 3]], "rounds": 3}
)
TEAMS = [
    MATraceConfig(critic="joint_observation"),
    PPOConfig(critic="joint_observation"),
    COMAConfig(critic="joint_observation"),
    VDNConfig(),
    QMIXConfig(mixer_state="joint_observation"),
]
AGENTS = [MATraceConfig(critic="independent"), PPOConfig(critic="independent"), IQLConfig()]


def episode_rollout(versus, own, steps=3):
    """Return the first episode of each slot as a learner sees it: all terminate after `steps` steps."""
    told = play(versus, own, steps)
    policies = {}
    for policy in versus.spec.policies:
        rows = [
            (seen[policy.name], decisions[policy.name], outcome.policies[policy.name])
            for seen, decisions, outcome, _, _ in told
        ]
        nothing = np.zeros_like(rows[0][0][0]), np.zeros_like(rows[0][0][1])
        policies[policy.name] = PolicyRollout(
            obs=np.stack([seen[0] for seen, _, _ in rows] + [nothing[0]]),
            alive=np.stack([seen[1] for seen, _, _ in rows] + [nothing[1]]),
            action=np.stack([decision.action for _, decision, _ in rows]),
            logp=np.stack([decision.logp for _, decision, _ in rows]),
            reward=np.stack([outcome.reward for _, _, outcome in rows]),
            terminated=np.stack([outcome.terminated for _, _, outcome in rows]),
            truncated=np.stack([outcome.truncated for _, _, outcome in rows]),
            final_obs=np.zeros((0, *nothing[0].shape[1:]), np.float32),
        )
    slots = np.arange(versus.slots, dtype=np.int64)
    start, end = np.zeros((steps + 1, len(slots)), bool), np.zeros((steps, len(slots)), np.uint8)
    start[[0, -1]], end[-1] = True, 1
    return Rollout(
        policies,
        start,
        end,
        np.zeros((0, 2), np.int32),
        np.zeros_like(slots),
        np.zeros_like(slots),
        slots,
        np.full(len(slots), -1, np.int32),
        0,
        0,
    )


def learner(algo, versus):
    settings = algo.model_copy(
        update={"discount": 0.5, "network": type(algo.network)(hidden=(4,), body="mlp")}
    )
    return make_algorithm(versus.spec, settings, 0)


@pytest.mark.parametrize("algo", TEAMS, ids=lambda algo: algo.name)
@pytest.mark.parametrize("own_share", [0.0, 1.0])
def test_team_learners_see_the_same_reward_whoever_is_met(tmp_path, algo, own_share):
    """A learner's value limit is the largest reward that it learns from, divided by 1 - discount."""
    versus, own, _ = make(tmp_path, ONES, {}, Sides(("player",), ("player",)), own_share=own_share)
    assert learner(algo, versus).gradient([episode_rollout(versus, own)])[1]["value_limit"] == pytest.approx(
        2.0
    )


@pytest.mark.parametrize("algo", AGENTS, ids=lambda algo: algo.name)
@pytest.mark.parametrize(("own_share", "largest"), [(0.0, 1.0), (1.0, 3.0)])
def test_independent_learners_see_their_rewards_unscaled(tmp_path, algo, own_share, largest):
    """The first seat of the only slot belongs to the row player."""
    versus, own, _ = make(
        tmp_path, UNEQUAL, {}, Sides(("player",), ("player",)), slots=1, own_share=own_share
    )
    assert learner(algo, versus).gradient([episode_rollout(versus, own)])[1]["value_limit"] == pytest.approx(
        2.0 * largest
    )


@pytest.mark.parametrize("own_share", [0.0, 1.0])
def test_reinforce_sees_the_same_reward_whoever_is_met(tmp_path, own_share):
    versus, own, _ = make(tmp_path, ONES, {}, Sides(("player",), ("player",)), slots=1, own_share=own_share)
    algorithm, rollout = learner(ReinforceConfig(), versus), episode_rollout(versus, own)
    algorithm.load_parameters(algorithm.initial_parameters())
    part = rollout.policies["player"]
    logp = np.log(
        np.take_along_axis(
            algorithm.action_probs("player", part.obs[:3].reshape(6, -1), None), part.action.reshape(6, 1), 1
        )
    )
    to_go = np.array([1.75, 0.75, 0.25])  # rewards of 1 at a discount of 0.5
    wanted = (logp.reshape(3, 2) * part.alive[:3, 0] * to_go[:, None]).sum()
    assert part.alive[:3].sum() == (6 if own_share else 3)
    assert algorithm.gradient([rollout])[1]["policy_loss"] == pytest.approx(-wanted, rel=1e-5)


def test_episode_records_own_return_and_opponent(tmp_path):
    versus, own, opponents = make(tmp_path, TICTACTOE, {}, Sides(("player",), ("player",)))
    told = play(versus, own, 60)
    earned, counted = np.zeros((4, 2)), {}
    for _, _, outcome, seats, who in told:
        earned += outcome.policies["player"].reward * seats["player"]
        for episode in outcome.episodes:
            own_seat = seats["player"][episode.slot]
            assert own_seat.sum() == 1
            result = earned[episode.slot][own_seat][0]
            assert episode.return_mean == result
            # The game is zero-sum.
            assert episode.outcome == {
                "win": win(result, -result),
                "other_return": -result,
            }
            counted.setdefault(who[episode.slot], []).append(result)
            earned[episode.slot] = 0.0
    played = opponents.take_played()
    assert {name: row.games for name, row in played.items()} == {
        name: len(results) for name, results in counted.items()
    }
    assert len(played) == 2
    for name, results in counted.items():
        expected = [
            len(results),
            sum(win(r, -r) for r in results),
            sum(results),
            sum(r * r for r in results),
            -sum(results),
            sum(r * r for r in results),
        ]
        assert played[name].row() == pytest.approx(expected)


def test_seats_alternate_by_episode_and_slot(tmp_path):
    versus, own, _ = make(tmp_path, TICTACTOE, {}, Sides(("player",), ("player",)))
    told = play(versus, own, 60)
    first = told[0][3]["player"].argmax(axis=1)
    assert first.tolist() == [0, 1, 0, 1]
    had = {(slot, int(seats["player"][slot].argmax())) for _, _, _, seats, _ in told for slot in range(4)}
    assert had == {(slot, seat) for slot in range(4) for seat in range(2)}


def test_self_play_uses_all_seats_and_records_no_games(tmp_path):
    versus, own, opponents = make(tmp_path, TICTACTOE, {}, Sides(("player",), ("player",)), own_share=1.0)
    told = play(versus, own, 30)
    assert all(seats["player"].all() for _, _, _, seats, _ in told)
    assert all(name == SELF for _, _, _, _, who in told for name in who)
    assert any(outcome.episodes for _, _, outcome, _, _ in told)
    assert opponents.take_played() == {}


LAST_ACTION = IQLConfig(obs_last_action=True, network=AgentNetworkConfig(hidden=(8,), body="mlp"))


@pytest.mark.parametrize("algo", [None, LAST_ACTION], ids=["gru", "last action"])
def test_opponent_memory_resets_each_episode(tmp_path, algo):
    sides = Sides(("predators",), ("prey",))
    versus, own, opponents = make(
        tmp_path, TAG, TAG_POLICIES, sides, slots=1, recurrent=True, names=("other-000001",), algo=algo
    )
    versus.greedy = True
    play(versus, own, 15)  # episodes of six steps
    replies = [heard["prey"] for heard in versus.environment.heard]
    twin = make_environment(TAG, TAG_POLICIES, 1, Seeds(3))
    policy = opponents.policy("other-000001")
    frames, memory = [new_frame(twin.spec, 1), new_frame(twin.spec, 1)], policy.initial_memory(1)
    twin.reset(frames[0])
    for step, heard in enumerate(versus.environment.heard):
        if frames[0].episode_start[0]:
            memory = policy.initial_memory(1)
        frame = type(frames[0])({"prey": frames[0].policies["prey"]}, None, frames[0].episode_start)
        decision = policy.act(frame, memory, np.random.default_rng(0), greedy=True)["prey"]
        np.testing.assert_array_equal(replies[step], decision.action)
        memory = {"prey": decision.memory}
        twin.step(heard, new_outcome(twin.spec, 1), frames[1])
        frames.reverse()


# ---- opponents


class Numbered:
    """A policy with one parameter, its number."""

    size = 1

    def load_parameters(self, vector):
        self.number = int(vector[0])


def some(tmp_path, count, **settings):
    for number in range(count):
        write_snapshot(tmp_path, f"m-{number:06d}", np.array([number], np.float32), {})
    opponents = Opponents(Pool(tmp_path, 2), Numbered, np.random.default_rng(0), **settings)
    opponents.change(
        [f"m-{number:06d}" for number in range(count)], np.arange(count) / np.arange(count).sum(), 0.0
    )
    return opponents


def test_opponent_draws_follow_weights_with_few_loaded(tmp_path):
    opponents = some(tmp_path, 5, at_once=3, stay=2)
    drawn, held = np.zeros(5), []
    for _ in range(4000):
        name = opponents.draw()
        number = int(name[-1])
        assert opponents.policy(name).number == number
        drawn[number] += 1
        held.append(name)
        if len(held) > 4:
            opponents.give_back(held.pop(0))
        assert len(set(held)) <= 5
    np.testing.assert_allclose(drawn / drawn.sum(), np.arange(5) / 10, atol=0.03)
    assert drawn[0] == 0


def test_self_play_share_is_drawn_at_its_rate(tmp_path):
    opponents = some(tmp_path, 3)
    opponents.change(["m-000001"], np.array([0.25]), 0.75)
    drawn = [opponents.draw() for _ in range(2000)]
    assert np.mean([name == SELF for name in drawn]) == pytest.approx(0.75, abs=0.04)


def test_damaged_opponent_is_quarantined_and_replaced(tmp_path):
    opponents = some(tmp_path, 3)
    (tmp_path / "m-000002.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    drawn = {opponents.draw() for _ in range(50)}
    assert drawn == {"m-000001"}
    assert opponents.bad == {"m-000002"}
    assert (tmp_path / "quarantine" / "m-000002.h5").exists()
    assert not (tmp_path / "m-000002.h5").exists()


def test_no_readable_opponent_raises(tmp_path):
    opponents = some(tmp_path, 2)
    (tmp_path / "m-000001.h5").unlink()
    opponents.change(["m-000001"], np.ones(1), 0.0)
    with pytest.raises(HpcmarlError, match="none of the 1 opponents can be read"):
        opponents.draw()


def test_pool_cache_is_bounded_and_rejects_wrong_sizes(tmp_path):
    for number in range(5):
        write_snapshot(tmp_path, f"m-{number:06d}", np.full(3, number, np.float32), {"member": "m"})
    pool = Pool(tmp_path, 2)
    for number in (0, 1, 2, 1, 4):
        assert pool.parameters(f"m-{number:06d}", 3).tolist() == [number] * 3
        assert len(pool._kept) <= 2
    assert list(pool._kept) == ["m-000001", "m-000004"]
    with pytest.raises(FormatError, match="holds 3 parameters, but the configuration needs 4"):
        pool.parameters("m-000003", 4)
    with pytest.raises(FloatingPointError, match="not finite"):
        write_snapshot(tmp_path, "m-000009", np.array([np.nan], np.float32), {})
