"""Teams that learn from a mean reward that never changes.

The configuration is refused if the fact is known in advance. If it is found during a run, a warning is
logged.
"""

from __future__ import annotations

import numpy as np
import pytest

from hpcmarl.algos import ALGORITHMS, make_algorithm
from hpcmarl.algos.common_reward import EPISODES, CancellingRewards, teams_of
from hpcmarl.config import (
    AlgoConfig,
    COMAConfig,
    EnvConfig,
    IQLConfig,
    MATraceConfig,
    PolicyConfig,
    PPOConfig,
    QMIXConfig,
    ReinforceConfig,
    VDNConfig,
)
from hpcmarl.config.file import load_config
from hpcmarl.envs import describe
from hpcmarl.errors import ConfigError
from hpcmarl.league.runtime.startup import check_league
from hpcmarl.types import EnvironmentSpec, PolicySpec
from tests.support.rollouts import DISCRETE, make_spec, random_rollout

EACH = {"row": PolicyConfig(agents=("player_0",)), "column": PolicyConfig(agents=("player_1",))}
OPENSPIEL = ("openspiel:matrix_rps", "openspiel:goofspiel", "openspiel:kuhn_poker", "openspiel:tic_tac_toe")


def spec_of(id: str, policies: dict[str, PolicyConfig] | None = None, **kwargs: object) -> EnvironmentSpec:
    if id.startswith("openspiel"):
        pytest.importorskip("pyspiel")
    return describe(EnvConfig(id=id, kwargs=kwargs), policies or {})


@pytest.mark.parametrize(
    "id",
    ["matrix:rps", "matrix:biased_rps", "matrix:matching_pennies", "pettingzoo.classic.rps_v2", *OPENSPIEL],
)
def test_games_know_that_they_are_constant_sum(id: str) -> None:
    assert spec_of(id).constant_sum


@pytest.mark.parametrize(
    "id",
    [
        "matrix:prisoners_dilemma",
        "matrix:stag_hunt",
        "matrix:coordination",
        "openspiel:matrix_pd",
        "mpe2.simple_spread_v3",
    ],
)
def test_other_games_are_not_constant_sum(id: str) -> None:
    assert not spec_of(id).constant_sum


@pytest.mark.parametrize(("column", "constant"), [([[0, 2], [3, -1]], True), ([[0, 2], [3, 0]], False)])
def test_own_payoffs_are_added_up(column: list[list[float]], constant: bool) -> None:
    assert spec_of("matrix:own", payoff=[[2, 0], [-1, 3]], column_payoff=column).constant_sum == constant


def test_environments_declare_it_in_their_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpcmarl.envs.games import particles

    declared = particles.Particles.metadata | {"constant_sum": True}
    assert not spec_of("hpcmarl.envs.games.particles:parallel_env").constant_sum
    monkeypatch.setattr(particles.Particles, "metadata", declared)
    assert spec_of("hpcmarl.envs.games.particles:parallel_env").constant_sum


REFUSED = {
    "ma_trace": (MATraceConfig(), "algo.critic: joint_observation learns", "use algo.critic: independent"),
    "ppo": (
        PPOConfig(critic="joint_observation"),
        "algo.critic: joint_observation learns",
        "use algo.critic: independent",
    ),
    "coma": (
        COMAConfig(),
        "algo.name: coma learns",
        "use algo.critic: independent with algo.name: ma_trace or ppo",
    ),
    "reinforce": (
        ReinforceConfig(),
        "algo.name: reinforce learns",
        "use algo.critic: independent with algo.name: ma_trace or ppo",
    ),
    "vdn": (
        VDNConfig(),
        "algo.name: vdn learns",
        "algo.critic: independent with algo.name: ma_trace or ppo, or algo.name: iql",
    ),
    "qmix": (
        QMIXConfig(mixer_state="joint_observation"),
        "algo.name: qmix learns",
        "algo.critic: independent with algo.name: ma_trace or ppo, or algo.name: iql",
    ),
}


@pytest.mark.parametrize(("algo", "key", "remedy"), REFUSED.values(), ids=REFUSED)
def test_shared_policy_of_opponents_needs_its_own_rewards(algo: AlgoConfig, key: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make_algorithm(spec_of("matrix:rps"), algo, 0)
    text = str(raised.value)
    assert "\n" not in text
    assert key in text
    assert "constant-sum game matrix:rps" in text
    assert text.endswith(remedy)
    make_algorithm(spec_of("matrix:stag_hunt"), algo, 0)


@pytest.mark.parametrize(
    "algo",
    [MATraceConfig(critic="independent"), PPOConfig(critic="independent"), IQLConfig()],
    ids=["ma_trace", "ppo", "iql"],
)
def test_independent_learners_may_share_a_policy(algo: AlgoConfig) -> None:
    algorithm = make_algorithm(spec_of("matrix:rps"), algo, 0)
    assert (algo.common_reward, len(algorithm.segments)) == ("none", 1)


def test_opponents_with_policies_of_their_own_are_no_team() -> None:
    spec = spec_of("matrix:matching_pennies", EACH)
    for algo in (MATraceConfig(critic="joint_observation"), COMAConfig(), ReinforceConfig()):
        make_algorithm(spec, algo, 0)
    # VDN is refused with any policies.
    with pytest.raises(ConfigError, match=r"algo\.name: vdn learns from the mean reward of all players"):
        make_algorithm(spec, VDNConfig(), 0)


def test_turn_based_reinforce_learns_from_own_rewards() -> None:
    spec = spec_of("openspiel:kuhn_poker")
    assert spec.turn_based
    assert make_algorithm(spec, ReinforceConfig(), 0).on_policy


TWO = (PolicySpec("team", ("a", "b"), (4,), DISCRETE), PolicySpec("prey", ("c",), (3,), DISCRETE))


@pytest.mark.parametrize(
    ("name", "teams"),
    [
        ("reinforce", [("team",)]),
        ("ma_trace", [("team",)]),
        ("ppo", [("team",)]),
        ("coma", [("team",)]),
        ("iql", []),
        ("maddpg", [("team",)]),
        ("masac", [("team",)]),
        *((name, [("team", "prey")]) for name in ("vdn", "qmix", "wqmix", "res")),
    ],
)
def test_teams_are_those_whose_mean_reward_is_learned(name: str, teams: list[tuple[str, ...]]) -> None:
    config = next(each for each in _configs() if each().name == name)
    assert teams_of(make_spec(*TWO), config()) == teams
    assert teams_of(make_spec(*TWO, turn_based=True), config()) == []


def _configs() -> list[type[AlgoConfig]]:
    from hpcmarl.config import MADDPGConfig, MASACConfig, RESConfig, WQMIXConfig

    found: list[type[AlgoConfig]] = [
        ReinforceConfig,
        MATraceConfig,
        PPOConfig,
        COMAConfig,
        IQLConfig,
        VDNConfig,
        QMIXConfig,
        WQMIXConfig,
        RESConfig,
        MADDPGConfig,
        MASACConfig,
    ]
    assert {each().name for each in found} == set(ALGORITHMS)
    return found


def seen(algo: AlgoConfig, rewards: str, episodes: int, policies: tuple[PolicySpec, ...] = TWO) -> list[str]:
    """Return the warnings after episodes of three steps, in two slots, with one kind of reward."""
    spec, generator = make_spec(*policies), np.random.default_rng(0)
    watch = CancellingRewards(spec, algo)
    for _ in range(episodes // 2):
        rollout = random_rollout(spec, 3, 2, generator, end_rate=0.0, truncations=False)
        rollout.episode_end[-1] = 1
        if rewards != "random":
            for part in rollout.policies.values():
                part.reward[...] = 0.0
        if rewards == "cancel":
            drawn = generator.standard_normal((3, 2)).astype(np.float32)
            rollout.policies["team"].reward[..., 0], rollout.policies["team"].reward[..., 1] = drawn, -drawn
        watch.see(rollout)
    return watch.warnings


@pytest.mark.parametrize(
    "algo",
    [MATraceConfig(), PPOConfig(), COMAConfig(), ReinforceConfig(), VDNConfig()],
    ids=lambda algo: algo.name,
)
def test_rewards_that_always_cancel_are_warned_about_once(algo: AlgoConfig) -> None:
    (warning,) = seen(algo, "cancel", EPISODES + 20)
    assert "mean reward of all agents of policy team" in warning
    assert "algo.critic: independent" in warning
    assert "\n" not in warning
    assert seen(algo, "cancel", EPISODES - 2) == []


@pytest.mark.parametrize("rewards", ["random", "nothing"])
def test_other_rewards_are_not_warned_about(rewards: str) -> None:
    assert seen(MATraceConfig(), rewards, EPISODES + 20) == []


def test_a_single_team_reward_ends_the_suspicion() -> None:
    spec, generator = make_spec(*TWO), np.random.default_rng(0)
    watch = CancellingRewards(spec, MATraceConfig())
    for number in range(EPISODES):
        rollout = random_rollout(spec, 1, 1, generator, whole_episode=True)
        rollout.policies["team"].reward[...] = [1.0, -1.0] if number != 7 else [1.0, -0.5]
        watch.see(rollout)
    assert watch.warnings == []


def test_three_players_whose_rewards_round_are_found() -> None:
    three = (PolicySpec("team", ("a", "b", "c"), (4,), DISCRETE),)
    watch = CancellingRewards(make_spec(*three), MATraceConfig())
    for _ in range(EPISODES):
        rollout = random_rollout(make_spec(*three), 1, 1, np.random.default_rng(0), whole_episode=True)
        rollout.policies["team"].reward[...] = np.array([0.3, -0.1, -0.2], np.float32)
        watch.see(rollout)
    assert len(watch.warnings) == 1


def test_independent_learners_are_not_watched() -> None:
    assert seen(MATraceConfig(critic="independent"), "cancel", EPISODES + 20) == []


# ---- leagues in which one policy plays all seats

LEAGUE = """
env: {id: "matrix:rps"}
algo: {name: ppo, critic: joint_observation}
stop: {updates: 3}
league: {matchmaking: {name: pfsp}}
"""
SHARED = "policies={player: {agents: ['*']}}"
COOPERATIVE = ("league.cooperative=true", "league.score=return", "league.return_range=[0, 1]")


def league_problem(*changes: str) -> str:
    """Return the error of a league's configuration, or an empty text.

    The league's own text names no policies: only the environment shows that one policy plays all seats.
    """
    config = load_config(LEAGUE, changes)
    try:
        check_league(config, describe(config.env, config.policies))
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (("league.matchmaking.self_share=0.5",), "league.matchmaking.self_share"),
        (("league.matchmaking={name: latest}",), "league.matchmaking.self_share"),
        (
            ("league.members.a.matchmaking={name: uniform, self_share: 0.1}",),
            "league.members.a.matchmaking.self_share",
        ),
        (
            ("league.members={a: {kind: {name: main}}, b: {kind: {name: main_exploiter}}}",),
            "league.members.a.kind.pfsp_share",
        ),
    ],
)
@pytest.mark.parametrize("env", ["matrix:rps", "matrix:chicken"])
def test_opponents_in_self_play_have_no_common_reward(env: str, changes: tuple[str, ...], key: str) -> None:
    text = league_problem(f"env.id={env}", *changes)
    assert text.startswith("algo.critic: joint_observation learns from the mean reward of all seats")
    assert f"({key})" in text
    assert text.endswith("use algo.critic: independent")
    # The error is raised before the environment is made.
    with pytest.raises(ConfigError) as raised:
        load_config(LEAGUE, (SHARED, *changes))
    assert f"({key})" in str(raised.value)
    assert league_problem(f"env.id={env}", SHARED, "algo.critic=independent", *changes) == ""


@pytest.mark.parametrize("algo", ["{name: vdn}", "{name: reinforce}", "{name: coma}"])
def test_other_team_learners_are_refused_in_self_play(algo: str) -> None:
    changes = (f"algo={algo}", "league.matchmaking.self_share=0.5")
    assert "use algo.critic: independent with algo.name: ma_trace or ppo" in league_problem(*changes)
    assert league_problem(f"algo={algo}") == ""


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("league.matchmaking={name: psro}",),
        (
            (
                "league.members={a: {kind: {name: main, pfsp_share: 1, verification_share: 0}}, b: {kind: "
                "{name: league_exploiter}}}"
            ),
        ),
        (
            # No member uses the first matchmaking.
            "league.matchmaking={name: latest}",
            "league.members.a.matchmaking={name: uniform}",
        ),
    ],
)
def test_central_critics_may_meet_others_alone(changes: tuple[str, ...]) -> None:
    """Against other members the mean covers only the member's own seats, and is not 0."""
    assert league_problem(*changes) == ""
    load_config(LEAGUE, (SHARED, *changes))


def test_cooperative_self_play_may_have_a_central_critic() -> None:
    changes = (
        *COOPERATIVE,
        "env.id=mpe2.simple_spread_v3",
        "league.matchmaking={name: partners, self_share: 0.5}",
    )
    assert league_problem(*changes) == ""
    assert league_problem(SHARED, *changes) == ""
    text = league_problem(*changes, "env.id=matrix:rps")
    assert "a constant-sum game" in text


def test_turn_based_reinforce_may_play_itself() -> None:
    pytest.importorskip("pyspiel")
    changes = ("env.id=openspiel:kuhn_poker", "algo={name: reinforce}", "league.matchmaking.self_share=0.5")
    assert league_problem(*changes) == ""
    assert league_problem(SHARED, *changes) == ""


def test_two_sides_have_rewards_of_their_own() -> None:
    sides = "policies={row: {agents: [player_0]}, column: {agents: [player_1]}}"
    assert league_problem("env.id=matrix:matching_pennies", sides, "league.matchmaking={name: latest}") == ""
