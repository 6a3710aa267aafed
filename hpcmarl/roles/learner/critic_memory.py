"""Recurrent state of critics, carried from one unroll of a slot to the next.

Actors have no critic. The learner therefore runs the critic over each unroll once on arrival, also over one
that is dropped later. It keeps the final memory for the next unroll of the slot. All gradients of an unroll
begin with that memory.

The memory was computed with the parameters at which the earlier unrolls arrived, not with the present ones.
The resulting bias shrinks with the step size, like that of the actors' own memory, which rollouts carry (the
stored state of R2D2). If an unroll is missing because an actor could not send it, the next one begins with
zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.types import FloatArray, IntArray, Rollout


class CriticMemory:
    """Memory of every slot's critics, by rank of the actor.

    For each actor it keeps the episode and step at which each slot continues, [E] each. It also keeps the
    memory of each policy's critic at that point, [E, U, H].
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self._carried: dict[int, tuple[IntArray, IntArray, dict[str, FloatArray]]] = {}

    def attach(self, source: int, rollout: Rollout) -> None:
        """Set `critic_memory` in the policies of a rollout, and keep the memory after it.

        Args:
            source: Rank of the actor.
            rollout: Its rollout; changed in place.
        """
        carried = self._carried.get(source)
        if carried is not None and len(carried[0]) == rollout.count:
            episode, step, memories = carried
            goes_on = (episode == rollout.episode) & (step == rollout.first_step)
            for name, memory in memories.items():
                rollout.policies[name].critic_memory = np.where(
                    goes_on[:, None, None], memory, np.float32(0.0)
                )
        after = self.algorithm.critic_memory(rollout)
        if not after:
            return
        for name, memory in after.items():
            part = rollout.policies[name]
            part.critic_memory = np.zeros_like(memory) if part.critic_memory is None else part.critic_memory
        self._carried[source] = (*following(rollout), after)

    def forget(self, source: int) -> None:
        """Discard the memory of an actor that has died."""
        self._carried.pop(source, None)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory by actor, for runs that continue their actors' episodes after a resumption."""
        return {
            str(source): [episode, step, memories]
            for source, (episode, step, memories) in self._carried.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        for source, (episode, step, memories) in state.items():
            copies = {name: np.array(memory, np.float32) for name, memory in memories.items()}
            self._carried[int(source)] = (np.array(episode, np.int64), np.array(step, np.int64), copies)


def following(rollout: Rollout) -> tuple[IntArray, IntArray]:
    """Return the episode and the step within it that each slot reaches after an unroll, [E] each."""
    ends = rollout.episode_end > 0
    rows = np.where(ends, np.arange(rollout.steps)[:, None] + 1, 0).max(0, initial=0)
    step = np.where(rows > 0, rollout.steps - rows, rollout.first_step + rollout.steps)
    return (rollout.episode + ends.sum(0)).astype(np.int64), step.astype(np.int64)
