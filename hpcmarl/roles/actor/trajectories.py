"""Creation of the writer of an actor's trajectories."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hpcmarl.roles.base import Context

if TYPE_CHECKING:
    from hpcmarl.io.trajectories.writer import TrajectoryWriter


def trajectory_writer(context: Context, index: int, *, with_state: bool) -> TrajectoryWriter | None:
    """Return the writer of one actor's trajectories; None if they are not recorded.

    Args:
        context: The run.
        index: Number of the actor.
        with_state: Whether rollouts carry the environment state, which is then recorded as well.
    """
    config = context.config.trajectories
    if not config.enabled:
        return None
    from hpcmarl.io.trajectories.writer import TrajectoryWriter  # loads HDF5 only if needed

    directory = context.run_directory / "trajectories"
    rank, host = context.rank, context.transport.host
    spec = context.spec if with_state else replace(context.spec, state_size=None)
    ranks, attributes = len(context.topology.actors), context.attributes("actor", index)
    return TrajectoryWriter(
        directory, spec, config, rank=rank, role="actor", host=host, attributes=attributes, ranks=ranks
    )
