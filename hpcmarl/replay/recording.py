"""One episode, step by step, whatever its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs.drawing import Scene
from hpcmarl.replay.pictures import Pictures
from hpcmarl.types import Array, BoolArray, FloatArray

End = Literal["terminated", "truncated", "failed"]


@dataclass(frozen=True)
class PolicySteps:
    """Steps of the agents of one policy: T steps, N agents.

    Attributes:
        name: Name of the policy.
        agents: Names of its agents.
        kind: Kind of its actions: discrete, multi_discrete or continuous.
        obs: Observations before each step, [T, N, *observation_shape] (types.PolicySpec).
        action: Actions, [T, N, ...].
        reward: Rewards of each step, [T, N].
        alive: Whether the agent acts at the step, [T, N].
        logp: Log probabilities of the actions, [T, N]; None: unknown.
        value: Values of the state, [T, N]; None: unknown.
    """

    name: str
    agents: tuple[str, ...]
    kind: str
    obs: Array
    action: Array
    reward: FloatArray
    alive: BoolArray
    logp: FloatArray | None = None
    value: FloatArray | None = None


@dataclass(frozen=True)
class Origin:
    """Seed and settings from which an environment may play the episode again.

    Attributes:
        environments: Settings that may be those of the episode, the likeliest first.
        policies: Agents of each policy.
        seed: Seed of the run or evaluation.
        slot: Number of the slot among all slots that have this seed.
        episode: Number of the episode in the slot.
    """

    environments: tuple[EnvConfig, ...]
    policies: Mapping[str, PolicyConfig]
    seed: int
    slot: int
    episode: int


@dataclass(frozen=True)
class Scenes:
    """Scenes of an episode.

    Attributes:
        scenes: Scenes before steps 0, every, 2·every and so on; the last one is after the last step.
        every: Distance of two scenes in steps.
    """

    scenes: tuple[Scene, ...]
    every: int = 1


@dataclass
class Recording:
    """An episode of T steps.

    Attributes:
        environment: Value of `env.id`.
        policies: Steps of each policy.
        end: How the episode ended. failed: its environment raised, hung or returned non-finite values.
        won: 1.0 for a won, 0.0 for a lost episode; None: the environment does not say.
        facts: Origin of the episode for readers, such as the version of the parameters.
        state: States of the environment before each step, [T, S]; None: none is stored.
        origin: Seed of the episode; None: unknown, so it cannot be played again.
        drawn: Drawings of the episode; None: it has none.
        notes: Sentences about the drawings, for readers.
    """

    environment: str
    policies: tuple[PolicySteps, ...]
    end: End
    won: float | None = None
    facts: dict[str, str | int | float] = field(default_factory=dict)
    state: FloatArray | None = None
    origin: Origin | None = None
    drawn: Scenes | Pictures | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number T of steps."""
        return len(self.policies[0].reward)

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of all A agents, policy by policy."""
        return tuple(agent for policy in self.policies for agent in policy.agents)

    @property
    def rewards(self) -> FloatArray:
        """Rewards of all agents, float64 [T, A]."""
        return np.concatenate([policy.reward for policy in self.policies], 1).astype(np.float64)

    @property
    def returns(self) -> dict[str, float]:
        """Return of each agent."""
        return dict(zip(self.agents, self.rewards.sum(0).tolist(), strict=True))

    @property
    def return_mean(self) -> float:
        """Mean return of all agents."""
        return float(self.rewards.sum(0).mean())

    @property
    def failed(self) -> bool:
        """Whether the environment failed, or reports that the episode is lost."""
        return self.end == "failed" or self.won == 0.0


def choose(wanted: str, returns: Array, failed: BoolArray) -> int | None:
    """Choose an episode.

    Args:
        wanted: best or worst by the mean return of all agents, failed (the last such episode), or a number.
        returns: Mean return of each episode, [E]; NaN: unknown.
        failed: Whether each episode failed, [E].

    Returns:
        The number of the episode; None if there is no such episode.
    """
    if wanted == "failed":
        found = np.flatnonzero(failed)
        return int(found[-1]) if len(found) else None
    if wanted in ("best", "worst"):
        if not np.isfinite(returns).any():
            return None
        return int((np.nanargmax if wanted == "best" else np.nanargmin)(returns))
    number = int(wanted)
    return number if number < len(returns) else None
