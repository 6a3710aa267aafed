"""Benchmarks on shared ranks, as short as useful figures allow."""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from types import ModuleType
from unittest import mock

from hpcmarl.cli.plan import measured_run
from hpcmarl.config.file import load_config
from tests.mpi.checks import Ranks, on_ranks
from tests.support.benchmark_figures import check_comm, check_costs, check_returns, check_stragglers
from tests.support.worlds import SPREAD


@contextlib.contextmanager
def benchmark(ranks: Ranks, name: str) -> Iterator[ModuleType]:
    """Yield a module of hpcmarl.bench that uses these ranks as its world.

    Its logs are closed afterwards.
    """
    module = importlib.import_module(f"hpcmarl.bench.{name}")
    try:
        with mock.patch.object(module, "join_world", ranks.transport):
            yield module
    finally:
        logging.basicConfig(force=True)


@on_ranks(3, libraries=("openmpi",))
def bench_comm_measures_messages_and_sums(ranks: Ranks) -> None:
    with benchmark(ranks, "comm") as module:
        told = module.run(load_config(SPREAD), 0.7)
    if ranks.rank == 0:
        check_comm(told, ranks.size)


@on_ranks(3, libraries=("openmpi",))
def bench_costs_measures_every_rule(ranks: Ranks) -> None:
    with benchmark(ranks, "costs") as module, mock.patch.multiple(module, UNIT=0.04, WARM_UP=0.16):
        told = module.real(1.6)
    if ranks.rank == 0:
        check_costs(told, ranks.size, unit=0.04)


@on_ranks(3, libraries=("openmpi",))
def bench_stragglers_measures_every_rule(ranks: Ranks) -> None:
    with benchmark(ranks, "stragglers") as module:
        told = module.run(0.6, 0.01)
    if ranks.rank == 0:
        check_stragglers(told, ranks.size)


@on_ranks(3, libraries=("openmpi",))
def bench_stragglers_measures_seconds_to_a_return(ranks: Ranks) -> None:
    with benchmark(ranks, "returns") as module:
        told = module.run(-100.0, 30.0, range(1), 0.003, measured_run)
    if ranks.rank == 0:
        check_returns(told, target=-100, limit=30)
