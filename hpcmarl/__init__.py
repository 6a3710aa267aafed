"""hpcmarl trains multi-agent reinforcement-learning policies on one machine and on Slurm clusters over MPI.

    import hpcmarl

    run = hpcmarl.train("configs/quickstart.yaml", ranks=4)  # start ranks, wait, and open the run
    run.metrics                                              # a pandas frame
    policy = hpcmarl.load_policy(run.path)                   # an object with act(observations) -> actions

Importing the package loads neither MPI nor torch; each name is imported when it is first used. The commands
are in `hpcmarl.cli.main`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcmarl.callbacks import Callback, Moment, StopTraining
    from hpcmarl.interface.environments import make_env
    from hpcmarl.interface.policy import Policy, load_policy
    from hpcmarl.interface.run import Run, open_run
    from hpcmarl.interface.starting import evaluate, train

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "Moment",
    "Policy",
    "Run",
    "StopTraining",
    "evaluate",
    "load_policy",
    "make_env",
    "open_run",
    "train",
]

_PLACES = {
    "Callback": "callbacks",
    "Moment": "callbacks",
    "StopTraining": "callbacks",
    "Policy": "interface.policy",
    "Run": "interface.run",
    "evaluate": "interface.starting",
    "load_policy": "interface.policy",
    "make_env": "interface.environments",
    "open_run": "interface.run",
    "train": "interface.starting",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hpcmarl' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"hpcmarl.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
