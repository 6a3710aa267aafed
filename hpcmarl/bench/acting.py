"""Measure the speed of acting against bare environment stepping.

One process runs both in turn, in short windows, without MPI and without a learner. Acting is an actor's work
between two rollouts: one batched forward pass for each policy, and one step of all slots.
"""

from __future__ import annotations

import time
from typing import Any

from hpcmarl.algos import make_model
from hpcmarl.bench.paired_throughput import paired_throughput
from hpcmarl.config import Config, inference_form
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.roles.base import generator_for

WINDOW = 1.0  # seconds of one window; the two alternate


class Acting:
    """An actor's environments and untrained policies, without a learner.

    Args:
        config: Configuration of the run.

    Attributes:
        slots: Environments that are stepped together.
        seconds: Wall-clock time of all acting so far.
        processor_seconds: Processor time of all acting so far.
    """

    def __init__(self, config: Config) -> None:
        self.slots = config.topology.environments_per_actor
        self.algorithm = make_model(describe(config.env, config.policies), config.algo, config.seed)
        self.algorithm.set_weight_format(inference_form(config))
        self.environment = make_environment(
            config.env, config.policies, self.slots, Seeds(config.seed), with_state=self.algorithm.needs_state
        )
        self.generator = generator_for(config.seed, "actor", 0)
        self.memory = self.algorithm.initial_memory(self.slots)
        self.frames = [
            new_frame(self.environment.spec, self.slots, self.algorithm.needs_state) for _ in range(2)
        ]
        self.outcome = new_outcome(self.environment.spec, self.slots)
        self.environment.reset(self.frames[0])
        self.seconds = self.processor_seconds = 0.0

    def step(self) -> None:
        """Make one decision for every agent and one step of every slot."""
        decisions = self.algorithm.act(self.frames[0], self.memory, self.generator)
        self.memory |= {
            policy: decision.memory for policy, decision in decisions.items() if decision.memory is not None
        }
        self.environment.step(
            {policy: decision.action for policy, decision in decisions.items()}, self.outcome, self.frames[1]
        )
        self.frames.reverse()

    def run(self, seconds: float) -> tuple[int, float]:
        """Act for about `seconds`.

        Returns:
            Environment steps, and seconds that they took.
        """
        count, began, processor = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            self.step()
            count += self.slots
        took = time.perf_counter() - began
        self.seconds += took
        self.processor_seconds += time.process_time() - processor
        return count, took


def run(config: Config, seconds: float) -> dict[str, Any]:
    """Measure acting and bare stepping for about `seconds` each.

    Returns:
        The figures of `paired_throughput`, and `acting_processor_share`: processor time per second of acting.
    """
    acting = Acting(config)
    acting.run(0.2)
    acting.seconds = acting.processor_seconds = 0.0
    figures = paired_throughput("acting", acting.run, config.env, config.seed, acting.slots, seconds, WINDOW)
    acting.environment.close()
    return {**figures, "acting_processor_share": acting.processor_seconds / acting.seconds}
