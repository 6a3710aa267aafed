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
    from hpcmarl.interface.environments import make_env
    from hpcmarl.interface.policy import Policy, load_policy
    from hpcmarl.interface.run import Run, open_run
    from hpcmarl.interface.starting import evaluate, train

__version__ = "0.1.0"
__all__ = ["Policy", "Run", "evaluate", "load_policy", "make_env", "open_run", "train"]

_PLACES = {
    "Policy": "policy",
    "Run": "run",
    "evaluate": "starting",
    "load_policy": "policy",
    "make_env": "environments",
    "open_run": "run",
    "train": "starting",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hpcmarl' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"hpcmarl.interface.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
