"""Checks on real ranks; several checks share the ranks.

A check is a function that is called with `Ranks` on every rank of a part of the world. It raises an error if
it fails. tests/mpi/serve_checks.py runs the checks; tests/mpi/test_shared_ranks.py reports the results.
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
from hpcmarl.training import make_rank, prepare

# The import starts MPI, and the process of the tests must not start it.
if TYPE_CHECKING:
    from hpcmarl.comm.mpi.mpi_transport import MpiTransport

LIMIT_SECONDS = 100.0  # for one check, on busy cores


@dataclass
class Ranks:
    """The ranks that are reserved for a check.

    Attributes:
        comm: Communicator of only these ranks.
        directory: Empty folder of the check, the same on every rank.
    """

    comm: Any
    directory: Path
    rank: int = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()

    def transport(self, **keys: Any) -> MpiTransport:
        """Return a transport between these ranks.

        The call is collective. The caller must close the transport.
        """
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
        """Train a configuration until it ends.

        Args:
            text: Configuration.
            overrides: Changes of the configuration, `key=value`.
            name: Name of the run directory in the folder of the check.
            resume: As for --resume; None: start a new run.
            before: Called after the rank is built and before it serves.

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
    """One check: a function, its number of ranks and its keyword arguments."""

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
    """Register a function as several checks.

    There is one check for each number of ranks and each combination of the keyword arguments' values.
    """

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
    """Return all checks in the order in which they run.

    The reductions come first, while no rank has loaded a backend.
    """
    from tests.mpi.checks import reductions  # noqa: F401, I001  must be first
    from tests.mpi.checks import benchmarks, broken, leagues, messages, training  # noqa: F401

    return CHECKS
