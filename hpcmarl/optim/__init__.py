"""Steps on a flat parameter vector (`OPTIMIZERS`) and, in `rounds`, the rules that say when to step.

Called by the server, by replicas under AllReduce and by anything that replays a trace; knows no transport,
network or environment.
"""

from collections.abc import Sequence

from hpcmarl.config import AdamConfig, NigtConfig, RmspropConfig, SgdConfig
from hpcmarl.optim.adam import Adam
from hpcmarl.optim.base import Averages, Optimizer
from hpcmarl.optim.nigt import Nigt
from hpcmarl.optim.rmsprop import Rmsprop
from hpcmarl.optim.sgd import Sgd
from hpcmarl.types import Array, Part

OPTIMIZERS: dict[str, type[Optimizer]] = {"nigt": Nigt, "adam": Adam, "sgd": Sgd, "rmsprop": Rmsprop}


def make_optimizer(
    config: NigtConfig | AdamConfig | SgdConfig | RmspropConfig,
    parameters: Array,
    parts: Sequence[Part] = (),
    averages: Averages | None = None,
) -> Optimizer:
    """The optimizer that `config.name` asks for, at `parameters` [P] (copied); `parts` and `averages` as in
    `Optimizer`.
    """
    optimizer = OPTIMIZERS[config.name](config, parameters, parts)
    optimizer.averages = averages
    return optimizer
