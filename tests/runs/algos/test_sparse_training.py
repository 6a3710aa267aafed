"""A run that learns with the active weights only."""

import numpy as np
import pytest

from hpcmarl.nets import sparse_learning
from hpcmarl.roles.learner.learner import Learner
from tests.support.worlds import ECHO, final_state, run_world

NETWORK = "algo.network={hidden: [16], body: gru, memory: 12}"
SPARSE = (NETWORK, "algo.sparse.sparsity=0.8", "algo.sparse.every=3", "algo.replay.learning_starts=6")


@pytest.mark.parametrize("extra", [(), ("rounds.reduce=mpi",), ("algo.network.dueling=true",)], ids=str)
def test_sparse_learning_run_equals_the_dense_run(tmp_path, monkeypatch, extra):
    asked = []
    wanted = Learner._gradient_mask
    monkeypatch.setattr(
        Learner,
        "_gradient_mask",
        lambda learner: (asked.append((learner.version, wanted(learner) is None)), wanted(learner))[1],
    )
    products = []
    product = sparse_learning._product
    monkeypatch.setattr(
        sparse_learning, "_product", lambda matrix, rows: products.append(1) or product(matrix, rows)
    )
    found = []
    for form in ("dense", "sparse"):
        run_world(
            3,
            tmp_path / form,
            *SPARSE,
            *extra,
            f"algo.sparse.training={form}",
            "deterministic=true",
            "stop.updates=8",
            text=ECHO,
        )
        found.append(final_state(tmp_path / form)["engine"]["optimizer"])
        assert bool(products) == (form == "sparse")
    np.testing.assert_array_equal(found[0]["topology"]["mask"], found[1]["topology"]["mask"])
    np.testing.assert_allclose(found[1]["parameters"], found[0]["parameters"], atol=1e-4)
    assert set(asked) == {(version, (version + 1) % 3 == 0) for version in range(8)}
