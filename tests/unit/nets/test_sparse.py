"""Products with the non-zeros of sparse layers.

They equal dense products. The dense form is used where it is requested or faster.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmarl.algos import make_algorithm
from hpcmarl.config import inference_form
from hpcmarl.config.file import load_config
from hpcmarl.nets.sparse import SparseWeight
from hpcmarl.types import Frame, PolicyFrame
from tests.support.algorithms import acting, bind, make_policy
from tests.support.rollouts import DISCRETE, make_spec
from tests.support.worlds import ECHO

SPARSE = ("algo.sparse.sparsity=0.8", "algo.sparse.every=2")


def sparse_matrix(generator, outputs, inputs, density):
    return (
        generator.standard_normal((outputs, inputs)) * (generator.random((outputs, inputs)) < density)
    ).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12), st.integers(1, 7), st.booleans())
def test_sparse_products_follow_value_and_mask_changes(seed, outputs, inputs, rows, measured):
    generator = np.random.default_rng(seed)
    weight = np.zeros((outputs, inputs), np.float32)
    weights = SparseWeight(weight.T, measured=measured)
    kinds = ["same places", "elsewhere", "grown at zero", "fewer", "none", "all"]
    for kind in ["elsewhere", *generator.choice(kinds, 6)]:
        if kind == "same places":
            weight *= generator.standard_normal(weight.shape).astype(np.float32)
        elif kind == "grown at zero":
            weight[generator.random(weight.shape) < 0.1] = 0.0
            weight[generator.integers(outputs), generator.integers(inputs)] = -0.0
        elif kind == "fewer":
            weight[generator.random(weight.shape) < 0.5] = 0.0
        else:
            weight[:] = sparse_matrix(
                generator, outputs, inputs, {"elsewhere": 0.3, "none": 0.0, "all": 1.0}[kind]
            )
        weights.refresh()
        for _ in range(2):
            given_rows = generator.standard_normal((rows, inputs)).astype(np.float32)
            np.testing.assert_allclose(
                weights.product(given_rows), given_rows.astype(float) @ weight.T, atol=1e-5
            )
            assert weights.form == "csr" or measured


def test_unchanged_mask_does_not_rebuild_the_sparse_form(monkeypatch):
    generator = np.random.default_rng(0)
    weight = sparse_matrix(generator, 20, 30, 0.1)
    weights, rows = SparseWeight(weight.T, measured=False), np.ones((2, 30), np.float32)
    built = []
    convert = SparseWeight._convert
    monkeypatch.setattr(SparseWeight, "_convert", lambda self: built.append(convert(self)))
    for elsewhere, wanted in ((False, 1), (False, 1), (True, 2), (False, 2)):
        if elsewhere:
            weight[3, np.flatnonzero(weight[3] == 0)[0]] = 1.0
        weight *= 2.0
        weights.refresh()
        np.testing.assert_allclose(weights.product(rows), rows @ weight.T, atol=1e-4)
        assert len(built) == wanted


def test_faster_form_is_remeasured_only_for_new_shapes(product_timing):
    weight = sparse_matrix(np.random.default_rng(0), 40, 40, 0.1)
    weights = SparseWeight(weight.T, measured=True)
    for _ in range(3):
        weights.refresh()
        weights.product(np.ones((2, 40), np.float32))
    assert (weights.form, product_timing["calls"]) == ("csr", 1)
    assert weights.bytes < 0.5 * weight.nbytes
    # The gain in time is too small for the sparse form.
    product_timing["csr"] = 0.95
    weights.product(np.ones((3, 40), np.float32))
    assert (weights.form, product_timing["calls"]) == ("dense", 2)
    assert weights.bytes == weight.nbytes
    product_timing["csr"] = 0.1
    weight[:30] = 0.0
    weights.refresh()
    weights.product(np.ones((3, 40), np.float32))
    assert (weights.form, product_timing["calls"]) == ("csr", 3)
    # A fully dense weight needs no timing.
    weight[:] = 1.0
    weights.refresh()
    np.testing.assert_array_equal(weights.product(np.ones((3, 40), np.float32)), np.full((3, 40), 40.0))
    assert (weights.form, product_timing["calls"]) == ("dense", 3)


@pytest.mark.parametrize("recurrent", [False, True])
def test_sparse_actor_equals_the_dense_actor(recurrent):
    generator = np.random.default_rng(3)
    modules, flat = bind({"p": make_policy(DISCRETE, recurrent).shape})
    dense, other = acting(modules["p"]), acting(modules["p"])
    other.become_sparse(measured=False)
    assert len(other.sparse) == (5 if recurrent else 3)
    frame = PolicyFrame(
        generator.standard_normal((3, 2, 2, 3)).astype(np.float32),
        np.array([[True, False], [True, True], [True, True]]),
    )
    memory = generator.standard_normal((3, 2, 5)).astype(np.float32) if recurrent else None
    starts = np.array([False, True, False])
    for density in (0.2, 0.2, 0.6):
        flat.load(sparse_matrix(generator, 1, len(flat.vector), density)[0])
        dense.refresh()
        other.refresh()
        wanted, found = (
            actor.act(frame, starts, memory, np.random.default_rng(1), False) for actor in (dense, other)
        )
        np.testing.assert_array_equal(found.action, wanted.action)
        np.testing.assert_allclose(found.logp, wanted.logp, atol=1e-5)
        if recurrent:
            np.testing.assert_allclose(found.memory, wanted.memory, atol=1e-5)
    assert {weight.form for weight in other.sparse} == {"csr"}


def test_loading_parameters_refreshes_sparse_actors():
    config = load_config(
        ECHO, ["algo.sparse.inference=sparse", "algo.network={hidden: [16], body: gru, memory: 8}"]
    )
    dense, other = (make_algorithm(make_spec(), config.algo, 1) for _ in range(2))
    other.set_weight_format(inference_form(config))
    generator, policy = np.random.default_rng(2), dense.spec.policies[0]
    obs = generator.standard_normal((2, len(policy.agents), *policy.observation_shape)).astype(np.float32)
    frame = Frame({policy.name: PolicyFrame(obs, np.ones(obs.shape[:2], bool))}, None, np.zeros(2, bool))
    for _ in range(3):
        vector = sparse_matrix(generator, 1, dense.size, 0.2)[0]
        after = []
        for algorithm in (dense, other):
            algorithm.load_parameters(vector)
            after.append(
                algorithm.act(frame, algorithm.initial_memory(2), generator, greedy=True)[policy.name].memory
            )
        np.testing.assert_allclose(after[1], after[0], atol=1e-5)
        assert after[0].any()


@pytest.mark.parametrize(
    ("changes", "repeatable", "form"),
    [
        ((), False, "dense"),
        (SPARSE, False, "auto"),
        (SPARSE, True, "dense"),
        ((*SPARSE, "deterministic=true"), False, "dense"),
        ((*SPARSE, "algo.sparse.inference=dense"), False, "dense"),
        ((*SPARSE, "algo.sparse.inference=sparse", "deterministic=true"), True, "sparse"),
    ],
    ids=str,
)
def test_repeatable_runs_never_choose_the_form_by_time(changes, repeatable, form):
    assert inference_form(load_config(ECHO, changes), repeatable=repeatable) == form
