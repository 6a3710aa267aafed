"""What recurrent critics remember of every slot, carried from unroll to unroll. Called by the learner.

Actors have no critic, so a learner goes through each unroll once when it comes, also through one that is
dropped later, and keeps the memory for the next unroll of the slot. An unroll begins with that memory in all
of its gradients. It is of the parameters at which the unrolls before came, and not of the present ones: a
bias that shrinks with the step size, as that of an actor's own memory that is sent along (R2D2's stored
state). Where an unroll is missing (an actor that cannot send drops it) the next one begins with zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcmarl.algos.base import Algorithm
from hpcmarl.types import FloatArray, IntArray, Rollout


class CriticMemory:
    """By actor: which row of which episode each slot comes to next, [E] each, and what each policy's critic
    remembers then, [E, U, H].
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.algorithm = algorithm
        self._carried: dict[int, tuple[IntArray, IntArray, dict[str, FloatArray]]] = {}

    def attach(self, source: int, rollout: Rollout) -> None:
        """Give a rollout of the actor `source` its `critic_memory`, and keep what follows."""
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
        """The actor has died."""
        self._carried.pop(source, None)

    def state_dict(self) -> dict[str, Any]:
        """By actor, for the checkpoint of a run whose actors go on where they were."""
        return {
            str(source): [episode, step, memories]
            for source, (episode, step, memories) in self._carried.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of state_dict."""
        for source, (episode, step, memories) in state.items():
            copies = {name: np.array(memory, np.float32) for name, memory in memories.items()}
            self._carried[int(source)] = (np.array(episode, np.int64), np.array(step, np.int64), copies)


def following(rollout: Rollout) -> tuple[IntArray, IntArray]:
    """Return episode and step in it that each slot shows after the unroll, [E] each."""
    ends = rollout.episode_end > 0
    rows = np.where(ends, np.arange(rollout.steps)[:, None] + 1, 0).max(0, initial=0)
    step = np.where(rows > 0, rollout.steps - rows, rollout.first_step + rollout.steps)
    return (rollout.episode + ends.sum(0)).astype(np.int64), step.astype(np.int64)
