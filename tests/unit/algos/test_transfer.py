"""Networks carried over to changed observations: equal outputs, and refused changes."""

from dataclasses import replace

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.transfer import NEW, transfer_parameters
from hpcmarl.config.file import load_config
from hpcmarl.envs import new_frame
from hpcmarl.errors import ConfigError
from hpcmarl.types import ActionSpace, EnvironmentSpec, PolicySpec

FIVE = ActionSpace("discrete", (5,))


def spec(*sizes, action=FIVE, state=None):
    names = ("walkers", "runners")
    policies = tuple(
        PolicySpec(name, tuple(f"{name}_{k}" for k in range(2)), (size,), action)
        for name, size in zip(names, sizes, strict=False)
    )
    return EnvironmentSpec("made:up", policies, state, turn_based=False)


def make(where, *changes, seed=0, hidden="[8, 6]"):
    shape = [] if any("hidden" in change for change in changes) else [f"algo.network.hidden={hidden}"]
    config = load_config("env: {id: a.b}\nstop: {updates: 1}\n", [*shape, *changes])
    algorithm = make_algorithm(where, config.algo, seed)
    vector = algorithm.parameters.copy()
    generator = np.random.default_rng(seed)
    vector[:] = generator.standard_normal(vector.size).astype(np.float32) * 0.5
    for name, array in algorithm.named_parameters().items():
        # Counts and sums of squares cannot be arbitrary numbers.
        if name.endswith("moments"):
            size = (len(array) - 1) // 2
            array[:] = np.concatenate(
                [[4.0], generator.standard_normal(size), 4.0 + generator.random(size) * 9]
            )
    kept = {
        name: array.copy() for name, array in algorithm.named_parameters().items() if name.endswith("moments")
    }
    algorithm.load_parameters(vector)
    for name, array in algorithm.named_parameters().items():
        if name in kept:
            array[:] = kept[name]
    return algorithm


def act(algorithm, observations, steps=4):
    """Return actions plus log-probabilities, step by step, drawn with one fixed generator.

    Args:
        algorithm: The algorithm that acts.
        observations: Policy -> [steps, 3, 2, D].
        steps: Number of steps.
    """
    generator, memory, told = np.random.default_rng(5), algorithm.initial_memory(3), []
    for step in range(steps):
        frame = new_frame(algorithm.spec, 3)
        for name, seen in frame.policies.items():
            seen.obs[:], seen.alive[:] = observations[name][step], True
        decisions = algorithm.act(frame, memory, generator)
        memory = {
            name: decision.memory for name, decision in decisions.items() if decision.memory is not None
        }
        told.append(np.stack([decision.action + decision.logp for decision in decisions.values()]))
    return np.stack(told)


@pytest.mark.parametrize(
    "changes",
    [
        ("algo.critic=independent",),
        ("algo.critic=independent", "algo.agent_id=true", "algo.normalise_observations=true"),
        ("algo.critic=joint_observation",),
        ("algo.critic=joint_observation", "algo.normalise_observations=true", "algo.normalise_values=true"),
        ("algo.critic=independent", "algo.network.body=gru"),
        ("algo.critic=joint_observation", "algo.critic_network={hidden: [8], body: gru}"),
        ("algo.name=ppo", "algo.critic=independent"),
        ("algo.name=iql",),
        ("algo.name=vdn", "algo.network.body=mlp"),
        ("algo.name=vdn", "algo.normalise_observations=true"),
        ("algo.name=vdn", "algo.obs_last_action=true"),
        ("algo.name=vdn", "algo.network.dueling=true"),
        (
            "algo.name=vdn",
            "algo.network.body=mlp",
            "algo.network.dueling=true",
            "algo.network.hidden=[]",
        ),
        ("algo.name=iql", "algo.obs_last_action=true", "algo.agent_id=false", "algo.network.body=mlp"),
        ("algo.name=coma", "algo.critic=joint_observation"),
        ("algo.name=coma", "algo.critic=joint_observation", "algo.agent_id=true"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    "features", [[0, 1, 2, 3, NEW, NEW], [NEW, 2, 0, NEW, 3, 1], [3, 2, 1, 0]], ids=["more", "mixed", "order"]
)
def test_carried_policies_ignore_new_features(changes, features):
    old, new = make(spec(4), *changes, seed=1), make(spec(len(features)), *changes, seed=2)
    carried = transfer_parameters(old, new, {"walkers": features})
    assert carried.difference < 1e-5
    assert not carried.begun
    generator = np.random.default_rng(3)
    before = generator.standard_normal((4, 3, 2, 4)).astype(np.float32)
    after = generator.standard_normal((4, 3, 2, len(features))).astype(np.float32)
    for place, feature in enumerate(features):
        if feature != NEW:
            after[..., place] = before[..., feature]
    new.load_parameters(carried.parameters)
    np.testing.assert_allclose(act(new, {"walkers": after}), act(old, {"walkers": before}), atol=2e-4)


def test_carried_critic_ignores_new_features():
    """The critic of all agents' observations reads them agent by agent."""
    old, new = (
        make(spec(4), "algo.critic=joint_observation", seed=1),
        make(spec(6), "algo.critic=joint_observation", seed=2),
    )
    features = [NEW, 2, 0, NEW, 3, 1]
    transfer_parameters(old, new, {"walkers": features})
    before, after = (
        algorithm.named_parameters()["walkers.critic.layers.layers.0.weight"] for algorithm in (old, new)
    )
    seen = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    widened = np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)
    for place, feature in enumerate(features):
        if feature != NEW:
            widened[:, place] = seen[:, feature]
    np.testing.assert_allclose(after @ widened.ravel(), before @ seen.ravel(), rtol=1e-4, atol=1e-5)


def test_only_the_changed_policy_requires_features():
    old, new = (
        make(spec(4, 3), "algo.critic=joint_observation", seed=1),
        make(spec(5, 3), "algo.critic=joint_observation", seed=2),
    )
    carried = transfer_parameters(old, new, {"walkers": [0, 1, 2, 3, NEW]})
    assert {name.rpartition(".layers.")[0] for name in carried.begun} == {
        "walkers.critic.layers",
        "runners.critic.layers",
    }
    assert carried.widened == ["walkers.actor.outputs.layers.0.weight"]


def test_mixer_of_the_state_is_carried_over_unchanged():
    old, new = (
        make(spec(4, state=7), "algo.name=qmix", seed=1),
        make(spec(5, state=7), "algo.name=qmix", seed=2),
    )
    carried = transfer_parameters(old, new, {"walkers": [0, 1, 2, 3, NEW]})
    assert not carried.begun
    assert any(name.startswith("(team)") for name in carried.carried)


@pytest.mark.parametrize(
    ("before", "after", "features", "message"),
    [
        (
            spec(4),
            spec(6),
            {},
            (
                r"sees 6 features, but 4 in the snapshot; assign them, for instance with --features "
                r"walkers=0-3,new\*2"
            ),
        ),
        (spec(4), spec(6), {"walkers": [0, 1, 2, 3]}, "4 features given, but the policy sees 6"),
        (
            spec(4),
            spec(5),
            {"walkers": [0, 1, 2, 4, NEW]},
            "4 is not an old feature; allowed: 0 to 3, or new",
        ),
        (spec(4), spec(5), {"walkers": [0, 1, 2, 2, NEW]}, "every old feature must have exactly one place"),
        (spec(4), spec(4, action=ActionSpace("discrete", (6,))), {}, "other actions than in the snapshot"),
        (
            spec(4),
            replace(spec(4), policies=(replace(spec(4).policies[0], name="others"),)),
            {},
            "policy others is not in the snapshot; it has walkers",
        ),
    ],
)
def test_incompatible_networks_are_rejected(before, after, features, message):
    with pytest.raises(ConfigError, match=message):
        transfer_parameters(make(before), make(after), features)


@pytest.mark.parametrize("hidden", ["[8, 7]", "[7, 6]", "[8]", "[]"])
def test_other_hidden_layers_are_refused(hidden):
    with pytest.raises(ConfigError, match=r"keep algo\.network as it was"):
        transfer_parameters(make(spec(4)), make(spec(5), hidden=hidden), {"walkers": [0, 1, 2, 3, NEW]})


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            ("algo.obs_last_action=true",),
            (),
            (
                "policy walkers had 5 inputs for the last action in the snapshot and has 0 now; keep "
                "algo.agent_id"
            ),
        ),
        (
            (),
            ("algo.agent_id=false",),
            "policy walkers had 2 inputs for the number of the agent in the snapshot and has 0 now",
        ),
    ],
)
def test_other_inputs_behind_the_observation_are_refused(before, after, message):
    with pytest.raises(ConfigError, match=message):
        transfer_parameters(
            make(spec(4), "algo.name=vdn", *before), make(spec(4), "algo.name=vdn", *after), {}
        )
