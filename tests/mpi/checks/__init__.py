"""What is checked on real ranks that several checks share (tests/mpi/serve_checks.py runs them,
tests/mpi/test_shared_ranks.py reports).

A check is a function that every rank of a part of the world calls with its `Ranks`; it raises where something
is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcmarl.config.file import load_config
from hpcmarl.launch.signals import StopSignals
from hpcmarl.roles.base import Context
from hpcmarl.runtime.rank import Rank, serve
from hpcmarl.train import make_rank, prepare

if TYPE_CHECKING:  # importing it starts MPI, which the tests' own process must not
    from hpcmarl.comm.mpi.mpi_transport import MpiTransport

LIMIT_SECONDS = 100.0  # for one check, on busy cores


@dataclass
class Ranks:
    """The ranks that a check has for itself.

    Attributes:
        comm: Communicator of these ranks alone.
        directory: An empty folder of the check, the same on every rank.
    """

    comm: Any
    directory: Path
    rank: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    def transport(self, **keys: Any) -> MpiTransport:
        """Return a transport between these ranks. Collective; close it."""
        from hpcmarl.comm.mpi.mpi_transport import MpiTransport

        return MpiTransport(world=self.comm, **keys)

    def train(
        self,
        text: str,
        *overrides: str,
        name: str = "run",
        resume: str | None = None,
        before: Callable[[Rank, Context], None] = lambda rank, context: None,
    ) -> Rank:
        """Train a configuration until it ends, in the folder `name`; `before` is called between building and
        serving.

        Returns:
            This rank, closed.
        """
        transport = self.transport()
        context = prepare(transport, load_config(text, overrides), str(self.directory / name), resume)
        rank = make_rank(context)
        before(rank, context)
        assert serve(rank, StopSignals()) == 0
        rank.close()
        transport.close()
        return rank


@dataclass(frozen=True)
class Check:
    """One check: a function, how many ranks it is called on, and with which keyword arguments."""

    name: str
    function: Callable[..., None]
    ranks: int
    arguments: dict[str, Any]
    libraries: tuple[str, ...]

    @property
    def needs_horovod(self) -> bool:
        """Whether an argument names Horovod."""
        return any("horovod" in str(value).split() or value == "horovod" for value in self.arguments.values())


CHECKS: dict[str, Check] = {}


def on_ranks(
    *sizes: int, libraries: Sequence[str] = ("openmpi", "mpich"), **several: Sequence[Any]
) -> Callable[..., Any]:
    """Register a function as checks: one for each number of ranks and each combination of the keyword
    arguments' values."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        for size, *values in itertools.product(sizes, *several.values()):
            label = "-".join(
                [str(size), *(value[0] if isinstance(value, tuple) else str(value) for value in values)]
            )
            name = f"{function.__name__}[{label}]"
            assert name not in CHECKS, name
            CHECKS[name] = Check(
                name, function, size, dict(zip(several, values, strict=True)), tuple(libraries)
            )
        return function

    return register


def load_checks() -> dict[str, Check]:
    """Return all checks, in the order in which they run: the reductions first, while no rank has loaded a
    backend."""
    from tests.mpi.checks import reductions  # noqa: F401, I001  the first
    from tests.mpi.checks import benchmarks, broken, leagues, messages, training  # noqa: F401

    return CHECKS
