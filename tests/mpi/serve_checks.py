"""Run a list of checks in turn on the ranks of one world.

serve_checks.py DIRECTORY CHECK…

A rank that fails writes its traceback to a file `RANK.failed` in the folder of the check. The world then
ends, because the other ranks would wait forever. Rank 0 writes `passed` when all ranks have finished a check.
"""

import faulthandler
import os
import sys
import time
import traceback
from pathlib import Path

from mpi4py import MPI

from tests.mpi.checks import LIMIT_SECONDS, Check, Ranks, load_checks

NAP_SECONDS = 2e-3


def meet(comm: MPI.Comm) -> None:
    """Wait for all ranks without using a whole core."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(NAP_SECONDS)


def run_check(check: Check, directory: Path) -> None:
    """Run a check on the first ranks of the world."""
    world = MPI.COMM_WORLD
    rank = world.Get_rank()
    directory.mkdir(parents=True, exist_ok=True)
    faulthandler.dump_traceback_later(LIMIT_SECONDS, exit=True)
    part = world.Split(0 if rank < check.ranks else MPI.UNDEFINED, rank)
    try:
        if rank < check.ranks:
            check.function(Ranks(part, directory), **check.arguments)
            part.Free()
        meet(world)
    except BaseException:
        (directory / f"{rank}.writing").write_text(traceback.format_exc())
        (directory / f"{rank}.writing").rename(directory / f"{rank}.failed")
        sys.stdout.flush()
        world.Abort(1)
        # With fault tolerance, a rank can survive Open MPI's Abort.
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()
    if rank == 0:
        (directory / "passed").touch()


def main() -> None:
    checks = load_checks()
    for name in sys.argv[2:]:
        run_check(checks[name], Path(sys.argv[1]) / name)
    sys.stdout.flush()
    meet(MPI.COMM_WORLD)
    os._exit(0)


if __name__ == "__main__":
    main()
