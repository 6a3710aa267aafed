"""A recurrent policy's unroll begins with its memory at sampling, however late it is used."""

from dataclasses import replace

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import evaluate, join
from hpcmarl.config import MATraceConfig, NetworkConfig
from hpcmarl.types import Frame, PolicyFrame, PolicyRollout, Rollout
from tests.support.rollouts import make_spec

STEPS, SLOTS, AGENTS, SIZE = 4, 6, 2, 6


def make():
    network = NetworkConfig(hidden=(5,), body="gru", memory=4)
    algorithm = make_algorithm(
        make_spec(agents=AGENTS, state_size=None), MATraceConfig(network=network, unroll=STEPS), 0
    )
    vector = np.random.default_rng(1).standard_normal(algorithm.size).astype(np.float32)
    algorithm.load_parameters(vector)
    return algorithm, vector


def play(algorithm, observations):
    """Return the decisions of an episode's first steps, and the memory after them."""
    memory, decisions = algorithm.initial_memory(SLOTS)["agent"], []
    for step, obs in enumerate(observations):
        frame = Frame(
            {"agent": PolicyFrame(obs, np.ones((SLOTS, AGENTS), bool))}, None, np.full(SLOTS, step == 0)
        )
        decisions.append(algorithm.act(frame, {"agent": memory}, np.random.default_rng(step))["agent"])
        memory = decisions[-1].memory
    return decisions, memory


def second_unroll(algorithm, observations):
    """Return steps T to 2 T of episodes with these observations [2 T + 1, ...], as an actor sends them."""
    memory = play(algorithm, observations[:STEPS])[1]
    decisions = play(algorithm, observations[:-1])[0][STEPS:]
    action, logp = (
        np.stack([getattr(decision, name) for decision in decisions]) for name in ("action", "logp")
    )
    nothing, alive = np.zeros(logp.shape, bool), np.ones((STEPS + 1, SLOTS, AGENTS), bool)
    none = np.zeros((0, AGENTS, SIZE), np.float32)
    part = PolicyRollout(
        observations[STEPS:], alive, action, logp, np.zeros_like(logp), nothing, nothing, none, None, memory
    )
    slots, end = np.arange(SLOTS), np.zeros((STEPS, SLOTS), np.uint8)
    return Rollout(
        {"agent": part},
        np.zeros((STEPS + 1, SLOTS), bool),
        end,
        np.zeros((0, 2), np.int32),
        slots,
        slots,
        slots,
        np.full(SLOTS, -1, np.int32),
        0,
        0,
    )


def log_probabilities(algorithm, rollout):
    batch = join([rollout])
    return (
        evaluate(algorithm._policies["agent"], batch.policies["agent"], batch.episode_start)
        .logp.detach()
        .numpy()
    )


def test_memory_of_a_reused_unroll_ages_with_the_parameters():
    """The error of a reused memory is proportional to the change of the parameters.

    There is no burn-in. The error of log-probabilities, and so of importance ratios, comes from the change of
    the first memory since sampling. It is zero at first.
    """
    algorithm, vector = make()
    observations = (
        np.random.default_rng(2).standard_normal((2 * STEPS + 1, SLOTS, AGENTS, SIZE)).astype(np.float32)
    )
    change = np.random.default_rng(3).standard_normal(vector.size).astype(np.float32)
    rollout = second_unroll(algorithm, observations)
    part = rollout.policies["agent"]
    np.testing.assert_allclose(log_probabilities(algorithm, rollout), part.logp.reshape(-1), atol=1e-5)
    errors = []
    for scale in (0.01, 0.02):
        algorithm.load_parameters(vector + np.float32(scale) * change)
        fresh = replace(
            rollout, policies={"agent": replace(part, memory=play(algorithm, observations[:STEPS])[1])}
        )
        errors.append(
            np.abs(log_probabilities(algorithm, rollout) - log_probabilities(algorithm, fresh)).mean()
        )
    assert errors[0] > 1e-3
    assert errors[1] / errors[0] == pytest.approx(2.0, rel=0.2)
