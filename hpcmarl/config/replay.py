"""Sections of the replay of finished episodes, from which gradients draw whole episodes or single steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hpcmarl.config.base import (
    Count,
    Fraction,
    Natural,
    PositiveFloat,
    PositiveInt,
    Section,
)


class DynamicReplayConfig(Section):
    """Replay of dynamic capacity (RLx2, arXiv 2205.15043).

    If the oldest episodes differ much from the present policy, the oldest tenth of the replay is removed.
    """

    every: Count = Field(
        400, description="new episodes between checks of the oldest ones (RLx2: 10,000 steps)"
    )
    oldest: Count = Field(64, description="number of oldest episodes that are checked (RLx2: 2,048 steps)")
    distance: Fraction = Field(
        0.5,
        description=(
            "share of their actions that the present policy would not choose, above which the oldest "
            "tenth of the replay is removed (RLx2, continuous actions: 0.2)"
        ),
    )
    least: Count = Field(
        500, description="number of episodes that always stay (RLx2: a tenth of the capacity)"
    )


class PriorityConfig(Section):
    """Prioritised replay (arXiv 1511.05952).

    Episodes with large temporal-difference errors are drawn more often. Importance weights correct for that.
    """

    alpha: Fraction = Field(
        0.6, description="exponent of the priorities; 0: all episodes have the same probability (R2D2: 0.9)"
    )
    beta: Fraction = Field(
        0.4,
        description=(
            "exponent of the importance weights at the start of the run; 1: full correction (R2D2: 0.6)"
        ),
    )
    beta_steps: PositiveInt = Field(
        1_000_000, description="environment steps of the run over which beta rises linearly to 1"
    )
    max_share: Fraction = Field(
        0.9,
        description=(
            "weight of an episode's largest temporal-difference error in its priority; the mean error "
            "has the rest (R2D2)"
        ),
    )


class ReplayConfig(Section):
    """Replay buffer of finished episodes; each learner has one for the episodes of its actors."""

    episodes: Count = Field(
        5000, description="largest number of episodes in the replay of a learner; the oldest leave first"
    )
    megabytes: PositiveFloat = Field(
        2048.0, description="largest size of the replay in megabytes; the oldest episodes leave first"
    )
    draw: Literal["episodes", "steps"] | None = Field(
        None,
        description=(
            "what a gradient draws: whole episodes, or single steps of all of them; null: steps for maddpg "
            "and masac without memory and priorities, else episodes"
        ),
    )
    learning_starts: Count = Field(
        32, description="number of episodes that each learner collects before its first gradient"
    )
    samples_per_insert: PositiveFloat = Field(
        32.0,
        description=(
            "number of times that an episode, or a step of it, is learned from on average; at this limit the "
            "learner waits for new episodes"
        ),
    )
    recent: Natural = Field(
        0,
        description=(
            "number of newest episodes from which a part of each gradient is drawn (MAST: 128); 0: none"
        ),
    )
    recent_share: Fraction = Field(
        0.375, description="share of each gradient that is drawn from the recent episodes (MAST: 12 of 32)"
    )
    dynamic: DynamicReplayConfig | None = Field(
        None, description="remove the oldest episodes early, as in RLx2; null: never"
    )
    priority: PriorityConfig | None = Field(
        None,
        description=(
            "draw episodes by their temporal-difference errors; null: all with the same probability"
        ),
    )
    save: Literal["stop", "checkpoint", "never"] = Field(
        "stop",
        description=(
            "when the replay is written to replay/ in the run directory; deterministic runs: with every "
            "checkpoint"
        ),
    )
