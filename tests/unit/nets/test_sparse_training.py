"""Gradients of the active weights alone: equal to the dense gradient, zero elsewhere."""

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.nets import sparse_learning
from hpcmarl.nets.sparse_learning import Pattern, SparseMatrix
from tests.support.algorithms import bind, make_policy
from tests.support.rollouts import DISCRETE, make_spec, random_rollout
from tests.support.worlds import ECHO

NETWORK = "algo.network={hidden: [16], body: gru, memory: 12}"
SPARSE = (NETWORK, "algo.sparse.sparsity=0.8", "algo.sparse.every=3", "algo.replay.learning_starts=6")


@pytest.mark.parametrize("rows", [1, 5, 13])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_sparse_products_and_gradients_equal_dense_ones(rows, density, monkeypatch):
    # With 5 rows a part, 13 rows make three parts.
    monkeypatch.setattr(sparse_learning, "ROWS", 5)
    generator = torch.Generator().manual_seed(0)
    mask = np.random.default_rng(1).random((7, 4)) < density
    weight = (torch.randn(7, 4, generator=generator) * torch.from_numpy(mask)).requires_grad_()
    inputs = torch.randn(rows, 4, generator=generator, requires_grad=True)
    slope = torch.randn(rows, 7, generator=generator)
    wanted = torch.autograd.grad(inputs @ weight.t(), [weight, inputs], slope)
    product = SparseMatrix(weight, Pattern(mask)).product(inputs)
    torch.testing.assert_close(product, inputs @ weight.t())
    found = torch.autograd.grad(product, [weight, inputs], slope)
    torch.testing.assert_close(found[0], wanted[0] * torch.from_numpy(mask))
    torch.testing.assert_close(found[1], wanted[1])


def test_sparse_unroll_equals_the_dense_unroll():
    generator = np.random.default_rng(2)
    modules, flat = bind({"p": make_policy(DISCRETE, True).shape})
    policy = modules["p"]
    mask = np.ones(len(flat.vector), bool)
    for weight in (policy.cell.weight_ih, policy.cell.weight_hh):
        place = flat.place_of(weight)
        mask[place] = generator.random(place.stop - place.start) < 0.3
        assert np.shares_memory(flat.vector[place], weight.detach().numpy())
    flat.load((generator.standard_normal(len(flat.vector)) * mask).astype(np.float32))
    obs = torch.from_numpy(generator.standard_normal((6, 3, 2, 6)).astype(np.float32))
    alive, starts = (torch.from_numpy(generator.random(shape) < 0.6) for shape in ((6, 3, 2), (6, 3)))
    memory, results = torch.from_numpy(generator.standard_normal((3, 2, 5)).astype(np.float32)), []
    masks = tuple(
        mask[flat.place_of(weight)].reshape(weight.shape)
        for weight in (policy.cell.weight_ih, policy.cell.weight_hh)
    )
    for given in (None, masks):
        policy.unroll_where(given)
        assert (policy.patterns is None) == (given is None)
        flat.zero_gradient()
        raw = policy.unroll(obs, alive, starts, memory)
        raw.square().sum().backward()
        results.append((raw.detach().numpy(), flat.gradient.copy()))
    np.testing.assert_allclose(results[1][0], results[0][0], atol=1e-5)
    np.testing.assert_allclose(results[1][1], results[0][1] * mask, atol=1e-4)
    assert results[0][1][~mask].any()
    patterns = policy.patterns
    policy.unroll_where(masks)
    # The pattern is reused.
    assert policy.patterns[0] is patterns[0]
    policy.unroll_where((~masks[0], masks[1]))
    # Most weights of the first matrix are active.
    assert policy.patterns is None


@pytest.mark.parametrize("name", ["iql", "vdn", "qmix", "wqmix", "res"])
def test_masked_gradients_equal_the_dense_gradients(name):
    config = load_config(ECHO, [f"algo.name={name}", *SPARSE, "algo.sparse.training=sparse"])
    spec = make_spec()
    algorithm = make_algorithm(spec, config.algo, 1)
    generator = np.random.default_rng(3)
    mask = np.ones(algorithm.size, bool)
    for layer in algorithm.layers:
        mask[layer.place] = generator.random(layer.place.stop - layer.place.start) < 0.25
    rollouts = [random_rollout(spec, 6, 1, generator) for _ in range(3)]
    # The target network keeps the weights of version 0.
    for version in (0, 1):
        algorithm.load_parameters(
            np.where(mask, generator.standard_normal(algorithm.size) * 0.3, 0.0).astype(np.float32)
        )
        algorithm.on_version(version)
    dense, _ = algorithm.gradient(rollouts)
    algorithm.set_gradient_mask(mask)
    sparse, _ = algorithm.gradient(rollouts)
    np.testing.assert_allclose(sparse[mask], dense[mask], atol=2e-4 * np.abs(dense).max())
    for policy in algorithm._online.policies.values():
        for weight in (policy.cell.weight_ih, policy.cell.weight_hh):
            place = algorithm._flat.place_of(weight)
            assert not sparse[place][~mask[place]].any()
            assert dense[place][~mask[place]].any()
    algorithm.set_gradient_mask(None)
    again, _ = algorithm.gradient(rollouts)
    np.testing.assert_allclose(again, dense, atol=2e-4 * np.abs(dense).max())


def test_sparse_learning_requires_a_recurrent_network():
    with pytest.raises(ConfigError, match=r"algo\.sparse\.training: sparse .* algo\.network\.body"):
        load_config(ECHO, ["algo.sparse.training=sparse"])
