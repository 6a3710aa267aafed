"""The exception tree and the exit codes. Everything raises from here; nothing here imports anything.

HpcmarlError                     exit 1   a failure while working
├── UsageError                   exit 2   what was asked for cannot be done: one line, with the remedy
│   ├── ConfigError                       a configuration key, its value, what is allowed
│   ├── LaunchError                       the MPI world is not the one that was asked for
│   └── MissingPackageError               an optional package, and how to install it
├── EnvironmentFailure                    an environment raised, or broke the PettingZoo contract
├── FormatError                           a file that is truncated, foreign or damaged
├── StorageError                          a run directory that cannot be read or written
└── ProtocolError                         a message between ranks that does not parse
Interrupted (not an error)       exit 75  stopped by a signal after a good checkpoint: try again
"""

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_TRY_AGAIN = 75


class HpcmarlError(Exception):
    """A failure with a message that names the key, file or rank, the value and the remedy."""

    exit_code = EXIT_FAILURE
    # every rank of the world raises it, at the same point: rank 0 tells it, and no rank has to be stopped
    everywhere = False


class UsageError(HpcmarlError):
    """What was asked for cannot be done; the message is one line."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """A configuration key is unknown, has a wrong value, or contradicts another one."""


class LaunchError(UsageError):
    """The MPI world is not the one that the launcher was asked for."""


class MissingPackageError(UsageError):
    """An optional package is needed and not installed."""


class EnvironmentFailure(HpcmarlError):
    """An environment raised past its restart budget, or broke the PettingZoo contract."""


class FormatError(HpcmarlError):
    """A file is truncated, foreign or damaged."""


class StorageError(HpcmarlError):
    """A directory or file cannot be read or written."""


class ProtocolError(HpcmarlError):
    """A message between ranks does not parse: the ranks run different versions, or memory is damaged."""
