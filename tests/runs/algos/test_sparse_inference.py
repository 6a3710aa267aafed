"""The form of sparse products that a run and its evaluation use."""

from __future__ import annotations

import numpy as np
import pytest

from hpcmarl.evaluation import evaluate_checkpoint
from hpcmarl.nets.sparse import SparseWeight
from tests.support.worlds import ECHO, final_parameters, run_world

SPARSE = ("algo.sparse.sparsity=0.8", "algo.sparse.every=2")


@pytest.fixture
def products(monkeypatch):
    """Return a list that gets one entry for each product that uses non-zeros only."""
    made = []
    multiply = SparseWeight._sparse_product
    monkeypatch.setattr(
        SparseWeight, "_sparse_product", lambda weight, inputs: made.append(1) or multiply(weight, inputs)
    )
    return made


def test_run_and_evaluation_use_the_configured_form(tmp_path, products):
    figures = []
    for form in ("dense", "sparse"):
        changes = (
            *SPARSE,
            "deterministic=true",
            f"algo.sparse.inference={form}",
            "algo.replay.learning_starts=6",
        )
        run_world(2, tmp_path / form, *changes, text=ECHO)
        assert bool(products) == (form == "sparse")
        products.clear()
        figures.append(evaluate_checkpoint(str(tmp_path / form), episodes=4)["return_mean"])
        assert bool(products) == (form == "sparse")
    # Rounding changes no action of this game here, so that both runs learn the same.
    np.testing.assert_allclose(
        final_parameters(tmp_path / "sparse"), final_parameters(tmp_path / "dense"), atol=1e-6
    )
    assert figures[0] == figures[1]


def test_auto_form_is_measured_in_runs_and_dense_in_evaluation(tmp_path, products, product_timing):
    run_world(2, tmp_path, *SPARSE, "algo.replay.learning_starts=6", text=ECHO)
    assert product_timing["calls"]
    assert products
    products.clear()
    evaluate_checkpoint(str(tmp_path), episodes=2)
    assert not products
