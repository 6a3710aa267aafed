"""Check whether the environments and classes named in a checkpoint's configuration may be imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpcmarl.config import Config, EnvConfig
from hpcmarl.config.choice import classes_outside
from hpcmarl.config.file import load_config
from hpcmarl.config.yaml_text import parse, read_file
from hpcmarl.envs.trust import check_offered, is_native, origin
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.run_directory import RunDirectory, home_of
from hpcmarl.plugins import KINDS, need, only_known
from hpcmarl.roles.base import group_environment

# Only training needs the classes that these keys name.
WITHOUT_CALLBACKS = ("callbacks=[]", "logging.trackers=[]")


def environments(config: Config) -> list[EnvConfig]:
    """Return the environments that a configuration names: that of all groups, and those of single groups."""
    groups = range(len(config.topology.group_list))
    return [config.env, *(own for group in groups if (own := group_environment(config, group)) != config.env)]


def load_stored(text: str, checkpoint: Path) -> Config:
    """Load the configuration that a checkpoint holds, and print the origin of its classes outside hpcmarl.

    Callbacks and trackers are left out, since only training needs them. Any other class is imported if an
    installed package registers it, if the run's own files name it, or after `--trust`.

    Args:
        text: The configuration, as YAML.
        checkpoint: The file.

    Raises:
        ConfigError: It names another class, or is not valid.
    """
    with only_known(str(checkpoint), _own_texts(checkpoint)):
        # load_config takes a text with a line break as YAML, and a single line as the name of a file.
        config = load_config(text + "\n", WITHOUT_CALLBACKS)
    for kind, name in dict.fromkeys(classes_outside(config)):
        found = need(kind, name)
        print(f"{KINDS[kind].key} {_shown(name)}: {_shown(origin(found.__module__))}", file=sys.stderr)
    return config


def _own_texts(checkpoint: Path) -> set[str]:
    """Return all texts in the configurations of the run that a checkpoint lies in; nothing is imported."""
    found: set[str] = set()
    for path in _own_files(checkpoint):
        try:
            found.update(_texts(parse(read_file(path), str(path))[0]))
        except HpcmarlError:
            continue
    return found


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(each)


def check_environments_of(checkpoint: Path, config: Config) -> None:
    """Refuse untrusted environments of a checkpoint's configuration, and print the origin of the others.

    An environment with its arguments is trusted if the run's own configuration names it, or that of an
    earlier start of the run.

    Args:
        checkpoint: The file.
        config: The configuration in it.

    Raises:
        ConfigError: An environment is neither in the run's own configuration nor offered by a package of
            environments.
    """
    named = environments(config)
    unknown = {_key(environment): environment for environment in named}
    known_ids = set()
    for own in _own_environments(checkpoint, config):
        known_ids.add(own.id)
        unknown.pop(_key(own), None)
        if not unknown:
            break
    for environment in unknown.values():
        if environment.id in known_ids:
            problem = (
                f"{checkpoint} gives the environment {environment.id} other arguments than the run's "
                "config.yaml"
            )
        else:
            problem = (
                f"{checkpoint} names the environment {environment.id}, which is not that of the run's "
                "config.yaml"
            )
        check_offered(environment.id, problem)
    for id in dict.fromkeys(environment.id for environment in named if not is_native(environment.id)):
        print(f"environment {_shown(id)}: {_shown(origin(id))}", file=sys.stderr)


def _own_environments(checkpoint: Path, config: Config) -> list[EnvConfig]:
    """Return the environments of the run that a checkpoint lies in.

    They are read from its config.yaml and from the configurations of its earlier starts. No class is imported
    that the checkpoint's own configuration does not name.
    """
    found: list[EnvConfig] = []
    with only_known(str(checkpoint), {name for _, name in classes_outside(config)}):
        for path in _own_files(checkpoint):
            try:
                found += environments(load_config(path, WITHOUT_CALLBACKS))
            except HpcmarlError:
                continue  # a configuration that does not load makes no environment trusted
    return found


def _own_files(checkpoint: Path) -> list[Path]:
    home = home_of(checkpoint)
    if home is None:
        return []
    found = (RunDirectory(home).config, *sorted((home / "starts").glob("*.yaml"), reverse=True))
    return [path for path in found if path.is_file()]


def _key(environment: EnvConfig) -> tuple[str, str]:
    return environment.id, repr(sorted(environment.kwargs.items()))


def _shown(text: str) -> str:
    """Return the text with control characters escaped, since it comes from a file."""
    return repr(text)[1:-1]
