"""Numbers that are not finite, environments that hang, slots in quarantine: named, counted, never learned from, never saved."""

import time

import numpy as np
import pytest

from hpcmarl.config import AdamConfig, EnvConfig
from hpcmarl.envs import Seeds, make_environment, new_frame, new_outcome
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.io.checkpoint import find_checkpoint, load_checkpoint
from hpcmarl.optim import make_optimizer
from tests.envs_for_tests import Crowd
from tests.worlds import SPREAD, run_world, summary

HERE = "tests.unit.test_bad_numbers"
SPOILED = """
env: {id: "tests.unit.test_bad_numbers:Spoiled", kwargs: %s}
algo: {name: ma_trace, unroll: 6, network: {hidden: [8]}}
topology: {environments_per_actor: 2}
trajectories: {enabled: true}
eval: {episodes: 2}
stop: {updates: 12}
logging: {progress: false}
checkpoint: {every_updates: 2}
faults: {on_nan: %s}
"""


class Spoiled(Crowd):
    """Two agents for eight steps; every fifth episode something is wrong at its third step (`what`), or already in the reset."""

    episodes = 0

    def __init__(self, what: str = "nothing", every: int = 5, seconds: float = 0.0) -> None:
        super().__init__({"walker_0": (0, 7, "truncated"), "walker_1": (0, 7, "truncated")})
        self.what, self.every, self.seconds, self.wrong = what, every, seconds, False

    def reset(self, seed=None, options=None):
        Spoiled.episodes += 1
        self.wrong = Spoiled.episodes % self.every == 0
        observations, infos = super().reset(seed)
        if self.wrong and self.what == "reset":
            observations["walker_1"] = observations["walker_1"] * np.nan
        return observations, infos

    def step(self, actions):
        now = self.wrong and self.time == 3
        if now and self.what == "hang":
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                pass
        if now and self.what == "raise":
            raise RuntimeError("the wheel came off")
        observations, rewards, *rest = super().step(actions)
        if now and self.what == "observation":
            observations["walker_1"] = np.full_like(observations["walker_1"], np.nan)
        if now and self.what == "reward":
            rewards["walker_0"] = float("-inf")
        return observations, rewards, *rest


@pytest.fixture(autouse=True)
def fresh():
    Spoiled.episodes = 0


def play(config, steps, *, skip=True, slots=2):
    """Play with fixed actions; every frame and outcome must be finite. Returns the environment and the ends by slot."""
    environment = make_environment(config, {}, slots, Seeds(0, 10), skip_bad_numbers=skip)
    frame, outcome = new_frame(environment.spec, slots), new_outcome(environment.spec, slots)
    environment.reset(frame)
    ends = []
    for _ in range(steps):
        actions = {policy.name: np.zeros((slots, len(policy.agents)), np.int64) for policy in environment.spec.policies}
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
        ("observation", r"Spoiled in slot 1\d \(seed \d+, episode \d+, step \d+\): agent walker_1 observes nan \(component 0 of 3\)"),
        ("reward", r"Spoiled in slot 1\d .*: agent walker_0 is rewarded with -inf; faults\.on_nan: skip"),
        ("reset", r"Spoiled in slot 1\d .*step 0\): agent walker_1 observes nan"),
    ],
)
def test_a_bad_number_is_named(what, words):
    with pytest.raises(EnvironmentFailure, match=words):
        play(EnvConfig(id=f"{HERE}:Spoiled", kwargs={"what": what}), 60, skip=False)


@pytest.mark.parametrize("what", ["observation", "reward", "reset"])
def test_an_episode_with_a_bad_number_is_cut_off(what):
    environment, ends = play(EnvConfig(id=f"{HERE}:Spoiled", kwargs={"what": what}), 64)
    assert environment.counts["bad_numbers"] >= 2
    assert environment.counts["restarts"] == 0
    assert set(ends[ends > 0]) == {2}  # truncated, never terminated
    accidents = 0 if what == "reset" else environment.counts["bad_numbers"]  # a bad reset ends no episode but its own, which had no step
    assert (ends > 0).sum() >= 64 * 2 // 8 + accidents // 2
    assert environment.episode_index.sum() >= (ends > 0).sum()


def test_a_reset_that_is_always_bad_ends_the_run():
    with pytest.raises(EnvironmentFailure, match="after each of 5 resets"):
        play(EnvConfig(id=f"{HERE}:Spoiled", kwargs={"what": "reset", "every": 1}), 1)


def test_a_hung_environment_is_interrupted_and_replaced():
    config = EnvConfig(id=f"{HERE}:Spoiled", kwargs={"what": "hang", "seconds": 60.0}, step_seconds=0.2, restarts=9)
    began = time.monotonic()
    environment, ends = play(config, 30)
    assert time.monotonic() - began < 30
    assert environment.counts["hangs"] == environment.counts["restarts"] >= 1
    assert set(ends[ends > 0]) == {2}


def test_past_the_budget_a_hang_says_so():
    config = EnvConfig(id=f"{HERE}:Spoiled", kwargs={"what": "hang", "seconds": 60.0}, step_seconds=0.1, restarts=0)
    with pytest.raises(EnvironmentFailure, match=r"StepTimeout: was still at work after 0\.1 s \(env\.step_seconds"):
        play(config, 60)


def test_slots_past_the_budget_rest_until_none_is_left():
    config = EnvConfig(id=f"{HERE}:Spoiled", kwargs={"what": "raise", "every": 3}, restarts=1, past_restarts="quarantine")
    environment = make_environment(config, {}, 2, Seeds(0))
    frame, outcome = new_frame(environment.spec, 2), new_outcome(environment.spec, 2)
    environment.reset(frame)
    actions = {policy.name: np.zeros((2, len(policy.agents)), np.int64) for policy in environment.spec.policies}
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
    assert all((row == one_rests[0]).all() for row in one_rests)  # the same one all the time


def test_a_run_learns_on_past_bad_numbers_and_counts_them(tmp_path):
    run_world(3, tmp_path, text=SPOILED % ("{what: observation}", "skip"))
    told = summary(tmp_path)
    assert told["status"] == "finished"
    assert told["environment_bad_numbers"] >= 1
    state = load_checkpoint(find_checkpoint(tmp_path))[0]
    assert np.isfinite(state["engine"]["optimizer"]["parameters"]).all()


def test_a_run_stops_at_bad_numbers_and_keeps_its_last_checkpoint(tmp_path):
    with pytest.raises(EnvironmentFailure, match="walker_1 observes nan"):
        run_world(3, tmp_path, text=SPOILED % ("{what: observation, every: 20}", "stop"))
    assert find_checkpoint(tmp_path) is not None


def spoil_gradients(monkeypatch, which):
    from hpcmarl.algos.ma_trace import MATrace

    true, calls = MATrace.gradient, [0]

    def gradient(self, rollouts):
        vector, statistics = true(self, rollouts)
        calls[0] += 1
        if which(calls[0]):
            vector = vector.copy()
            vector[3] = np.inf
        return vector, statistics

    monkeypatch.setattr(MATrace, "gradient", gradient)


def test_a_gradient_that_is_not_finite_is_left_out_and_counted(tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, lambda call: call % 3 == 0)
    run_world(3, tmp_path, "faults.on_nan=skip")
    assert summary(tmp_path)["bad_gradients"] >= 2
    assert summary(tmp_path)["updates"] == 6


def test_a_gradient_that_is_not_finite_stops_the_run_by_name(tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, lambda call: call == 3)
    with pytest.raises(FloatingPointError, match=r"rollouts from rank [12] at version \d+ is not finite \(parameter 3 is inf\)"):
        run_world(3, tmp_path)


def test_even_skipping_ends_when_nothing_else_comes(tmp_path, monkeypatch):
    spoil_gradients(monkeypatch, lambda call: True)
    with pytest.raises(FloatingPointError, match="the 100th in a row"):
        run_world(3, tmp_path, "faults.on_nan=skip", text=SPREAD)


def test_a_step_that_makes_parameters_infinite_is_refused():
    optimizer = make_optimizer(AdamConfig(step_size=1e38), np.full(2, 3e38, np.float32), [slice(0, 2)])
    with pytest.raises(FloatingPointError, match=r"step 1 made parameter 0 inf; lower optimizer\.step_size"), np.errstate(all="ignore"):
        optimizer.step(np.ones(2, np.float32))
