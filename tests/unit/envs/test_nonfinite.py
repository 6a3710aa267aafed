"""Non-finite numbers, environments that hang, slots in quarantine: errors name slot and seed."""

import time

import numpy as np
import pytest

from hpcmarl.config import AdamConfig, EnvConfig
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.nonfinite import find_nonfinite
from hpcmarl.envs.slot import Views
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.optim import make_optimizer

pytestmark = pytest.mark.usefixtures("spoiled_from_the_start")
ENVIRONMENTS = "tests.support.environments"


def play(config, steps, *, skip=True, slots=2):
    """Play with fixed actions and check that every frame and outcome is finite.

    Returns:
        The environment, and the ends of episodes [steps, slots].
    """
    environment = make_environment(config, {}, slots, Seeds(0, 10), skip_bad_numbers=skip)
    frame, outcome = new_frame(environment.spec, slots), new_outcome(environment.spec, slots)
    environment.reset(frame)
    ends = []
    for _ in range(steps):
        actions = {
            policy.name: np.zeros((slots, len(policy.agents)), np.int64)
            for policy in environment.spec.policies
        }
        environment.step(actions, outcome, frame)
        for policy in environment.spec.policies:
            assert np.isfinite(frame.policies[policy.name].obs).all()
            assert np.isfinite(outcome.policies[policy.name].reward).all()
        assert all(np.isfinite(array).all() for final in outcome.finals for array in final.obs.values())
        ends.append(outcome.episode_end.tolist())
    return environment, np.array(ends)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "observation",
            (
                r"Spoiled in slot 1\d \(seed \d+, episode \d+, step \d+\): agent walker_1 observes nan "
                r"\(component 0 of 3\)"
            ),
        ),
        ("reward", r"Spoiled in slot 1\d .*: agent walker_0 is rewarded with -inf; set faults\.on_nan: skip"),
        ("reset", r"Spoiled in slot 1\d .*step 0\): agent walker_1 observes nan"),
    ],
)
def test_non_finite_values_are_reported_with_their_source(what, words):
    with pytest.raises(EnvironmentFailure, match=words):
        play(EnvConfig(id=f"{ENVIRONMENTS}:Spoiled", kwargs={"what": what}), 60, skip=False)


@pytest.mark.parametrize("what", ["observation", "reward", "reset"])
def test_episode_with_a_non_finite_value_is_truncated(what):
    environment, ends = play(EnvConfig(id=f"{ENVIRONMENTS}:Spoiled", kwargs={"what": what}), 64)
    assert environment.counts["bad_numbers"] >= 2
    assert environment.counts["restarts"] == 0
    assert set(ends[ends > 0]) == {2}  # truncated, never terminated
    # A bad reset ends only its own episode, which had no step.
    accidents = 0 if what == "reset" else environment.counts["bad_numbers"]
    assert (ends > 0).sum() >= 64 * 2 // 8 + accidents // 2
    assert environment.episode_index.sum() >= (ends > 0).sum()


def test_repeated_non_finite_reset_raises():
    with pytest.raises(EnvironmentFailure, match="also after 5 resets"):
        play(EnvConfig(id=f"{ENVIRONMENTS}:Spoiled", kwargs={"what": "reset", "every": 1}), 1)


def test_a_hung_environment_is_interrupted_and_replaced():
    config = EnvConfig(
        id=f"{ENVIRONMENTS}:Spoiled", kwargs={"what": "hang", "seconds": 60.0}, step_seconds=0.2, restarts=9
    )
    began = time.monotonic()
    environment, ends = play(config, 30)
    assert time.monotonic() - began < 30
    assert environment.counts["hangs"] == environment.counts["restarts"] >= 1
    assert set(ends[ends > 0]) == {2}


def test_hang_past_the_restart_budget_raises_step_timeout():
    config = EnvConfig(
        id=f"{ENVIRONMENTS}:Spoiled", kwargs={"what": "hang", "seconds": 60.0}, step_seconds=0.1, restarts=0
    )
    with pytest.raises(
        EnvironmentFailure, match=r"StepTimeout: did not finish within 0\.1 s \(env\.step_seconds"
    ):
        play(config, 60)


def test_slots_past_the_restart_budget_are_quarantined():
    config = EnvConfig(
        id=f"{ENVIRONMENTS}:Spoiled",
        kwargs={"what": "raise", "every": 3},
        restarts=1,
        on_restart_limit="quarantine",
    )
    environment = make_environment(config, {}, 2, Seeds(0))
    frame, outcome = new_frame(environment.spec, 2), new_outcome(environment.spec, 2)
    environment.reset(frame)
    actions = {
        policy.name: np.zeros((2, len(policy.agents)), np.int64) for policy in environment.spec.policies
    }
    alive = []

    def go_on():
        for _ in range(400):
            environment.step(actions, outcome, frame)
            alive.append(np.stack([policy.alive.any(-1) for policy in frame.policies.values()]).any(0))

    with pytest.raises(EnvironmentFailure, match="all 2 slots are in quarantine"):
        go_on()
    assert environment.counts["quarantined"] == 2
    one_rests = [row for row in alive if row.sum() == 1]
    assert one_rests
    assert all((row == one_rests[0]).all() for row in one_rests)  # always the same slot


def test_optimizer_step_to_infinite_parameters_raises():
    optimizer = make_optimizer(AdamConfig(step_size=1e38), np.full(2, 3e38, np.float32), [slice(0, 2)])
    with (
        pytest.raises(FloatingPointError, match=r"step 1 made parameter 0 inf; lower optimizer\.step_size"),
        np.errstate(all="ignore"),
    ):
        optimizer.step(np.ones(2, np.float32))


def test_large_finite_numbers_are_no_bad_ones() -> None:
    spec = describe(EnvConfig(id="mpe2.simple_spread_v3"), {})
    frame, outcome = new_frame(spec, 2), new_outcome(spec, 2)
    (seen,), (told,) = frame.policies.values(), outcome.policies.values()
    seen.obs[...], told.reward[...] = 3e38, -3e38  # sums and squares overflow float32
    views = Views([policy.name for policy in spec.policies], frame, outcome)
    assert find_nonfinite(spec, outcome, views) == []
    told.reward[1, 0] = np.inf
    assert [(row, what) for row, _, what in find_nonfinite(spec, outcome, views)] == [
        (1, "is rewarded with inf")
    ]
