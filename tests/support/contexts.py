"""Real run contexts for tests of single roles, without a run."""

from pathlib import Path

from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import Config
from hpcmarl.config.file import load_config
from hpcmarl.roles.base import Context
from hpcmarl.types import EnvironmentSpec
from tests.support.rollouts import make_spec


def make_context(
    config: Config | str,
    *changes: str,
    directory: Path = Path("run"),
    ranks: int = 1,
    spec: EnvironmentSpec | None = None,
) -> Context:
    """Build the context of rank 0 in a world of virtual ranks.

    Args:
        config: A configuration, or its text.
        changes: Overrides of the text.
        directory: The run directory; it is not created.
        ranks: Size of the world.
        spec: The environment's specification; default: that of tests/support/rollouts.py.
    """
    if isinstance(config, str):
        config = load_config(config, list(changes))
    topology = assign_roles(ranks, ["host"] * ranks, config.topology)
    return Context(config, topology, LocalWorld(ranks).transports[0], directory, spec or make_spec())
