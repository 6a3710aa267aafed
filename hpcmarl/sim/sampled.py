"""An objective that is sampled: the return of a policy, with gradients of episodes that are really played.
Called by the cluster.

The parameters are the flat vector of the algorithm (reinforce or ma_trace), and gradients are that
algorithm's: those of reinforce in numpy, but in torch where policies have more than dense layers, and those
of ma_trace in torch, with whole episodes for unrolls. Knows no time and no rule. Environments are imported
when `objective.name` is policy.

    point [P] float64 -> float32 networks -> so many episodes, side by side, each the first of its slot -> one
        backward pass
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hpcmarl.algos.numpy_reinforce import NumpyReinforce
from hpcmarl.config import EnvConfig, ReinforceConfig
from hpcmarl.config.simulation import PolicyObjectiveConfig
from hpcmarl.envs import Seeds, describe
from hpcmarl.errors import ConfigError
from hpcmarl.sim.objectives import Objective
from hpcmarl.sim.playing import Act, Memory, Playground
from hpcmarl.types import Array, Decision, EnvironmentSpec, Frame, Rollout

if TYPE_CHECKING:
    from hpcmarl.algos.base import Algorithm

LARGEST_SEED = 1 << 31


class Sampled(Objective):
    """`value` is the mean return of the episodes since it was last asked for (NaN: none).

    Where workers' environments differ it is the mean of the workers' own, each with its newest episodes (NaN
    until all have delivered)."""

    def __init__(self, config: PolicyObjectiveConfig, workers: int, generator: np.random.Generator) -> None:
        changes = [worker.env for worker in config.workers] or [{}]
        own = [config.env.changed(changes[worker % len(changes)]) for worker in range(workers)]
        different = [environment for index, environment in enumerate(own) if environment not in own[:index]]
        self._stage_of = [different.index(environment) for environment in own]
        seed = int(generator.integers(LARGEST_SEED))
        spec = _common_spec(config, different)
        self.algorithm = _in_numpy(spec, config, seed) or _with_torch(spec, config, seed)
        self._asks_logp = not isinstance(config.algo, ReinforceConfig)
        self.size, self.reference_steps = self.algorithm.size, config.reference_steps
        self.parts = self.algorithm.parts
        self._stages = [
            Stages(config, spec, environment, Seeds(seed, index * 4 * config.slots))
            for index, environment in enumerate(different)
        ]
        self._returns: list[list[float]] = [[] for _ in range(workers)]
        # means, of each worker where environments differ
        self._newest = [float("nan")] * (workers if len(different) > 1 else 1)
        self.steps_played = 0
        self._begun: list[deque[Rollout]] | None = (
            None  # by worker, gradients not yet asked for; None: none is played before
        )

    def initial(self) -> Array:
        return self.algorithm.initial_parameters().astype(np.float64)

    def weighted(
        self, workers: Sequence[int], weights: Array, point: Array, generator: np.random.Generator
    ) -> Array:
        rollouts = (
            self._begun_by(workers) if self._begun is not None else self._play(workers, point, generator)
        )
        for worker, rollout in zip(workers, rollouts, strict=True):
            self._returns[worker].append(rollout.episodes[0].return_mean)
        if self._begun is not None:
            self.algorithm.load_parameters(point.astype(np.float32))
        return self._direction(rollouts, weights)

    def _direction(self, rollouts: Sequence[Rollout], weights: Array) -> Array:
        if isinstance(self.algorithm, NumpyReinforce):
            return self.algorithm.weighted_gradient(rollouts, weights.tolist()).astype(np.float64)
        self.algorithm.on_progress(self.steps_played)
        total = np.zeros(self.size)
        for weight in dict.fromkeys(weights.tolist()):
            total += (
                weight
                * self.algorithm.gradient(
                    [rollout for rollout, own in zip(rollouts, weights, strict=True) if own == weight]
                )[0]
            )
        return total

    def gradient(self, worker: int, point: Array, generator: np.random.Generator) -> Array:
        return self.weighted([worker], np.ones(1), point, generator)

    def _play(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> list[Rollout]:
        """One whole episode of each worker's environment, in the order of `workers`, all at one point."""
        self.algorithm.load_parameters(point.astype(np.float32))
        act = partial(self.algorithm.act, generator=generator, with_logp=self._asks_logp)
        return self._side_by_side(workers, lambda part, slots: act)

    def _side_by_side(self, workers: Sequence[int], acting: Callable[[list[int], int], Act]) -> list[Rollout]:
        """The same where `acting` says how so many slots act, the first of which play for these of the
        workers, by their places in `workers`."""
        played: list[Rollout | None] = [None] * len(workers)
        for number, stage in enumerate(self._stages):
            wanted = [index for index, worker in enumerate(workers) if self._stage_of[worker] == number]
            for ground, part in stage.parts(wanted):
                rollouts = ground.play(
                    len(part), acting(part, ground.slots), self.algorithm.initial_memory(ground.slots)
                )
                self.steps_played += sum(rollout.steps for rollout in rollouts)
                for index, rollout in zip(part, rollouts, strict=True):
                    played[index] = rollout
        return [rollout for rollout in played if rollout is not None]

    def begin(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> list[int]:
        """Play an episode for each worker now, whose gradients are asked for later (sim.charge: step);
        returns how many steps each has."""
        return self._keep(workers, self._play(workers, point, generator))

    def begin_apart(
        self, workers: Sequence[int], points: Sequence[Array], generator: np.random.Generator
    ) -> None:
        """The same where each worker stands at a point of its own."""
        if isinstance(self.algorithm, NumpyReinforce):
            vectors, algorithm = np.array(points, np.float32), self.algorithm

            def acting(part: list[int], slots: int) -> Act:
                policies = algorithm.stacked(vectors[part + [part[0]] * (slots - len(part))])

                def act(frame: Frame, _: Memory) -> dict[str, Decision]:
                    return policies.act(frame, generator)

                return act

            self._keep(workers, self._side_by_side(workers, acting))
            return
        for worker, point in zip(workers, points, strict=True):
            self.begin([worker], point, generator)

    def apart(self, workers: Sequence[int], points: Sequence[Array], generator: np.random.Generator) -> Array:
        self.begin_apart(workers, points, generator)
        return super().apart(workers, points, generator)

    def _keep(self, workers: Sequence[int], rollouts: Sequence[Rollout]) -> list[int]:
        self._begun = self._begun or [deque() for _ in self._returns]
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

    def abandon(self, worker: int) -> None:
        """What a worker has begun and not delivered never will be."""
        if self._begun is not None:
            self._begun[worker].clear()

    def value(self, point: Array) -> float:
        by_stage = self._by_stage()
        for index, returns in enumerate(by_stage):
            if returns:
                self._newest[index] = float(np.mean(returns))
        self._returns = [[] for _ in self._returns]
        return float(np.mean(self._newest)) if any(by_stage) else float("nan")

    def _by_stage(self) -> list[list[float]]:
        """The returns since the last point: of each worker where environments differ, else of all
        together."""
        if len(self._stages) > 1:
            return self._returns
        return [[value for returns in self._returns for value in returns]]

    def slope(self, point: Array) -> Array:
        return np.full(1, np.nan)  # not known: what is sampled is noise for the most part

    def close(self) -> None:
        for stages in self._stages:
            stages.close()


class Unplayed:
    """Deliveries under way whose episodes are still to be played: all of them together, each at its worker's
    point, when the first is asked for."""

    def __init__(self, objective: Sampled) -> None:
        self._objective = objective
        self._workers: dict[int, None] = {}  # in the order in which they began

    def __contains__(self, worker: int) -> bool:
        return worker in self._workers

    def add(self, worker: int) -> None:
        """A worker begins a delivery at its point."""
        self._workers[worker] = None

    def abandon(self, worker: int) -> None:
        """A worker is down in the middle of its delivery."""
        if worker in self._workers:
            del self._workers[worker]
        else:
            self._objective.abandon(worker)

    def play(self, loads: Sequence[int], points: Sequence[Array], generator: np.random.Generator) -> None:
        """Play what is left. loads, points: of every worker, trajectories and where it stands."""
        workers = [worker for worker in self._workers for _ in range(loads[worker])]
        self._objective.begin_apart(workers, [points[worker] for worker in workers], generator)
        self._workers.clear()


class Stages:
    """Where the episodes of one environment are played: side by side in as many slots as they need."""

    def __init__(
        self, config: PolicyObjectiveConfig, spec: EnvironmentSpec, environment: EnvConfig, seeds: Seeds
    ) -> None:
        """seeds: whose first_slot has 4 · slots to itself."""
        self._config, self._spec, self._environment, self._seeds = config, spec, environment, seeds
        self._made: dict[int, Playground] = {}

    def parts(self, wanted: Sequence[int]) -> Iterator[tuple[Playground, list[int]]]:
        """Divide what is wanted among playgrounds; where it is more than slots, one batch of slots after the
        other, so that short episodes weigh no more."""
        most = self._config.slots
        for first in range(0, len(wanted), most):
            part = list(wanted[first : first + most])
            yield self._ground(min(most, _rounded(len(part)))), part

    def _ground(self, slots: int) -> Playground:
        if slots not in self._made:
            seeds = Seeds(self._seeds.seed, self._seeds.first_slot + sum(self._made))
            self._made[slots] = Playground(self._environment, self._config.policies, self._spec, slots, seeds)
        return self._made[slots]

    def close(self) -> None:
        for ground in self._made.values():
            ground.close()


def _rounded(count: int) -> int:
    """A few slots more than are needed: 1, 2, 3, 4, 6, 8, 12, 16, … Slots that rest cost time, and so do many
    playgrounds."""
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power


def _in_numpy(spec: EnvironmentSpec, config: PolicyObjectiveConfig, seed: int) -> NumpyReinforce | None:
    return NumpyReinforce.of(spec, config.algo, seed) if isinstance(config.algo, ReinforceConfig) else None


def _with_torch(spec: EnvironmentSpec, config: PolicyObjectiveConfig, seed: int) -> Algorithm:
    from hpcmarl.algos import make_algorithm

    return make_algorithm(spec, config.algo, seed)


def _common_spec(config: PolicyObjectiveConfig, environments: Sequence[EnvConfig]) -> EnvironmentSpec:
    """The spec that all workers' environments share. Raises ConfigError where their policies differ."""
    specs = [describe(environment, config.policies) for environment in environments]
    for spec in specs[1:]:
        if spec.policies != specs[0].policies:
            raise ConfigError(
                "objective.workers: their environments have different agents or spaces; one policy vector "
                "needs equal ones"
            )
    return specs[0]
