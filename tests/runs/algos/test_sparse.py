"""Sparse training in whole runs: operations counted, exact resume."""

import numpy as np
import pytest

from hpcmarl.errors import FormatError
from hpcmarl.roles.learner.learner import Learner
from tests.support.worlds import ECHO, final_state, run_world, summary

SPARSE = (
    "algo.sparse.sparsity=0.8",
    "algo.sparse.every=4",
    "algo.network={hidden: [32], body: gru, memory: 16}",
    "algo.replay.learning_starts=6",
)


# ---- whole runs


def run(tmp_path, name, *changes, **keys):
    run_world(3, tmp_path / name, *SPARSE, *changes, text=ECHO, **keys)
    return tmp_path / name


def mask_and_parameters(directory):
    state = final_state(directory)["engine"]["optimizer"]
    return np.asarray(state["topology"]["mask"]), state["parameters"]


@pytest.mark.parametrize("algorithm", ["iql", "vdn", "qmix", "wqmix", "res"])
def test_value_based_algorithms_train_sparse_and_count_flops(tmp_path, algorithm):
    directory = run(tmp_path, "run", f"algo.name={algorithm}", "stop.updates=8")
    mask, parameters = mask_and_parameters(directory)
    assert mask.sum() < 0.5 * mask.size
    assert not parameters[~mask].any()
    told = summary(directory)
    assert told["learned_steps"] > 0
    assert 0.15 < told["training_flops"] / told["dense_training_flops"] < 0.35
    assert 0 < told["acting_flops_per_step"] < told["dense_acting_flops_per_step"]


@pytest.mark.parametrize(
    ("changes", "grows"),
    [
        ((), {3, 6}),
        (("rounds.reduce=mpi",), {3, 6}),
        (("algo.sparse.last=6",), {3}),
        (("algo.sparse.growth=random",), set()),
        (("algo.sparse.growth=none",), set()),
        (("rounds.rule=afedpg", "algo.sparse.growth=none"), set()),
        (("rounds.rule=afedpg",), set(range(1, 9))),
    ],
    ids=str,
)
def test_dense_gradients_are_counted_where_they_are_made(tmp_path, monkeypatch, changes, grows):
    """Compare the counted steps of dense gradients with the versions that need them.

    These are the versions of 0 to 7 before a growth. Under AFedPG they are all versions: the topology may
    grow before any gradient arrives.
    """
    learned = []
    learn = Learner._learn

    def counting(learner, work):
        learn(learner, work)
        steps = sum(rollout.steps * rollout.count for rollout in work.rollouts)
        learned.append((learner.version + 1, steps))

    monkeypatch.setattr(Learner, "_learn", counting)
    directory = run(tmp_path, "run", "algo.sparse.every=3", *changes, "stop.updates=8")
    told = summary(directory)
    assert told["learned_steps"] == sum(steps for _, steps in learned) > 0
    assert told["dense_gradient_steps"] == sum(steps for update, steps in learned if update in grows)
    sparse, dense, steps, whole = (
        told[name]
        for name in (
            "acting_flops_per_step",
            "dense_acting_flops_per_step",
            "learned_steps",
            "dense_gradient_steps",
        )
    )
    # VDN has only the networks of the agents: a forward pass costs as much as acting.
    assert sparse < 0.35 * dense
    assert told["training_flops"] == pytest.approx(
        4 * sparse * (steps - whole) + (3 * sparse + dense) * whole
    )
    assert told["dense_training_flops"] == pytest.approx(4 * dense * steps)


def test_dense_run_counts_all_flops(tmp_path):
    run_world(3, tmp_path, "stop.updates=3", text=ECHO)
    told = summary(tmp_path)
    assert told["training_flops"] == told["dense_training_flops"] > 0


@pytest.mark.parametrize(
    "extra",
    [(), ("rounds.reduce=mpi",), ("algo.sparse.growth=random",), ("algo.normalise_observations=true",)],
    ids=str,
)
def test_sparse_resume_equals_uninterrupted_run(tmp_path, extra):
    changes = (*extra, "deterministic=true", "algo.sparse.every=3")
    whole = run(tmp_path, "whole", *changes, "stop.updates=10")
    run(tmp_path, "half", *changes, "stop.updates=5", order=7)
    half = run(tmp_path, "half", *changes, "stop.updates=10", resume=str(tmp_path / "half"), order=8)
    for first, second in zip(mask_and_parameters(whole), mask_and_parameters(half), strict=True):
        np.testing.assert_array_equal(first, second)


def test_sparse_run_rejects_a_dense_checkpoint(tmp_path):
    run_world(3, tmp_path / "dense", SPARSE[2], "stop.updates=3", text=ECHO)
    with pytest.raises(FormatError, match="engine is not the state of a run"):
        run(tmp_path, "sparse", "stop.updates=6", resume=str(tmp_path / "dense"))
