"""Whether the environments that a checkpoint's configuration names may be imported. Called by whatever reads a configuration from a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.envs.trust import check_origin, origin
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.run_directory import RunDirectory, home_of
from hpcmarl.roles.base import group_environment


def environments(config: Config) -> list[str]:
    """Return the ids of all environments that a configuration names, once each."""
    groups = range(len(config.topology.group_list))
    return list(dict.fromkeys([config.env.id, *(group_environment(config, group).id for group in groups)]))


def check_environments_of(checkpoint: Path, config: Config) -> None:
    """Say what will be imported for a checkpoint's configuration, and refuse what nobody vouches for.

    Args:
        checkpoint: the file.
        config: the configuration in it.

    Raises:
        ConfigError: an environment is neither that of the run's own config.yaml nor in a package of environments.
    """
    home = home_of(checkpoint)
    own: list[str] = []
    if home is not None and (path := RunDirectory(home).config).is_file():
        try:
            own = environments(load_config(path))
        except HpcmarlError:
            own = []  # a configuration that does not load vouches for nothing
    ids = environments(config)
    check_origin(ids, own, str(checkpoint))
    for id in ids:
        print(f"environment {id}: {origin(id)}", file=sys.stderr)
