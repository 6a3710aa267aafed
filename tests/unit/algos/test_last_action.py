"""The last action as an input of the networks.

Acting and learning use the same inputs, and an episode begins without a last action.
"""

from dataclasses import replace

import numpy as np
import pytest

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.batch import join
from hpcmarl.config import AgentNetworkConfig, IQLConfig, QMIXConfig, VDNConfig
from hpcmarl.config.file import load_config
from hpcmarl.nets.acting import last_actions
from hpcmarl.types import Frame, PolicyFrame
from tests.support.rollouts import make_spec, random_rollout
from tests.support.worlds import ECHO

CONFIGS = {"iql": IQLConfig, "vdn": VDNConfig, "qmix": QMIXConfig}
ACTIONS = 5  # of tests.support.rollouts.DISCRETE


def make(name, spec, recurrent, **keys):
    network = AgentNetworkConfig(hidden=(7,), body="gru" if recurrent else "mlp", memory=4)
    algorithm = make_algorithm(spec, CONFIGS[name](network=network, **{"obs_last_action": True, **keys}), 0)
    algorithm.load_parameters(np.random.default_rng(1).standard_normal(algorithm.size).astype(np.float32))
    return algorithm


def frame_of(rollout, step):
    parts = {
        name: PolicyFrame(
            part.obs[step], part.alive[step], None if part.action_mask is None else part.action_mask[step]
        )
        for name, part in rollout.policies.items()
    }
    return Frame(parts, None, rollout.episode_start[step])


def act_through(algorithm, rollout, memory, forget=False):
    """Write the greedy actions into a rollout of whole episodes, step by step as an actor does.

    Args:
        algorithm: The algorithm that acts.
        rollout: Rollout of whole episodes; its actions are overwritten.
        memory: Memory by policy before the first step.
        forget: Acting loses the last actions after each step.

    Returns:
        The memory before each step.
    """
    before = []
    for step in range(rollout.steps):
        before.append(memory["agent"].copy())
        decision = algorithm.act(frame_of(rollout, step), memory, np.random.default_rng(0), greedy=True)[
            "agent"
        ]
        rollout.policies["agent"].action[step] = decision.action
        memory = {"agent": decision.memory}
        if forget:
            decision.memory[..., -ACTIONS:] = 0.0
    return np.stack(before)


def test_last_actions_equal_a_walk_through_the_rows():
    generator = np.random.default_rng(0)
    action, active = generator.integers(4, size=(6, 3, 2)), generator.random((6, 3, 2)) < 0.5
    found = last_actions(action, active, 4)
    for slot in range(3):
        for agent in range(2):
            last = np.zeros(4)
            for row in range(7):
                np.testing.assert_array_equal(found[row, slot, agent], last)
                if row < 6 and active[row, slot, agent]:
                    last = np.eye(4)[action[row, slot, agent]]


@pytest.mark.parametrize("recurrent", [True, False], ids=["gru", "dense"])
@pytest.mark.parametrize(("name", "turn_based"), [("vdn", False), ("qmix", False), ("iql", True)])
@pytest.mark.parametrize("agent_id", [True, False])
def test_learning_reads_the_last_actions_that_acting_fed(name, turn_based, recurrent, agent_id):
    """No action that was greedy in acting differs from the best action in learning."""
    spec = make_spec(has_mask=True, turn_based=turn_based)
    algorithm = make(name, spec, recurrent, agent_id=agent_id)
    rollout = random_rollout(spec, 9, 40, np.random.default_rng(2), deaths=True, whole_episode=True)
    # Memory of the episodes before.
    stale = {name: np.ones_like(array) for name, array in algorithm.initial_memory(40).items()}
    before = act_through(algorithm, rollout, stale)
    acted = np.logical_or.accumulate(rollout.policies["agent"].alive[:8])
    np.testing.assert_array_equal(before[1:, ..., -ACTIONS:].sum(-1), acted)
    assert algorithm.distance([rollout]) == 0
    act_through(algorithm, rollout, stale, forget=True)
    assert algorithm.distance([rollout]) > 0.05


@pytest.mark.parametrize("recurrent", [True, False], ids=["gru", "dense"])
def test_an_episode_begins_without_a_last_action(recurrent):
    spec = make_spec()
    algorithm = make("vdn", spec, recurrent)
    rollout = random_rollout(spec, 1, 30, np.random.default_rng(3), whole_episode=True)
    empty = algorithm.initial_memory(30)
    full = {
        name: np.random.default_rng(4).standard_normal(array.shape).astype(np.float32)
        for name, array in empty.items()
    }
    frame, going_on = frame_of(rollout, 0), replace(frame_of(rollout, 0), episode_start=np.zeros(30, bool))
    first, second, third = (
        algorithm.act(each, memory, np.random.default_rng(0), greedy=True)["agent"]
        for each, memory in ((frame, empty), (frame, full), (going_on, full))
    )
    np.testing.assert_array_equal(first.action, second.action)
    np.testing.assert_array_equal(first.memory, second.memory)
    assert (first.action != third.action).any()
    np.testing.assert_array_equal(third.memory[..., -ACTIONS:], np.eye(ACTIONS)[third.action])


def test_agents_that_do_not_act_keep_their_last_action():
    spec = make_spec()
    algorithm = make("vdn", spec, recurrent=False)
    memory = {
        "agent": np.eye(ACTIONS, dtype=np.float32)[np.random.default_rng(0).integers(ACTIONS, size=(6, 3))]
    }
    frame = frame_of(random_rollout(spec, 1, 6, np.random.default_rng(1), whole_episode=True), 0)
    frame.episode_start[:] = False
    frame.policies["agent"].alive[:, 1] = False
    after = algorithm.act(frame, memory, np.random.default_rng(0), greedy=True)["agent"]
    np.testing.assert_array_equal(after.memory[:, 1], memory["agent"][:, 1])
    np.testing.assert_array_equal(after.memory[:, [0, 2]], np.eye(ACTIONS)[after.action[:, [0, 2]]])


def test_last_action_lies_between_observation_and_number():
    spec = make_spec()
    algorithm = make("vdn", spec, recurrent=True)
    assert algorithm.acting_extras("agent") == {"last action": 5, "number of the agent": 3}
    assert algorithm.acting_inputs("agent") == 6 + 5 + 3
    rollout = random_rollout(spec, 4, 2, np.random.default_rng(0), whole_episode=True)
    seen = algorithm.stage([rollout]).parts[0].inputs.numpy()
    part = join([rollout]).policies["agent"]
    np.testing.assert_array_equal(seen[:4, ..., :6], part.obs[:4])
    np.testing.assert_array_equal(seen[1:, ..., 6:11], np.eye(5)[part.action])
    np.testing.assert_array_equal(seen[..., 11:], np.broadcast_to(np.eye(3), (5, 2, 3, 3)))


def test_last_action_is_off_unless_asked_for():
    assert not load_config(ECHO, []).algo.obs_last_action
    spec = make_spec()
    algorithm = make("vdn", spec, recurrent=False, obs_last_action=False)
    assert (algorithm.initial_memory(2), algorithm.acting_inputs("agent")) == ({}, 6 + 3)


def test_policies_that_see_their_last_action_have_no_table():
    with pytest.raises(TypeError, match="a policy that sees its last action does not act by one observation"):
        make("iql", make_spec(), recurrent=False).action_probs("agent", np.zeros((1, 6), np.float32), None)
