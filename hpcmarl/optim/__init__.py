"""Optimizers of a flat parameter vector (`OPTIMIZERS`) and the round rules (`rounds`).

A round rule decides when the optimizer steps.
"""

from collections.abc import Sequence

from hpcmarl import plugins
from hpcmarl.config.rounds import OptimizerConfig
from hpcmarl.optim.adam import Adam
from hpcmarl.optim.base import Averages, Optimizer
from hpcmarl.optim.nigt import Nigt
from hpcmarl.optim.rmsprop import Rmsprop
from hpcmarl.optim.sgd import Sgd
from hpcmarl.types import Array, Part

OPTIMIZERS: dict[str, type[Optimizer]] = {"nigt": Nigt, "adam": Adam, "sgd": Sgd, "rmsprop": Rmsprop}


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the class that `optimizer.name` names, also outside hpcmarl."""
    return OPTIMIZERS.get(name) or plugins.need("optimizers", name, OPTIMIZERS)


def make_optimizer(
    config: OptimizerConfig,
    parameters: Array,
    parts: Sequence[Part] = (),
    averages: Averages | None = None,
) -> Optimizer:
    """Make the optimizer named by `config.name`.

    Args:
        config: Settings of the optimizer.
        parameters: Initial parameters, shape [P]; copied.
        parts: Slices that are optimised separately (see Optimizer).
        averages: Entries that are running averages instead of parameters (see Optimizer).
    """
    optimizer = optimizer_class(config.name)(config, parameters, parts)
    optimizer.averages = averages
    return optimizer
