"""Start of the trackers of a run, or of a league, at the beginning of training."""

from __future__ import annotations

from hpcmarl.roles.base import Context
from hpcmarl.tracking import Place, Trackers, make_trackers


def begin_tracking(context: Context, version: int | None, env_steps: int) -> Trackers:
    """Start the trackers of the configuration. It returns at once.

    Args:
        context: The run, on the rank that writes its metrics.
        version: Version of the rows up to which a resumed run keeps earlier rows; None: it keeps none.
        env_steps: Environment steps of the run so far.
    """
    logging = context.config.logging
    if not logging.tensorboard and logging.wandb is None and not logging.trackers:
        return Trackers()
    lock = context.lock
    place = Place(
        context.run_directory,
        context.run_directory.resolve().name,
        context.run_id,
        context.start_number,
        version,
        env_steps,
        guard=None if lock is None else lock.watch,
    )
    return make_trackers(logging, place, context.config.model_dump(mode="json"))
