"""Learning by the weights that are there: the dense gradient where they are, nothing elsewhere, the same training within rounding."""

import numpy as np
import pytest
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.nets import sparse_learning
from hpcmarl.nets.flat import FlatParameters
from hpcmarl.nets.sparse_learning import Pattern, SparseMatrix
from hpcmarl.roles.learner import Learner
from tests.rollouts import DISCRETE, make_spec, random_rollout
from tests.unit.test_nets import make_policy
from tests.worlds import ECHO, final_state, run_world

NETWORK = "algo.network={hidden: [16], recurrent: true, memory: 12}"
SPARSE = (NETWORK, "algo.sparse.sparsity=0.8", "algo.sparse.every=3", "algo.replay.starts=6")


@pytest.mark.parametrize("rows", [1, 5, 13])
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_products_and_their_gradients_are_the_dense_ones(rows, density, monkeypatch):
    monkeypatch.setattr(sparse_learning, "ROWS", 5)  # so that 13 rows are three parts
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


def test_an_unroll_by_the_weights_that_are_there_is_the_dense_one():
    generator = np.random.default_rng(2)
    policy = make_policy(DISCRETE, True)
    flat = FlatParameters({"p": policy})
    mask = np.ones(flat.size, bool)
    for weight in (policy.cell.weight_ih, policy.cell.weight_hh):
        place = flat.place_of(weight)
        mask[place] = generator.random(place.stop - place.start) < 0.3
        assert np.shares_memory(flat.vector[place], weight.detach().numpy())
    flat.load((generator.standard_normal(flat.size) * mask).astype(np.float32))
    obs = torch.from_numpy(generator.standard_normal((6, 3, 2, 6)).astype(np.float32))
    alive, starts = (torch.from_numpy(generator.random(shape) < 0.6) for shape in ((6, 3, 2), (6, 3)))
    memory, results = torch.from_numpy(generator.standard_normal((3, 2, 5)).astype(np.float32)), []
    masks = tuple(mask[flat.place_of(weight)].reshape(weight.shape) for weight in (policy.cell.weight_ih, policy.cell.weight_hh))
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
    assert policy.patterns[0] is patterns[0]  # not made anew
    policy.unroll_where((~masks[0], masks[1]))
    assert policy.patterns is None  # most of the first are there


@pytest.mark.parametrize("name", ["iql", "vdn", "qmix", "wqmix", "res"])
def test_gradients_are_right_where_they_are_asked_for(name):
    config = load_config(ECHO, [f"algo.name={name}", *SPARSE, "algo.sparse.learning=sparse"])
    spec = make_spec()
    algorithm = make_algorithm(spec, config.algo, 1)
    generator = np.random.default_rng(3)
    mask = np.ones(algorithm.size, bool)
    for layer in algorithm.layers:
        mask[layer.place] = generator.random(layer.place.stop - layer.place.start) < 0.25
    rollouts = [random_rollout(spec, 6, 1, generator) for _ in range(3)]
    for version in (0, 1):  # the target network keeps the weights of version 0
        algorithm.load_parameters(np.where(mask, generator.standard_normal(algorithm.size) * 0.3, 0.0).astype(np.float32))
        algorithm.on_version(version)
    dense, _ = algorithm.gradient(rollouts)
    algorithm.learn_where(mask)
    sparse, _ = algorithm.gradient(rollouts)
    np.testing.assert_allclose(sparse[mask], dense[mask], atol=2e-4 * np.abs(dense).max())
    for policy in algorithm._online.policies.values():
        for weight in (policy.cell.weight_ih, policy.cell.weight_hh):
            place = algorithm._flat.place_of(weight)
            assert not sparse[place][~mask[place]].any()
            assert dense[place][~mask[place]].any()
    algorithm.learn_where(None)
    again, _ = algorithm.gradient(rollouts)
    np.testing.assert_allclose(again, dense, atol=2e-4 * np.abs(dense).max())


@pytest.mark.parametrize("extra", [(), ("rounds.reduce=mpi",)], ids=str)
def test_a_run_learns_the_same_within_rounding_and_grows_by_whole_gradients(tmp_path, monkeypatch, extra):
    asked = []
    wanted = Learner._wanted
    monkeypatch.setattr(Learner, "_wanted", lambda learner: (asked.append((learner.version, wanted(learner) is None)), wanted(learner))[1])
    products = []
    product = sparse_learning._product
    monkeypatch.setattr(sparse_learning, "_product", lambda matrix, rows: products.append(1) or product(matrix, rows))
    found = []
    for form in ("dense", "sparse"):
        run_world(3, tmp_path / form, *SPARSE, *extra, f"algo.sparse.learning={form}", "deterministic=true", "stop.updates=8", text=ECHO)
        found.append(final_state(tmp_path / form)["engine"]["optimizer"])
        assert bool(products) == (form == "sparse")
    np.testing.assert_array_equal(found[0]["topology"]["mask"], found[1]["topology"]["mask"])
    np.testing.assert_allclose(found[1]["parameters"], found[0]["parameters"], atol=1e-4)
    assert set(asked) == {(version, (version + 1) % 3 == 0) for version in range(8)}


def test_without_a_recurrence_there_is_nothing_to_choose():
    with pytest.raises(ConfigError, match=r"algo\.sparse\.learning: sparse .* algo\.network\.recurrent"):
        load_config(ECHO, ["algo.sparse.learning=sparse"])
