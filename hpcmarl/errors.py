"""Exceptions and exit codes of hpcmarl.

Every error that hpcmarl reports derives from `HpcmarlError`:

    HpcmarlError                     exit 1   a failure at run time
    ├── UsageError                   exit 2   a request that cannot be carried out; one line, with the remedy
    │   ├── ConfigError                       a configuration key, its value and the allowed values
    │   ├── LaunchError                       the MPI world differs from the requested one
    │   └── MissingPackageError               an optional package, and how to install it
    ├── EnvironmentFailure                    an environment raised, or broke the PettingZoo contract
    ├── FormatError                           a file that is truncated, foreign or damaged
    ├── StorageError                          a directory or file that cannot be read or written
    └── ProtocolError                         a message between ranks that does not parse
    Interrupted (not an error)       exit 75  stopped by a signal after a good checkpoint: try again

This module imports nothing, so every other module can import it.
"""

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_TRY_AGAIN = 75


class HpcmarlError(Exception):
    """Base class of all errors that hpcmarl reports.

    The message names the place (configuration key, file or rank), the value and the remedy.

    Attributes:
        exit_code: Exit code of the process that ends with this error.
        everywhere: Whether every rank raises this error at the same point. Then only rank 0 prints it, and no
            rank has to be stopped by another one.
        recorded: File with the whole traceback; empty: there is none.
    """

    exit_code = EXIT_FAILURE
    everywhere = False
    recorded = ""


class UsageError(HpcmarlError):
    """A request of the user that cannot be carried out. The message is one line."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration key that is unknown, has a wrong value or contradicts another key."""


class LaunchError(UsageError):
    """An MPI world that differs from the one requested from the launcher."""


class MissingPackageError(UsageError):
    """An optional package that is needed but not installed."""


class EnvironmentFailure(HpcmarlError):
    """An environment that raised past its restart limit, or broke the PettingZoo contract."""


class FormatError(HpcmarlError):
    """A file that is truncated, foreign or damaged."""


class StorageError(HpcmarlError):
    """A directory or file that cannot be read or written."""


class ProtocolError(HpcmarlError):
    """A message between ranks that does not parse.

    The ranks run different versions of hpcmarl, or memory is damaged.
    """
