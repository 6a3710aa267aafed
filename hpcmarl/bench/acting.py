"""Acting against bare environment stepping: one process without MPI, no learner; the two alternated in short windows.

Called by cli_bench.py. What an actor does between two rollouts: a batched forward pass for each policy, and one step of all slots.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.bench.throughput import step_bare
from hpcmarl.config import Config, acting_form
from hpcmarl.envs import Seeds, describe, make_environment, new_frame, new_outcome
from hpcmarl.envs.bare import make_bare
from hpcmarl.roles.base import generator_for

WINDOW = 1.0  # seconds of each kind in turn


class Acting:
    """An actor's environments and untrained policies, without anybody to send to."""

    def __init__(self, config: Config) -> None:
        self.slots = config.topology.environments_per_actor
        self.algorithm = make_algorithm(describe(config.env, config.policies), config.algo, config.seed)
        self.algorithm.act_by(acting_form(config))
        self.environment = make_environment(config.env, config.policies, self.slots, Seeds(config.seed), with_state=self.algorithm.needs_state)
        self.generator = generator_for(config.seed, "actor", 0)
        self.memory = self.algorithm.initial_memory(self.slots)
        self.frames = [new_frame(self.environment.spec, self.slots, self.algorithm.needs_state) for _ in range(2)]
        self.outcome = new_outcome(self.environment.spec, self.slots)
        self.environment.reset(self.frames[0])

    def step(self) -> None:
        """One decision of every agent and one step of every slot."""
        decisions = self.algorithm.act(self.frames[0], self.memory, self.generator)
        self.memory |= {policy: decision.memory for policy, decision in decisions.items() if decision.memory is not None}
        self.environment.step({policy: decision.action for policy, decision in decisions.items()}, self.outcome, self.frames[1])
        self.frames.reverse()

    def run(self, seconds: float) -> tuple[int, float]:
        """Act for a while: environment steps and time."""
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            self.step()
            count += self.slots
        return count, time.perf_counter() - began


def run(config: Config, seconds: float) -> dict[str, Any]:
    """Measure for about `seconds` of each kind."""
    torch.set_num_threads(config.topology.threads)
    acting = Acting(config)
    bare = make_bare(config.env, acting.slots, Seeds(config.seed, 1_000_000))
    acting.run(0.2)
    step_bare(bare, 0.2)
    acted, stepped, processor = [], [], 0.0
    for _ in range(max(2, round(seconds / WINDOW))):
        before = time.process_time()
        count, took = acting.run(WINDOW)
        processor += time.process_time() - before
        acted.append(count / took)
        count, took = step_bare(bare, WINDOW)
        stepped.append(count / took)
    acting.environment.close()
    bare.close()
    ratios = (np.array(acted) / np.array(stepped)).tolist()
    return {
        "acting_env_steps_per_second": float(np.mean(acted)),
        "bare_env_steps_per_second": float(np.mean(stepped)),
        "ratio": float(np.mean(acted) / np.mean(stepped)),
        "ratio_median": float(np.median(ratios)),
        "ratio_of_windows": ratios,
        "acting_processor_share": processor / (len(acted) * WINDOW),
        "slots": acting.slots,
        "environment": config.env.id,
        "window_seconds": WINDOW,
    }
