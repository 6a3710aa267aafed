"""Threads of the numerical libraries, set through the environment before they load. Called by cli/main.py;
knows no library.

Ranks share the cores of a machine: left alone, every rank would start one thread a core and they would fight.
"""

from __future__ import annotations

from collections.abc import MutableMapping

VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def set_thread_environment(threads: int, environ: MutableMapping[str, str]) -> dict[str, str]:
    """Ask for `threads` threads a rank in `environ`; what the user has set stays. Returns the variables that
    were set."""
    chosen = {name: str(threads) for name in VARIABLES if not environ.get(name)}
    environ.update(chosen)
    return chosen
