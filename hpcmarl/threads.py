"""Number of threads of the numerical libraries, set by environment variables before the libraries load.

Ranks share the cores of a machine. By default every rank would start one thread per core, and the ranks would
slow each other down.
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
    """Set the number of threads of each rank; variables that the user has set stay.

    Args:
        threads: Number of threads.
        environ: Environment variables, changed in place.

    Returns:
        The variables that were set.
    """
    chosen = {name: str(threads) for name in VARIABLES if not environ.get(name)}
    environ.update(chosen)
    return chosen
