"""Sparse training: masks in the steps of optimizers, and their evolution."""

import numpy as np
import pytest

from hpcmarl.config import AdamConfig, NigtConfig, RmspropConfig, SgdConfig, SparseConfig
from hpcmarl.config.file import load_config
from hpcmarl.errors import ConfigError
from hpcmarl.maths.sparsity import drop_and_grow
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.base import Averages
from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.types import Layer
from tests.support.worlds import ECHO

# Biases lie between the layers.
LAYERS = (
    Layer(slice(0, 40), (4, 10)),
    Layer(slice(44, 64), (5, 4)),
    Layer(slice(69, 71), (1, 2)),
)
SIZE = 74  # the last two are averages
OPTIMIZERS = [
    NigtConfig(step_size=0.3),
    AdamConfig(step_size=0.1),
    SgdConfig(step_size=0.1, momentum=0.5),
    RmspropConfig(),
]


def plan(growth="gradient", **keys):
    return SparseConfig(
        **{"sparsity": 0.7, "growth": growth, "every": 3, "last": 20, "initial_share": 0.5, **keys}
    )


def topology(growth="gradient", seed=0, **keys):
    return SparseTopology(plan(growth, **keys), LAYERS, SIZE, np.random.default_rng(seed))


def sparse(config, growth="gradient", seed=0):
    optimizer = make_optimizer(config, np.random.default_rng(1).standard_normal(SIZE), (), Averages(72, 0.5))
    optimizer.become_sparse(topology(growth, seed))
    return optimizer


def outside():
    free = np.ones(SIZE, bool)
    for layer in LAYERS:
        free[layer.place] = False
    return free


def test_masks_have_the_sparsity_and_leave_biases_alone():
    made = topology()
    assert made.mask[outside()].all()
    assert made.active == pytest.approx(0.3 * 62, abs=2)
    assert [made.mask[layer.place].sum() for layer in LAYERS] == [
        round(d * n) for d, n in zip(made.densities, (40, 20, 2), strict=True)
    ]
    assert not np.array_equal(made.mask, topology(seed=1).mask)


@pytest.mark.parametrize("config", OPTIMIZERS)
@pytest.mark.parametrize("growth", ["gradient", "random", "none"])
def test_masked_weights_stay_zero_and_counts_constant(config, growth):
    optimizer, generator = sparse(config, growth), np.random.default_rng(2)
    counts = [optimizer.topology.mask[layer.place].sum() for layer in LAYERS]
    masks = []
    for _ in range(24):
        optimizer.step(generator.standard_normal(SIZE))
        absent = ~optimizer.topology.mask
        for array in (optimizer.parameters, optimizer.query_point(), *optimizer._state_arrays().values()):
            assert not array[absent].any()
        assert optimizer.parameters[outside()].all()
        assert [optimizer.topology.mask[layer.place].sum() for layer in LAYERS] == counts
        masks.append(optimizer.topology.mask.tobytes())
    changed = [update for update in range(2, 25) if masks[update - 1] != masks[update - 2]]
    wanted = [] if growth == "none" else [3, 6, 9, 12, 15, 18]
    assert set(changed) <= set(wanted)
    assert len(changed) >= min(len(wanted), 4)


def test_grown_weights_start_at_zero_at_largest_gradients():
    optimizer, generator = sparse(SgdConfig(step_size=0.1)), np.random.default_rng(3)
    for _ in range(2):
        optimizer.step(generator.standard_normal(SIZE))
    before, direction = optimizer.topology.mask.copy(), generator.standard_normal(SIZE)
    moved = optimizer.parameters + 0.1 * direction * before
    optimizer.step(direction)
    place, after = LAYERS[0].place, optimizer.topology.mask
    share = 0.25 * (1 + np.cos(np.pi * 3 / 20))
    twin = drop_and_grow(
        moved[place], before[place], np.abs(direction[place]), int(share * before[place].sum())
    )
    assert after[place].tolist() == twin.tolist() != before[place].tolist()
    new = after & ~before
    assert new[place].any()
    assert not optimizer.parameters[new].any()
    kept = after & before
    kept[72:] = False  # the averages
    np.testing.assert_allclose(optimizer.parameters[kept], moved[kept])


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (RmspropConfig(step_size=0.01, decay=0.99, epsilon=1e-8, max_gradient_norm=None), 10.0),
        (AdamConfig(step_size=0.01, beta1=0.9, beta2=0.999, warmup_updates=0, max_gradient_norm=None), 3.16),
    ],
)
def test_first_step_of_a_grown_weight_is_several_step_sizes(config, first):
    """A grown weight's moments start at zero; the others' moments have settled.

    Its first step is (1 - beta1) / sqrt(1 - beta2) step sizes. With RMSprop beta1 is 0.
    """
    optimizer = make_optimizer(config, np.random.default_rng(1).standard_normal(SIZE))
    optimizer.become_sparse(topology(every=6000, last=100_000))
    before = optimizer.topology.mask.copy()
    for _ in range(6000):
        # Inactive weights have larger gradients.
        optimizer.step(np.where(before, 1.0, 2.0))
    new = optimizer.topology.mask & ~before
    old = optimizer.topology.mask & before
    assert new.sum() >= 5
    assert not optimizer.parameters[new].any()
    at = optimizer.parameters.copy()
    optimizer.step(np.ones(SIZE))
    moved = (optimizer.parameters - at) / config.step_size
    np.testing.assert_allclose(moved[old], 1.0, rtol=0.01)
    np.testing.assert_allclose(moved[new], first, rtol=0.01)


@pytest.mark.parametrize("config", OPTIMIZERS)
@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_restored_sparse_optimizer_continues_bit_for_bit(config, growth):
    generator = np.random.default_rng(4)
    directions = generator.standard_normal((14, SIZE))
    whole, first, second = sparse(config, growth), sparse(config, growth), sparse(config, growth, seed=9)
    for direction in directions:
        whole.step(direction)
    for direction in directions[:7]:
        first.step(direction)
    second.load_state_dict(first.state_dict())
    for direction in directions[7:]:
        second.step(direction)
    np.testing.assert_array_equal(whole.parameters, second.parameters)
    np.testing.assert_array_equal(whole.topology.mask, second.topology.mask)
    with pytest.raises(ValueError, match="mask of 3"):
        second.topology.load_state_dict({**second.topology.state_dict(), "mask": np.ones(3, bool)})


def test_other_algorithms_reject_the_sparse_section():
    with pytest.raises(ConfigError, match=r"algo\.sparse"):
        load_config(ECHO, ["algo.name=ma_trace", "algo.sparse.sparsity=0.9"])
