"""An objective that is sampled: the return of a policy, with gradients of episodes that are really played. Called by the cluster.

The parameters are the flat vector of the `reinforce` algorithm, acting and gradient are that algorithm's, episodes are cut out of the
steps by the assembler that actors use. Knows no time and no rule. The only file here that needs torch and environments; it is imported
when `objective.name` is policy.

    point [P] float64 -> float32 networks -> so many episodes, side by side, each the first of its slot -> one backward pass a weight
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from hpcmarl.algos import make_algorithm
from hpcmarl.comm.codec import RolloutCodec
from hpcmarl.comm.episodes import EpisodeAssembler
from hpcmarl.comm.layout import RolloutArena
from hpcmarl.config import EnvConfig
from hpcmarl.config.simulation import PolicyObjectiveConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.errors import ConfigError
from hpcmarl.sim.objectives import Objective
from hpcmarl.types import Array, EnvironmentSpec, Rollout

ARENA_STEPS = 64  # rows out of which episodes are cut
LARGEST_SEED = 1 << 31


class Sampled(Objective):
    """`value` is the mean return of the episodes since it was last asked for (NaN: none), the workers' means with equal weight."""

    def __init__(self, config: PolicyObjectiveConfig, workers: int, generator: np.random.Generator) -> None:
        changes = [worker.env for worker in config.workers] or [{}]
        own = [config.env.changed(changes[worker % len(changes)]) for worker in range(workers)]
        different = [environment for index, environment in enumerate(own) if environment not in own[:index]]
        self._stage_of = [different.index(environment) for environment in own]
        seed = int(generator.integers(LARGEST_SEED))
        spec = _common_spec(config, different)
        self.algorithm = make_algorithm(spec, config.algo, seed)
        self.size, self.reference_steps = self.algorithm.size, config.reference_steps
        self.parts = self.algorithm.parts
        self._stages = [Stages(self, config, environment, Seeds(seed, index * (config.slots + 1))) for index, environment in enumerate(different)]
        self._returns: list[list[float]] = [[] for _ in range(workers)]
        self._begun: list[deque[Rollout]] | None = None  # with sim.charge: step, by worker: episodes whose gradients were not asked for yet

    def initial(self) -> Array:
        return self.algorithm.initial_parameters().astype(np.float64)

    def weighted(self, workers: Sequence[int], weights: Array, point: Array, generator: np.random.Generator) -> Array:
        rollouts = self._begun_by(workers) if self._begun is not None else self._play(workers, point, generator)
        for worker, rollout in zip(workers, rollouts, strict=True):
            self._returns[worker].append(rollout.episodes[0].return_mean)
        total = np.zeros(self.size)
        for weight in dict.fromkeys(weights.tolist()):
            total += weight * self.algorithm.gradient([rollout for rollout, own in zip(rollouts, weights, strict=True) if own == weight])[0]
        return total

    def gradient(self, worker: int, point: Array, generator: np.random.Generator) -> Array:
        return self.weighted([worker], np.ones(1), point, generator)

    def _play(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> list[Rollout]:
        """One whole episode of each worker's environment, in the order of `workers`."""
        self.algorithm.load_parameters(point.astype(np.float32))
        played: list[Rollout | None] = [None] * len(workers)
        for number, stage in enumerate(self._stages):
            wanted = [index for index, worker in enumerate(workers) if self._stage_of[worker] == number]
            for index, rollout in zip(wanted, stage.play(len(wanted), generator), strict=True):
                played[index] = rollout
        return [rollout for rollout in played if rollout is not None]

    def begin(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> list[int]:
        """Play an episode for each worker now, whose gradients are asked for later (sim.charge: step); returns how many steps each has."""
        self._begun = self._begun or [deque() for _ in self._returns]
        rollouts = self._play(workers, point, generator)
        for worker, rollout in zip(workers, rollouts, strict=True):
            self._begun[worker].append(rollout)
        return [rollout.steps for rollout in rollouts]

    def _begun_by(self, workers: Sequence[int]) -> list[Rollout]:
        """Of each worker's episodes that were begun the first ones."""
        assert self._begun is not None
        return [self._begun[worker].popleft() for worker in workers]

    def forget(self) -> None:
        """A round is over: what was begun under its point and not used never will be."""
        for begun in self._begun or ():
            begun.clear()

    def value(self, point: Array) -> float:
        heard = [float(np.mean(returns)) for returns in self._by_stage() if returns]
        self._returns = [[] for _ in self._returns]
        return float(np.mean(heard)) if heard else float("nan")

    def _by_stage(self) -> list[list[float]]:
        """The returns since the last point: of each worker where environments differ, else of all together."""
        if len(self._stages) > 1:
            return self._returns
        return [[value for returns in self._returns for value in returns]]

    def slope(self, point: Array) -> Array:
        return np.full(1, np.nan)  # not known: what is sampled is noise for the most part

    def close(self) -> None:
        for stages in self._stages:
            stages.close()


class Stages:
    """Where the episodes of one environment are played: the first of its slots alone for a single episode, the others side by side."""

    def __init__(self, objective: Sampled, config: PolicyObjectiveConfig, environment: EnvConfig, seeds: Seeds) -> None:
        self.slots = config.slots
        self._objective, self._config, self._environment, self._seeds = objective, config, environment, seeds
        self._made: dict[int, Stage] = {}

    def play(self, count: int, generator: np.random.Generator) -> list[Rollout]:
        """`count` whole episodes; when there are more than slots, one batch of slots after the other, so that short episodes weigh no more."""
        rollouts: list[Rollout] = []
        while len(rollouts) < count:
            left = count - len(rollouts)
            slots = 1 if left == 1 else self.slots
            if slots not in self._made:
                seeds = Seeds(self._seeds.seed, self._seeds.first_slot + (slots > 1))
                self._made[slots] = Stage(self._objective, self._config, self._environment, slots, seeds)
            rollouts += self._made[slots].play(min(slots, left), generator)
        return rollouts

    def close(self) -> None:
        for stage in self._made.values():
            stage.environment.close()


class Stage:
    """`slots` slots of one environment that are stepped together."""

    def __init__(self, objective: Sampled, config: PolicyObjectiveConfig, environment: EnvConfig, slots: int, seeds: Seeds) -> None:
        self.algorithm = objective.algorithm
        self.slots = slots
        self.environment = make_environment(environment, config.policies, self.slots, seeds)
        memory = {name: array.shape[-1] for name, array in self.algorithm.initial_memory(1).items()}
        codec = RolloutCodec(self.environment.spec, memory=memory)
        self.arena = RolloutArena(codec.layout(ARENA_STEPS, self.slots))
        self.assembler = EpisodeAssembler(codec, self.slots, 0, np.arange(self.slots))

    def play(self, count: int, generator: np.random.Generator) -> list[Rollout]:
        """The first episode that each of `count` slots finishes; a slot that has done so rests."""
        arena, environment = self.arena, self.environment
        memory = self.algorithm.initial_memory(self.slots)
        environment.rest_slots(range(count, self.slots))
        arena.begin()
        for alive in (policy.alive for policy in arena.frames[0].policies.values()):
            alive[count:] = False
        environment.restart_slots(range(count), arena.frames[0])
        self.assembler.restart(range(self.slots), 0, 0)
        finished: dict[int, Rollout] = {}
        row = 0
        while len(finished) < count:
            decisions = self.algorithm.act(arena.frames[row], memory, generator)
            arena.decide(row, decisions, memory)
            outcome = arena.outcomes[row]
            environment.step({policy: decision.action for policy, decision in decisions.items()}, outcome, arena.frames[row + 1])
            arena.keep(row, outcome)
            for _, rollout in self.assembler.after_step(arena, row, 0):
                slot = int(rollout.slots[0])
                finished[slot] = rollout
                environment.rest_slots([slot])
            row += 1
            if row == ARENA_STEPS:
                arena.begin_after(arena)
                row = 0
        return [finished[slot] for slot in range(count)]


def _common_spec(config: PolicyObjectiveConfig, environments: Sequence[EnvConfig]) -> EnvironmentSpec:
    """The spec that all workers' environments share. Raises ConfigError where their policies differ."""
    specs = [describe(environment, config.policies) for environment in environments]
    for spec in specs[1:]:
        if spec.policies != specs[0].policies:
            raise ConfigError("objective.workers: their environments have different agents or spaces; one policy vector needs equal ones")
    return specs[0]
