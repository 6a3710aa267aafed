"""MA-Trace's ratios of teams of several policies, against exact enumeration.

The games have one step or two. Every joint sequence of actions is one rollout. Its gradient is weighed by the
probability with which the policies of an age play it. The sum is an expectation.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.ma_trace import MATrace
from hpcmarl.config import EnvConfig, MATraceConfig, NetworkConfig, PolicyConfig
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError
from hpcmarl.league.runtime.opponent_env import side_of
from hpcmarl.types import ActionSpace, EnvironmentSpec, FloatArray, PolicySpec, Rollout
from tests.support.rollouts import make_spec, written_rollout
from tests.support.worlds import SPREAD

ACTIONS, DISCOUNT, FREE = 2, 0.9, 1e6
NAMES = ("left", "right")
Chances = dict[str, np.ndarray]  # policy -> [T, A]
ALONE: Any = (("left",), ("right",))


def spec_of(steps: int, *teams: tuple[str, ...]) -> EnvironmentSpec:
    """Return a specification with one agent per policy.

    Observations and states are the row's number.
    """
    policies = [
        PolicySpec(name, (name,), (steps + 1,), ActionSpace("discrete", (ACTIONS,))) for name in NAMES
    ]
    return replace(make_spec(*policies, state_size=steps + 1), teams=teams)


def make(spec: EnvironmentSpec, **keys: Any) -> MATrace:
    """Return MA-Trace with random weights, and with clips that change no ratio."""
    settings = {
        "critic": "state",
        "network": NetworkConfig(hidden=()),
        "discount": DISCOUNT,
        "rho_max": FREE,
        "c_max": FREE,
        "entropy_cost": 0.0,
    }
    algorithm = make_algorithm(spec, MATraceConfig(**(settings | keys)), 0)
    assert isinstance(algorithm, MATrace)
    algorithm.load_parameters(
        np.random.default_rng(3).standard_normal(algorithm.size).astype(np.float32) * 0.7
    )
    return algorithm


def present_chances(algorithm: MATrace, steps: int) -> Chances:
    return {
        name: algorithm.action_probs(name, np.eye(steps + 1, dtype=np.float32)[:steps], None)
        for name in NAMES
    }


def former_chances(steps: int) -> Chances:
    return {
        name: np.random.default_rng(number).dirichlet([2.0] * ACTIONS, steps)
        for number, name in enumerate(NAMES)
    }


def expectation(algorithm: MATrace, steps: int, played_by: Chances, rewards: np.ndarray) -> FloatArray:
    """Return the mean gradient if `played_by` samples the actions.

    Args:
        algorithm: The algorithm whose gradient is averaged.
        steps: Number of steps T of the game.
        played_by: Chances of the actions, policy -> [T, A].
        rewards: Rewards of both policies by joint action [T, A, A].
    """
    total = np.zeros(algorithm.size)
    for left, right in itertools.product(itertools.product(range(ACTIONS), repeat=steps), repeat=2):
        done = {"left": np.array(left), "right": np.array(right)}
        likely = {name: played_by[name][np.arange(steps), actions] for name, actions in done.items()}
        earned = rewards[np.arange(steps), done["left"], done["right"]]
        total += (
            np.prod(list(likely.values()))
            * algorithm.gradient([written(algorithm.spec, done, likely, earned)])[0]
        )
    return total.astype(np.float32)


def written(
    spec: EnvironmentSpec, done: dict[str, np.ndarray], likely: dict[str, np.ndarray], earned: np.ndarray
) -> Rollout:
    steps = len(earned)
    end = np.zeros((steps, 1), np.uint8)
    end[-1] = 1

    def column(array: np.ndarray) -> np.ndarray:
        return array[:, None, None]

    return written_rollout(
        spec,
        {name: np.ones((steps + 1, 1, 1)) for name in NAMES},
        {name: column(earned) for name in NAMES},
        end,
        action={name: column(actions) for name, actions in done.items()},
        logp={name: column(np.log(chance)) for name, chance in likely.items()},
    )


def rewards_of(steps: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((steps, ACTIONS, ACTIONS)) * 2


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    ("known", "teams"), [((NAMES,), "auto"), ((), (NAMES,))], ids=["common_reward", "configured"]
)
def test_team_ratios_correct_for_all_that_has_changed(steps: int, known: Any, teams: Any) -> None:
    algorithm = make(spec_of(steps, *known), teams=teams)
    wanted = expectation(algorithm, steps, present_chances(algorithm, steps), rewards_of(steps))
    found = expectation(algorithm, steps, former_chances(steps), rewards_of(steps))
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("known", "teams"), [((), "auto"), ((NAMES,), ALONE)], ids=["unknown_rewards", "configured"]
)
def test_policies_alone_are_corrected_for_their_own_age(known: Any, teams: Any) -> None:
    """The gradient of `left` is then the one beside the former `right`.

    It differs from the gradient beside the present `right`.
    """
    algorithm = make(spec_of(1, *known), teams=teams)
    now, former = present_chances(algorithm, 1), former_chances(1)
    own = algorithm.segments["left"]
    found = expectation(algorithm, 1, former, rewards_of(1))[own]
    beside = expectation(algorithm, 1, {"left": now["left"], "right": former["right"]}, rewards_of(1))[own]
    np.testing.assert_allclose(found, beside, atol=1e-5, rtol=1e-4)
    assert np.abs(found - expectation(algorithm, 1, now, rewards_of(1))[own]).max() > 0.05


def test_ratios_never_cover_opponents() -> None:
    """Two policies play together against a third.

    The log-probabilities of either side change nothing for the other side.
    """
    policies = [
        PolicySpec(name, (name,), (2,), ActionSpace("discrete", (ACTIONS,)))
        for name in ("left", "right", "other")
    ]
    algorithm = make(make_spec(*policies, state_size=2), teams=(NAMES,))
    shape = {policy.name: np.ones((2, 1, 1)) for policy in policies}
    rollout = written_rollout(
        algorithm.spec, shape, {name: array[:1] for name, array in shape.items()}, np.ones((1, 1), np.uint8)
    )
    before = algorithm.gradient([rollout])[0]
    rollout.policies["other"].logp -= 0.5
    after = algorithm.gradient([rollout])[0]
    changed = {
        name: not np.array_equal(before[place], after[place]) for name, place in algorithm.segments.items()
    }
    assert changed == {"left": False, "right": False, "other": True}
    rollout.policies["right"].logp -= 0.5
    last = algorithm.gradient([rollout])[0]
    changed = {
        name: not np.array_equal(after[place], last[place]) for name, place in algorithm.segments.items()
    }
    assert changed == {"left": True, "right": True, "other": False}


@pytest.mark.parametrize(
    ("config", "policies", "teams"),
    [
        ({"id": "mpe2.simple_tag_v3"}, None, ()),
        ({"id": "mpe2.simple_speaker_listener_v4"}, None, ()),
        (
            {"id": "mpe2.simple_speaker_listener_v4", "common_reward": True},
            None,
            (("speaker_0", "listener_0"),),
        ),
        ({"id": "matrix:rps"}, ("player_0", "player_1"), ()),
        ({"id": "matrix:coordination"}, ("player_0", "player_1"), (("player_0", "player_1"),)),
        ({"id": "matrix:coordination", "common_reward": False}, ("player_0", "player_1"), ()),
    ],
    ids=str,
)
def test_teams_are_known_where_the_reward_is_common(
    config: dict[str, Any], policies: Any, teams: Any
) -> None:
    assert (
        describe(EnvConfig(**config), {name: PolicyConfig(agents=(name,)) for name in policies or ()}).teams
        == teams
    )


def test_a_leagues_side_is_a_team_without_its_opponents() -> None:
    spec = describe(EnvConfig(id="mpe2.simple_world_comm_v3"), {})
    own = [policy.name for policy in spec.policies if policy.name != "agent"]
    assert len(own) == 2
    algorithm = make_algorithm(side_of(spec, own), MATraceConfig(), 0)
    assert isinstance(algorithm, MATrace)
    assert algorithm._mates == dict.fromkeys(own, tuple(own))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("algo.teams=[[a], [b, a]]",), "algo.teams: policy a is in more than one team"),
        (
            ("algo.teams=[[a, b]]", "algo.critic=independent"),
            "algo.teams does not work with algo.critic: independent",
        ),
        (
            ("algo.teams=[[a, b]]", "algo.ratios=agent"),
            "algo.teams does not work with algo.ratios: agent",
        ),
        (
            ("algo.teams=[[a, b]]", "algo.importance_sampling=false"),
            "algo.teams does not work with algo.importance_sampling: false",
        ),
        (("algo.teams=[[a, b]]", "league={}"), "algo.teams does not work with a league"),
        (("algo.teams=[[]]",), "algo.teams"),
        (("algo.teams=all",), "algo.teams"),
    ],
)
def test_senseless_teams_are_one_line_errors(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(SPREAD, changes)
    assert "\n" not in str(caught.value)


def test_teams_must_fit_the_environment() -> None:
    with pytest.raises(
        ConfigError,
        match=r"algo\.teams: tests\.random has no policy prey; allowed: left, right",
    ):
        make(spec_of(1), teams=(("left", "prey"),))
    with pytest.raises(ConfigError, match=r"algo\.teams: tests\.random is turn-based"):
        make(replace(spec_of(1), turn_based=True), teams=(NAMES,))
