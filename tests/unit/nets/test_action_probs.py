"""Policies as tables of chances, and parameters by name, stage by stage.

The chances are compared with sampled actions and their log-probabilities.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hpcmarl.algos import make_algorithm
from hpcmarl.config.file import load_config
from hpcmarl.types import ActionSpace, Frame, PolicyFrame, PolicySpec
from tests.support.rollouts import make_spec

DISCRETE = ActionSpace("discrete", (4,))
SPEC = make_spec(
    PolicySpec("walkers", ("a", "b"), (3, 2), DISCRETE, True), PolicySpec("flyer", ("c",), (5,), DISCRETE)
)
ALGORITHMS = {
    "ma_trace": (
        "{name: ma_trace, critic: joint_observation, network: {hidden: [8, 6], activation: relu}, "
        "normalise_observations: true}"
    ),
    "ppo": (
        "{name: ppo, critic: joint_observation, network: {hidden: [6]}, agent_id: true, "
        "normalise_observations: true}"
    ),
    "reinforce": "{name: reinforce, network: {hidden: []}}",
    "iql": "{name: iql, network: {hidden: [8], body: mlp}, agent_id: true, epsilon_final: 0.3}",
    "maddpg": "{name: maddpg, network: {hidden: [6]}, agent_id: true, random_steps: 9}",
    "masac": "{name: masac, network: {hidden: [6]}, agent_id: true, normalise_observations: true}",
    "dueling": (
        "{name: iql, network: {hidden: [8], body: mlp, dueling: true}, agent_id: true, epsilon_final: 0.3}"
    ),
}


def make(algo, spec=SPEC):
    config = load_config(f"name: x\nenv: {{id: a.b}}\nalgo: {algo}\nstop: {{updates: 1}}\n")
    algorithm = make_algorithm(spec, config.algo, 1)
    generator = np.random.default_rng(2)
    vector = algorithm.initial_parameters()
    vector[:] = generator.normal(size=vector.size) * 0.7
    vector[algorithm.averages] = np.abs(vector[algorithm.averages]) + 1.0
    algorithm.load_parameters(vector)
    return algorithm


def frame_of(policy, obs, mask):
    """Return a frame with one slot per row; all agents of the policy see the same."""
    agents = len(policy.agents)
    alive = np.ones((len(obs), agents), np.bool_)
    masks = None if mask is None else np.repeat(mask[:, None], agents, 1)
    seen = PolicyFrame(np.repeat(obs[:, None], agents, 1), alive, masks)
    return Frame({policy.name: seen}, None, np.ones(len(obs), np.bool_))


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("policy", SPEC.policies, ids=lambda policy: policy.name)
def test_action_probabilities_match_sampled_frequencies(name, policy):
    algorithm, generator = make(ALGORITHMS[name]), np.random.default_rng(3)
    obs = generator.normal(size=(3, *policy.observation_shape)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 1]], np.bool_) if policy.has_mask else None
    last = len(policy.agents) - 1
    action_probs = algorithm.action_probs(policy.name, obs, mask, last)
    assert_allclose(action_probs.sum(1), 1, rtol=1e-5)
    if mask is not None:
        assert_array_equal(action_probs[~mask], 0)
    draws = 4000
    repeated = frame_of(policy, np.repeat(obs, draws, 0), None if mask is None else np.repeat(mask, draws, 0))
    decision = algorithm.act(repeated, {}, generator)[policy.name]
    action, logp = decision.action[:, last].reshape(3, draws), decision.logp[:, last].reshape(3, draws)
    for row in range(3):
        counts = np.bincount(action[row], minlength=4) / draws
        assert np.all(
            np.abs(counts - action_probs[row])
            <= 5 * np.sqrt(action_probs[row] * (1 - action_probs[row]) / draws) + 1e-6
        )
        assert_allclose(np.exp(logp[row]), action_probs[row][action[row]], rtol=1e-4)


def test_recurrent_and_non_discrete_policies_have_no_table():
    recurrent = make("{name: ma_trace, critic: independent, network: {hidden: [4], body: gru, memory: 3}}")
    with pytest.raises(TypeError, match="a recurrent policy acts by its memory"):
        recurrent.action_probs("flyer", np.zeros((1, 5), np.float32), None)
    parts = make_spec(PolicySpec("hands", ("a",), (2,), ActionSpace("multi_discrete", (2, 3))))
    with pytest.raises(TypeError, match="no probabilities of single actions"):
        make("{name: ma_trace, critic: independent}", parts).action_probs(
            "hands", np.zeros((1, 2), np.float32), None
        )
    smooth = make_spec(PolicySpec("arm", ("a",), (2,), ActionSpace("continuous", (1,), (-1.0,), (1.0,))))
    with pytest.raises(TypeError, match="no probabilities of single actions"):
        make("{name: ma_trace, critic: independent}", smooth).action_probs(
            "arm", np.zeros((1, 2), np.float32), None
        )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_named_parameters_concatenate_to_the_vector(name):
    algorithm = make(ALGORITHMS[name])
    named = algorithm.named_parameters()
    assert len(set(named)) == len(named)
    assert_array_equal(
        np.sort(np.concatenate([part.ravel() for part in named.values()])), np.sort(algorithm.parameters)
    )
    ends = np.cumsum([part.size for part in named.values()])
    for part, piece in zip(named.values(), np.split(algorithm.parameters, ends[:-1]), strict=True):
        assert_array_equal(part.ravel(), piece)


def logistic(values):
    return 1 / (1 + np.exp(-values))


def played(stages, named, obs, memory):
    """Return raw outputs computed from docs/export.md's description of the stages.

    This is the twin of nets/policy.py.
    """
    hidden = obs.reshape(len(obs), -1).astype(np.float64)
    for stage in stages:
        if stage["kind"] == "normalise":
            moments = named[stage["moments"]].astype(np.float64)
            size = len(moments) // 2
            mean = moments[1 : 1 + size] / moments[0]
            deviation = np.sqrt(
                np.maximum(moments[1 + size :] / moments[0] - mean**2, (1e-3 * (1 + np.abs(mean))) ** 2)
            )
            hidden = np.clip((hidden - mean) / deviation, -10, 10)
        elif stage["kind"] == "gru":
            inner = hidden @ named[stage["weight_ih"]].T + named[stage["bias_ih"]]
            outer = memory @ named[stage["weight_hh"]].T + named[stage["bias_hh"]]
            (reset_in, update_in, new_in), (reset_out, update_out, new_out) = (
                np.split(inner, 3, 1),
                np.split(outer, 3, 1),
            )
            update = logistic(update_in + update_out)
            hidden = (1 - update) * np.tanh(
                new_in + logistic(reset_in + reset_out) * new_out
            ) + update * memory
        elif stage["kind"] == "dueling":
            value, advantage = (
                (hidden @ named[stage[f"{which}weight"]].T + named[stage[f"{which}bias"]])
                for which in ("value_", "")
            )
            hidden = value + advantage - advantage.mean(1, keepdims=True)
        else:
            hidden = hidden @ named[stage["weight"]].T + named[stage["bias"]]
            hidden = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), None: lambda x: x}[
                stage["activation"]
            ](hidden)
    return hidden


MORE = {
    "recurrent": "{name: ma_trace, critic: independent, network: {hidden: [4], body: gru, memory: 3}}",
    "last action": (
        "{name: vdn, network: {hidden: [4], body: gru, memory: 3}, agent_id: true, obs_last_action: true}"
    ),
    "dueling": ("{name: iql, network: {hidden: [4], body: gru, memory: 3, dueling: true}, agent_id: true}"),
}


@pytest.mark.parametrize("algo", [*ALGORITHMS.values(), *MORE.values()])
def test_network_stages_reproduce_greedy_actions(algo):
    algorithm, generator = make(algo), np.random.default_rng(5)
    named, stages = algorithm.named_parameters(), algorithm.networks()
    for policy in SPEC.policies:
        obs = generator.normal(size=(50, *policy.observation_shape)).astype(np.float32)
        memory, last = np.zeros((50, 3)), np.eye(4, dtype=np.float32)[generator.integers(4, size=50)]
        before = {name: part for name, part in algorithm.initial_memory(50).items() if name == policy.name}
        seen = [obs.reshape(50, -1)]
        if "obs_last_action" in algo:
            seen.append(last)
            before[policy.name][:, :, 3:] = last[:, None]
        if "agent_id" in algo:
            seen.append(np.eye(len(policy.agents))[np.zeros(50, int)])
        raw = played(stages[policy.name], named, np.concatenate(seen, 1), memory)
        frame = frame_of(policy, obs, None)
        frame.episode_start[:] = False
        chosen = algorithm.act(frame, before, generator, greedy=True)[policy.name].action[:, 0]
        assert_array_equal(chosen, raw.argmax(1))
        if not before:
            assert_allclose(
                algorithm.raw_outputs(policy.name, np.concatenate(seen, 1).astype(np.float32)), raw, atol=1e-4
            )


def test_outputs_are_logits_or_values_by_algorithm():
    assert make(ALGORITHMS["ma_trace"]).meanings() == {"walkers": "logits", "flyer": "logits"}
    assert make(ALGORITHMS["iql"]).meanings() == {"walkers": "values", "flyer": "values"}
