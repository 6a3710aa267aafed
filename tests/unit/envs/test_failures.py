"""envs/: finding environments, grouping agents, broken environments and the restart budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import KNOWN_ENVIRONMENTS, Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.failure_trace import last_frames
from hpcmarl.errors import ConfigError, EnvironmentFailure, MissingPackageError
from tests.support.environments import Fragile
from tests.support.twins import play

TESTS = "tests.support.environments"


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"id": "mpe3.simple_spread_v3"}, ConfigError, "did you mean mpe2.simple_spread_v3?"),
        ({"id": "CartPole-v1"}, ConfigError, "did you mean gymnasium:CartPole-v1?"),
        (
            {"id": "overcookd_env"},
            MissingPackageError,
            "overcookd_env is not installed; install the package that has overcookd_env, or start",
        ),
        ({"id": "mpe2.simple_sprad_v3"}, ConfigError, "did you mean mpe2.simple_spread_v3?"),
        ({"id": "pettingzoo.mpe.simple_v3"}, MissingPackageError, "pip install mpe2"),
        ({"id": "mpe2.simple-spread"}, ConfigError, "is not an import path"),
        ({"id": "tests.support.rollouts"}, ConfigError, "neither parallel_env nor env"),
        ({"id": f"{TESTS}:crowd"}, ConfigError, "it has .*Crowd"),
        (
            {"id": f"{TESTS}:NotAnEnvironment"},
            ConfigError,
            "makes a tests.support.environments.NotAnEnvironment; allowed: a PettingZoo",
        ),
        (
            {"id": "gymnasium:make", "kwargs": {"id": "CartPole-v1"}},
            ConfigError,
            "no environment make registered",
        ),
        (
            {"id": "mpe2.simple_spread_v3", "kwargs": {"agents": 4}},
            ConfigError,
            "env.kwargs {'agents': 4} does not fit.*unexpected keyword",
        ),
        (
            {"id": "pettingzoo.classic.tictactoe_v3", "kind": "parallel"},
            ConfigError,
            "env.kind parallel: .* use aec or auto",
        ),
        ({"id": f"{TESTS}:boxed_unbounded"}, ConfigError, "agent lone_0 has the unbounded action space"),
        ({"id": f"{TESTS}:boxed_binary"}, ConfigError, "allowed: Discrete, MultiDiscrete or bounded Box"),
        ({"id": f"{TESTS}:boxed_text"}, ConfigError, "agent lone_0 has the observation space"),
        (
            {"id": f"{TESTS}:NoPossibleAgents", "kwargs": {"empty_from": 0}},
            EnvironmentFailure,
            "no agents after a reset",
        ),
    ],
)
def test_invalid_environments_raise_one_line_errors(
    config: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        describe(EnvConfig(**config), {})
    assert "\n" not in str(caught.value)


def test_environment_error_names_the_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_much.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "beside_the_config.py").write_text(
        "from tests.support.environments import Crowd\n\n\ndef parallel_env():\n    return Crowd()\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingPackageError, match="needs the package no_such_package_at_all"):
        describe(EnvConfig(id="needs_much"), {})
    assert describe(EnvConfig(id="beside_the_config"), {}).policies[0].name == "walker"


def test_agents_without_possible_agents_come_from_a_reset() -> None:
    config = EnvConfig(id=f"{TESTS}:NoPossibleAgents")
    assert describe(config, {}).policies[0].agents == ("x", "y")
    environment = make_environment(EnvConfig(id=config.id, kwargs={"empty_from": 2}), {}, 1, Seeds(0))
    with pytest.raises(EnvironmentFailure, match="5 resets left no agents"):
        play(environment, 4)


def test_known_environments_that_are_installed_can_be_described() -> None:
    ids = [known.id for known in KNOWN_ENVIRONMENTS]
    assert len(set(ids)) == len(ids)
    for known in KNOWN_ENVIRONMENTS:
        if known.installed and known.package == "mpe2":
            assert describe(EnvConfig(id=known.id), {}).turn_based == (known.kind == "aec")
    assert not type(KNOWN_ENVIRONMENTS[0])("x", "x", ("no_such_package",), "aec", "").installed


def names(id: str, policies: dict[str, Any] | None = None, **kwargs: Any) -> dict[str, tuple[str, ...]]:
    chosen = {name: PolicyConfig(agents=agents) for name, agents in (policies or {}).items()}
    return {
        policy.name: policy.agents for policy in describe(EnvConfig(id=id, kwargs=kwargs), chosen).policies
    }


def test_agents_with_equal_spaces_share_a_policy() -> None:
    assert names("mpe2.simple_spread_v3", N=12) == {"agent": tuple(f"agent_{number}" for number in range(12))}
    assert names("mpe2.simple_tag_v3") == {
        "adversary": ("adversary_0", "adversary_1", "adversary_2"),
        "agent_0": ("agent_0",),
    }
    assert names("mpe2.simple_crypto_v3") == {"eve_0": ("eve_0",), "policy_1": ("bob_0", "alice_0")}
    assert names("mpe2.simple_speaker_listener_v4") == {
        "speaker_0": ("speaker_0",),
        "listener_0": ("listener_0",),
    }


def test_policy_patterns_override_the_default_grouping() -> None:
    assert names("mpe2.simple_spread_v3", {"lead": ("agent_1",)}) == {
        "agent": ("agent_0", "agent_2"),
        "lead": ("agent_1",),
    }
    assert names("mpe2.simple_spread_v3", {"agent": ("agent_1",)}) == {
        "policy_0": ("agent_0", "agent_2"),
        "agent": ("agent_1",),
    }
    each = {f"own_{number}": (f"agent_{number}",) for number in range(3)}
    assert list(names("mpe2.simple_spread_v3", each)) == list(each)


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        ({"all": ("*",), "one": ("agent_0",)}, "agent agent_0 is matched by all and by one"),
        ({"one": ("agnet_*",)}, "policies.one.agents: 'agnet_\\*' matches no agent; .*adversary_0"),
        ({"all": ("*",)}, r"policies.all.agents: adversary_0 \(.*\) and agent_0 \(.*\) differ"),
    ],
)
def test_invalid_policy_patterns_raise_config_errors(policies: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        names("mpe2.simple_tag_v3", policies)


@given(cut=st.integers(0, 8), second=st.integers(0, 8))
@settings(max_examples=15, deadline=None)
def test_every_agent_belongs_to_exactly_one_policy(cut: int, second: int) -> None:
    policies = {f"own_{number}": (f"agent_{number}",) for number in {cut, second}}
    found = names("mpe2.simple_spread_v3", policies, N=9)
    assert sorted(agent for agents in found.values() for agent in agents) == [
        f"agent_{number}" for number in range(9)
    ]


def fragile(restarts: int, **kwargs: Any) -> Any:
    return make_environment(
        EnvConfig(id=f"{TESTS}:Fragile", kwargs=kwargs, restarts=restarts),
        {},
        2,
        Seeds(0, 10),
        with_state=True,
    )


def test_failed_environment_is_replaced_and_truncated() -> None:
    environment = fragile(restarts=4, step=3)
    built = Fragile.built
    rows = play(environment, 7, with_state=True)
    assert environment.counts["restarts"] == 2
    assert Fragile.built - built == 2
    assert [row["end"].tolist() for row in rows] == [[0, 0], [0, 0], [0, 0], [2, 2], [0, 0], [0, 0], [0, 0]]
    broken = rows[3]
    assert broken["outcome"]["walker"]["truncated"].all()
    assert not broken["outcome"]["walker"]["terminated"].any()
    assert not broken["outcome"]["walker"]["reward"].any()
    assert broken["episodes"] == []
    for final in broken["finals"]:
        np.testing.assert_array_equal(final.obs["walker"], broken["frame"]["walker"]["obs"][final.slot])
        np.testing.assert_array_equal(final.state, broken["state"][final.slot])
    assert rows[4]["start"].all()
    assert environment.episode_index.tolist() == [1, 1]


def test_repeated_bug_is_not_restarted_until_the_budget_ends() -> None:
    environment = fragile(restarts=50, step=3)
    with pytest.raises(EnvironmentFailure, match="failed in the same way at the same step") as caught:
        play(environment, 8, with_state=True)
    assert environment.counts["restarts"] == 2  # one for each slot
    lines = last_frames(caught.value)
    assert lines[-1] == "RuntimeError: the wheel came off"
    assert lines[-2].strip().startswith('raise RuntimeError("the wheel')
    assert "in step" in lines[-3]
    assert not [line for line in lines if "hpcmarl/envs/" in line]


def test_rare_failures_use_the_budget_of_restarts() -> None:
    """Failures with a whole episode between them, and those of the operating system, are no repeated bug."""
    environment = fragile(restarts=6, reset_every=2, steps=3)
    play(environment, 8, with_state=True)
    assert environment.counts["restarts"] == 4
    sometimes = make_environment(EnvConfig(id=f"{TESTS}:Rarely", restarts=6), {}, 1, Seeds(0))
    play(sometimes, 60)
    assert sometimes.counts["restarts"] == 4


def test_failure_past_the_budget_names_slot_and_keeps_cause() -> None:
    environment = fragile(restarts=1, step=2)
    words = (
        r"Fragile in slot 11 \(seed \d+, episode 0, step 2\) raised RuntimeError: the wheel came off; "
        r"env.restarts: 1"
    )
    with pytest.raises(EnvironmentFailure, match=words) as caught:
        play(environment, 3, with_state=True)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_failing_reset_counts_against_the_restart_budget() -> None:
    environment = fragile(restarts=2, reset_every=2, steps=3)
    rows = play(environment, 4, with_state=True)
    assert environment.counts["restarts"] == 2
    assert len(rows[2]["episodes"]) == 2  # finished episodes count despite the failed reset
    assert environment.episode_index.tolist() == [2, 2]
    with pytest.raises(EnvironmentFailure, match="OSError: the reset broke"):
        play(fragile(restarts=1, reset_every=2, steps=3), 4, with_state=True)


def test_contract_violation_raises_immediately() -> None:
    environment = fragile(restarts=9, wrong_shape=True)
    words = (
        r"broke the PettingZoo contract: agent walker_1 observes an array of shape \(1,\); its "
        r"observation space has the shape \(3,\)"
    )
    with pytest.raises(EnvironmentFailure, match=words):
        play(environment, 2, with_state=True)


def test_missing_environment_state_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"has no state\(\); choose algo.critic"):
        make_environment(EnvConfig(id="pettingzoo.classic.tictactoe_v3"), {}, 1, Seeds(0), with_state=True)


def test_state_is_written_for_every_slot() -> None:
    environment = make_environment(EnvConfig(id="mpe2.simple_spread_v3"), {}, 2, Seeds(0), with_state=True)
    assert environment.spec.state_size == 54
    frame, outcome = new_frame(environment.spec, 2, with_state=True), new_outcome(environment.spec, 2)
    environment.reset(frame)
    for _ in range(26):
        environment.step({"agent": np.zeros((2, 3), np.int64)}, outcome, frame)
        np.testing.assert_allclose(frame.state, frame.policies["agent"].obs.reshape(2, 54), rtol=1e-6)
    assert new_frame(environment.spec, 2).state is None
    environment.close()
    environment.close()
