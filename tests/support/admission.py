"""A game of short and long episodes with a known gradient, and the measured direction of its rounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.worlds import final_parameters, run_world

GAME = """
env: {id: "tests.support.environments:ShortOrLong"}
algo: {name: reinforce, discount: 1.0, network: {hidden: []}}
optimizer: {name: nigt, step_size: 0.1, momentum: 0.1}
topology: {environments_per_actor: 16}
trajectories: {enabled: false}
eval: {episodes: 20, greedy: false}
stop: {updates: 80}
logging: {progress: false}
checkpoint: {every_seconds: null}
"""
TWO_GROUPS = "topology.groups=2"


def slope(directory: Path, size: int, *changes: str, updates: int, order: int = 1) -> tuple[float, float]:
    """Measure the mean direction of all rounds with almost constant parameters.

    The direction is taken with respect to the logit of the long way (action 1).

    Args:
        directory: Run directory.
        size: Number of virtual ranks.
        changes: Overrides of GAME.
        updates: Number of rounds.
        order: Seed of the order in which ranks are stepped.

    Returns:
        The measured mean, and the gradient p (1 - p) (2 - 1) in closed form; both in reward per logit.
    """
    still = ("optimizer={name: sgd, step_size: 1.0e-4}", f"stop.updates={updates}", "eval.episodes=0")
    ranks = run_world(size, directory, *changes, *still, text=GAME, order=order)
    algorithm = ranks[0].context.algorithm()
    name = next(name for name, array in algorithm.named_parameters().items() if array.ndim == 2)
    first = algorithm.named_parameters()[name].copy()
    algorithm.load_parameters(final_parameters(directory).astype(np.float32))
    last = algorithm.named_parameters()[name]
    odds = np.exp(first[1, 0] - first[0, 0])
    long_way = odds / (1 + odds)
    # Column 0 belongs to the input that is 1 in the deciding step. Rewards are 1 for the short way and 2 for
    # the long one.
    return float((last - first)[1, 0] / (1e-4 * updates)), float((2 - 1) * long_way * (1 - long_way))
