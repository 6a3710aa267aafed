"""Judgement of a run's figures: why it made no update, who waited for whom, and which key to change.

The functions are pure, so that the end of a run and any later report give the same sentences.
"""

from __future__ import annotations

from hpcmarl.config import Config


def why_no_round(config: Config, batch: int, trajectories: int, seconds: float) -> str:
    """Return why no round ended, in one sentence with the keys to change.

    Args:
        config: Configuration of the run.
        batch: Trajectories of a round, M.
        trajectories: Trajectories whose gradients had arrived.
        seconds: Training time, seconds.
    """
    steps = config.algo.unroll_steps
    unit = "whole episode" if steps is None else f"unroll of {steps} steps (algo.unroll)"
    wait = (
        f"no round ended in {seconds:.1f} s: a round needs {batch} trajectories (rounds.batch) and "
        f"{trajectories if trajectories else 'none'} had arrived; a trajectory is one {unit}"
    )
    replay = getattr(config.algo, "replay", None)
    if replay is not None and not trajectories:
        wait += f", and learning begins after {replay.learning_starts} episodes (algo.replay.learning_starts)"
        return f"{wait}. Raise stop.seconds or lower algo.replay.learning_starts"
    remedy = "rounds.batch" if trajectories or steps is None else "algo.unroll or rounds.batch"
    return f"{wait}. Raise stop.seconds, or lower {remedy}"
