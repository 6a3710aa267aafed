"""Dueling heads against their formula, and with masked actions.

Acting, learning and sparse layers agree.
"""

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.config import AgentNetworkConfig, IQLConfig, QMIXConfig, SgdConfig, SparseConfig, VDNConfig
from hpcmarl.nets.dueling import dueling_values
from hpcmarl.nets.numpy_layers import numpy_dueling_values
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.types import Frame, PolicyFrame
from tests.support.rollouts import make_spec, random_rollout

CONFIGS = {"iql": IQLConfig, "vdn": VDNConfig, "qmix": QMIXConfig}
NETWORKS = {
    "gru": AgentNetworkConfig(hidden=(7,), memory=6, dueling=True),
    "dense": AgentNetworkConfig(hidden=(7, 6), body="mlp", dueling=True),
    "linear": AgentNetworkConfig(hidden=(), body="mlp", dueling=True),
}


def make(network, name="vdn", spec=None, **keys):
    algorithm = make_algorithm(spec or make_spec(has_mask=True), CONFIGS[name](network=network, **keys), 0)
    algorithm.load_parameters(np.random.default_rng(1).standard_normal(algorithm.size).astype(np.float32))
    return algorithm


def values_of(algorithm, rollout):
    """Return action values [T+1, B, N, A] as in learning, and the part of the episodes they belong to."""
    episodes = algorithm.stage([rollout])
    return algorithm._values(algorithm._online, episodes)[0].detach().numpy(), episodes.parts[0]


def test_values_equal_the_formula_row_by_row():
    generator = np.random.default_rng(0)
    advantage, value = (generator.standard_normal((20, size)).astype(np.float32) for size in (4, 1))
    mask = generator.random((20, 4)) < 0.5
    mask[:3] = [[True] * 4, [False] * 4, [False, True, False, False]]
    for allowed in (mask, None):
        found = numpy_dueling_values(advantage, value, allowed)
        twin = dueling_values(
            torch.from_numpy(advantage),
            torch.from_numpy(value),
            None if allowed is None else torch.from_numpy(allowed),
        )
        np.testing.assert_allclose(found, twin.numpy(), atol=1e-6)
        for row in range(20):
            counted = advantage[row] if allowed is None else advantage[row, allowed[row]]
            mean = counted.mean() if len(counted) else 0.0
            np.testing.assert_allclose(found[row], value[row] + advantage[row] - mean, atol=1e-6)
    found = numpy_dueling_values(advantage, value, mask)
    # The state value is the mean over the allowed actions.
    for row in np.flatnonzero(mask.any(1)):
        assert found[row, mask[row]].mean() == pytest.approx(value[row, 0], abs=1e-5)


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_masked_advantages_change_no_allowed_value(network):
    """The loss does not change masked advantages either.

    They have no gradient if the action is never allowed.
    """
    algorithm = make(network)
    rollout = random_rollout(algorithm.spec, 5, 4, np.random.default_rng(2), deaths=True, whole_episode=True)
    part = rollout.policies["agent"]
    part.action_mask[..., 3] = False
    part.action_mask[..., 0] |= part.alive
    part.action[part.action == 3] = 0
    before, seen = values_of(algorithm, rollout)
    named = algorithm.named_parameters()
    name = next(name for name in named if name.endswith("outputs.layers.0.weight"))
    gradient = algorithm.gradient([rollout])[0]
    starts = np.cumsum([0, *(array.size for array in named.values())])[list(named).index(name)]
    of_weight = gradient[starts : starts + named[name].size].reshape(named[name].shape)
    assert not of_weight[3].any()
    assert np.abs(of_weight[[0, 1, 2, 4]]).max() > 1e-3
    named[name][3] += 5.0
    after, _ = values_of(algorithm, rollout)
    allowed = seen.mask.numpy()
    np.testing.assert_array_equal(after[allowed], before[allowed])
    assert np.abs(after - before)[seen.alive.numpy()][:, 3].max() > 0.1


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_acting_and_learning_compute_the_same_values(name, network):
    algorithm = make(network, name, obs_last_action=True)
    rollout = random_rollout(algorithm.spec, 6, 5, np.random.default_rng(3), deaths=True, whole_episode=True)
    part, memory, told = rollout.policies["agent"], algorithm.initial_memory(5), []
    chooser = algorithm.choosers["agent"]
    choose = chooser.choose
    chooser.choose = lambda raw, *rest: told.append(raw) or choose(raw, *rest)
    for step in range(6):
        frame = Frame(
            {"agent": PolicyFrame(part.obs[step], part.alive[step], part.action_mask[step])},
            None,
            rollout.episode_start[step],
        )
        decision = algorithm.act(frame, memory, np.random.default_rng(0), greedy=True)["agent"]
        memory, part.action[step] = {"agent": decision.memory}, decision.action
    learned, _ = values_of(algorithm, rollout)
    np.testing.assert_allclose(np.concatenate(told), learned[:6][part.alive[:6]], atol=1e-4)


@pytest.mark.parametrize(("dueling", "least", "most"), [(True, 9.5, 10.5), (False, -0.5, 0.5)])
def test_a_newly_allowed_action_begins_at_the_state_value(dueling, least, most):
    """Three actions earn 10 in the only state; a fourth one is masked during training."""
    spec = make_spec(agents=1, has_mask=True)
    network = AgentNetworkConfig(hidden=(), body="mlp", dueling=dueling)
    algorithm = make_algorithm(spec, VDNConfig(network=network, agent_id=False), 0)
    algorithm.on_version(0)
    rollout = random_rollout(spec, 1, 30, np.random.default_rng(0), whole_episode=True, truncations=False)
    part = rollout.policies["agent"]
    part.obs[:], part.reward[:], part.action[:, :, 0] = np.eye(6)[0], 10.0, np.arange(30) % 3
    part.action_mask[:] = [True, True, True, False, False]
    optimizer = make_optimizer(SgdConfig(step_size=0.2), algorithm.initial_parameters())
    for _ in range(200):
        algorithm.load_parameters(optimizer.query_point())
        optimizer.step(algorithm.gradient([rollout])[0] / 30)
    algorithm.load_parameters(optimizer.query_point())
    part.action_mask[..., 3] = True
    values = values_of(algorithm, rollout)[0][0, 0, 0]
    np.testing.assert_allclose(values[:3], 10.0, atol=0.1)
    assert least < values[3] < most


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize(("name", "layers"), [("gru", 5), ("dense", 4), ("linear", 2)])
def test_sparse_forms_of_all_layers_act_alike(name, layers, measured):
    spec = make_spec(has_mask=True)
    config = VDNConfig(network=NETWORKS[name], sparse=SparseConfig(sparsity=0.6))
    dense, sparse = (make_algorithm(spec, config, 0) for _ in range(2))
    topology = SparseTopology(config.sparse, dense.layers, dense.size, np.random.default_rng(0))
    vector = np.where(topology.mask, np.random.default_rng(1).standard_normal(dense.size), 0.0).astype(
        np.float32
    )
    sparse.set_weight_format("auto" if measured else "sparse")
    inputs = np.random.default_rng(2).standard_normal((30, dense.acting_inputs("agent"))).astype(np.float32)
    told = []
    for algorithm in (dense, sparse):
        algorithm.load_parameters(vector)
        told.append(algorithm.raw_outputs("agent", inputs))
    np.testing.assert_allclose(*told, atol=1e-4)
    assert len(sparse._actors["agent"].sparse) == len(dense.layers) == layers


def test_the_value_layer_stays_dense_in_sparse_training():
    config = VDNConfig(network=AgentNetworkConfig(dueling=True), sparse=SparseConfig(sparsity=0.9))
    algorithm = make_algorithm(make_spec(), config, 0)
    mask = SparseTopology(config.sparse, algorithm.layers, algorithm.size, np.random.default_rng(0)).mask
    shares = {layer.shape: mask[layer.place].mean() for layer in algorithm.layers}
    assert shares[1, 64] == 1.0
    assert shares[192, 64] < 0.2
    costs = algorithm.operations([1.0] * len(algorithm.layers))
    plain = make_algorithm(make_spec(), VDNConfig(), 0)
    # Products and sums of three agents.
    assert costs.acting - plain.operations([1.0] * len(plain.layers)).acting == 3 * (64 + 63)
