"""Comparisons with published figures that need no training."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs.exploitability import Mixture, small_game
from hpcmarl.maths.sparsity import growing_flops
from tests.support.comparisons.base import compared

Pair = tuple[Any, Any]
BETWEEN = 100  # updates with sparse gradients between two updates with dense ones
# ResNet-50 in the README of github.com/google-research/rigl: length of the training, then FLOPs of training
# and of inference as shares of the dense network's
RIGL = [
    (5, 2.09, 0.42), (5, 1.14, 0.23), (5, 1.23, 0.24), (5, 0.66, 0.13), (5, 0.63, 0.12),
    (5, 0.42, 0.08), (5, 0.45, 0.09), (5, 0.34, 0.07), (5, 0.29, 0.05), (40, 2.32, 0.05),
    (1, 0.42, 0.42), (1, 0.23, 0.23), (1, 0.24, 0.24), (1, 0.13, 0.13),
]  # fmt: skip


@compared(
    "published figure",
    "operations with growth rounds",
    "ResNet-50: training in shares of dense training",
    "14 rows of RigL's README (two decimals)",
    bound=0.01,
    unit="rows",
    each=14,
)
def rigl(seed: int) -> Pair:
    """Compare the operations of training with the README of RigL.

    Both columns are rounded to two decimals, and the bound allows for both errors. It is too coarse to check
    the share of the growth rounds, 0.003.
    """
    found = [
        (BETWEEN * 3 * sparse + growing_flops(sparse, 1.0, 3)) / (3 * (BETWEEN + 1)) for _, _, sparse in RIGL
    ]
    return found, [training / length for length, training, _ in RIGL]


# NashConv of uniform play, from the examples of OpenSpiel
POKER = {"kuhn_poker": 11 / 12, "leduc_poker": 4.747222222222222}


def _uniform(observations: Any, masks: Any) -> Any:
    return masks / masks.sum(-1, keepdims=True)


@compared(
    "published figure",
    "exploitability",
    "NashConv of uniform play in Kuhn's and Leduc poker",
    "11/12 and 4.747222 (OpenSpiel)",
    bound=1e-6,
    unit="games",
    each=2,
    needs="pyspiel",
)
def poker(seed: int) -> Pair:
    """Compare the exploitability of uniform play with the values of OpenSpiel."""
    found = []
    for name in POKER:
        game, reason = small_game(EnvConfig(id=f"openspiel:{name}"))
        assert game is not None, reason
        found.append(game.measure((Mixture([1.0], [_uniform]), Mixture([1.0], [_uniform]))).nash_conv)
    return np.array(found), np.array(list(POKER.values()))
