"""Make the writer of an actor's trajectories."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hpcmarl.roles.base import Context

if TYPE_CHECKING:
    from hpcmarl.io.trajectories.writer import TrajectoryWriter


def trajectory_writer(context: Context, index: int, *, with_state: bool) -> TrajectoryWriter | None:
    """Return the writer of one actor's trajectories; None where they are not kept. The state is kept where
    rollouts carry it.
    """
    config = context.config.trajectories
    if not config.enabled:
        return None
    from hpcmarl.io.trajectories.writer import TrajectoryWriter  # HDF5 is loaded where something is written

    directory = context.run_directory / "trajectories"
    rank, host = context.rank, context.transport.host
    spec = context.spec if with_state else replace(context.spec, state_size=None)
    ranks, attributes = len(context.topology.actors), context.attributes("actor", index)
    return TrajectoryWriter(
        directory, spec, config, rank=rank, role="actor", host=host, attributes=attributes, ranks=ranks
    )
