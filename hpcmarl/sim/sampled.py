"""A sampled objective: the expected return of a policy, with gradients of episodes that are really played.

The parameters are the flat vector of the algorithm (reinforce or ma_trace), and the gradients are those of
the algorithm. The gradients of reinforce are computed in numpy, or in torch if policies have more than dense
layers. Those of ma_trace are computed in torch, with whole episodes as unrolls. Environments are imported
only when `objective.name` is policy.

    point [P] float64 -> float32 networks -> episodes side by side, each the first of its slot -> one backward
    pass
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
    """Expected return of a policy in the environments of the workers.

    `value` is the mean return of the episodes since its last call (NaN: there were none). If environments
    differ, it is the mean over the workers of the mean return of their newest episodes (NaN until all have
    delivered).

    Args:
        config: Section `objective`.
        workers: Number of workers.
        generator: For the seed of networks and environments.

    Attributes:
        reference_steps: Length of a trajectory that takes h_i (`sim.charge: step`).
        steps_played: Environment steps of all episodes so far.

    Raises:
        ConfigError: If the policies of the workers' environments differ.
    """

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
        # newest mean return: of each worker if environments differ, else of all together
        self._newest = [float("nan")] * (workers if len(different) > 1 else 1)
        self.steps_played = 0
        # by worker: rollouts whose gradients are not requested yet; None: episodes are played on request
        self._begun: list[deque[Rollout]] | None = None

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
        """Play one whole episode in each worker's environment at one point, in the order of `workers`."""
        self.algorithm.load_parameters(point.astype(np.float32))
        act = partial(self.algorithm.act, generator=generator, with_logp=self._asks_logp)
        return self._side_by_side(workers, lambda part, slots: act)

    def _side_by_side(self, workers: Sequence[int], acting: Callable[[list[int], int], Act]) -> list[Rollout]:
        """Play one whole episode in each worker's environment.

        Args:
            workers: Worker of each episode.
            acting: Returns how agents act, given the episodes to play (indices into `workers`, which take the
                first slots) and the number of slots.
        """
        played: list[Rollout | None] = [None] * len(workers)
        for number, stage in enumerate(self._stages):
            indices = [index for index, worker in enumerate(workers) if self._stage_of[worker] == number]
            for ground, part in stage.parts(indices):
                rollouts = ground.play(
                    len(part), acting(part, ground.slots), self.algorithm.initial_memory(ground.slots)
                )
                self.steps_played += sum(rollout.steps for rollout in rollouts)
                for index, rollout in zip(part, rollouts, strict=True):
                    played[index] = rollout
        return [rollout for rollout in played if rollout is not None]

    def begin(self, workers: Sequence[int], point: Array, generator: np.random.Generator) -> list[int]:
        """Play one episode for each worker now; its gradient is requested later (`sim.charge: step`).

        Returns:
            Steps of each episode.
        """
        return self._store(workers, self._play(workers, point, generator))

    def begin_apart(
        self, workers: Sequence[int], points: Sequence[Array], generator: np.random.Generator
    ) -> None:
        """Play one episode for each worker now, each at the worker's own point."""
        if isinstance(self.algorithm, NumpyReinforce):
            vectors, algorithm = np.array(points, np.float32), self.algorithm

            def acting(part: list[int], slots: int) -> Act:
                policies = algorithm.stacked(vectors[part + [part[0]] * (slots - len(part))])

                def act(frame: Frame, _: Memory) -> dict[str, Decision]:
                    return policies.act(frame, generator)

                return act

            self._store(workers, self._side_by_side(workers, acting))
            return
        for worker, point in zip(workers, points, strict=True):
            self.begin([worker], point, generator)

    def apart(self, workers: Sequence[int], points: Sequence[Array], generator: np.random.Generator) -> Array:
        self.begin_apart(workers, points, generator)
        return super().apart(workers, points, generator)

    def _store(self, workers: Sequence[int], rollouts: Sequence[Rollout]) -> list[int]:
        self._begun = self._begun or [deque() for _ in self._returns]
        for worker, rollout in zip(workers, rollouts, strict=True):
            self._begun[worker].append(rollout)
        return [rollout.steps for rollout in rollouts]

    def _begun_by(self, workers: Sequence[int]) -> list[Rollout]:
        """Remove and return the oldest stored episode of each worker."""
        assert self._begun is not None
        return [self._begun[worker].popleft() for worker in workers]

    def forget(self) -> None:
        """Drop all stored episodes: the round is over, and their point is outdated."""
        for begun in self._begun or ():
            begun.clear()

    def abandon(self, worker: int) -> None:
        """Drop the stored episodes of a worker, because it will not deliver them."""
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
        """Return the returns since the last call of `value`, by worker if environments differ."""
        if len(self._stages) > 1:
            return self._returns
        return [[value for returns in self._returns for value in returns]]

    def slope(self, point: Array) -> Array:
        # not known: a sampled gradient is mostly noise
        return np.full(1, np.nan)

    def close(self) -> None:
        for stages in self._stages:
            stages.close()


class Unplayed:
    """Deliveries under way whose episodes are not played yet.

    When the first of them is needed, all are played together, each at the point of its worker.
    """

    def __init__(self, objective: Sampled) -> None:
        self._objective = objective
        self._workers: dict[int, None] = {}  # in the order in which they began their deliveries

    def __contains__(self, worker: int) -> bool:
        return worker in self._workers

    def add(self, worker: int) -> None:
        """Record that a worker begins a delivery at its point."""
        self._workers[worker] = None

    def abandon(self, worker: int) -> None:
        """Drop the delivery of a worker that failed."""
        if worker in self._workers:
            del self._workers[worker]
        else:
            self._objective.abandon(worker)

    def play(self, loads: Sequence[int], points: Sequence[Array], generator: np.random.Generator) -> None:
        """Play the episodes of all recorded deliveries.

        Args:
            loads: Trajectories of each worker's delivery.
            points: Point of each worker, [P] each.
            generator: For the actions.
        """
        workers = [worker for worker in self._workers for _ in range(loads[worker])]
        self._objective.begin_apart(workers, [points[worker] for worker in workers], generator)
        self._workers.clear()


class Stages:
    """Playgrounds of one environment, with as many slots as the episodes need.

    Args:
        config: Section `objective`.
        spec: Description of the environment and its policies.
        environment: Configuration of the environment.
        seeds: Seeds of the slots; the range of 4 · `config.slots` slots from `first_slot` must be reserved.
    """

    def __init__(
        self, config: PolicyObjectiveConfig, spec: EnvironmentSpec, environment: EnvConfig, seeds: Seeds
    ) -> None:
        self._config, self._spec, self._environment, self._seeds = config, spec, environment, seeds
        self._made: dict[int, Playground] = {}

    def parts(self, wanted: Sequence[int]) -> Iterator[tuple[Playground, list[int]]]:
        """Divide episodes among playgrounds.

        More episodes than slots are played in successive batches, so that short episodes get no extra weight.

        Args:
            wanted: Indices of the episodes to play.

        Yields:
            A playground, and the indices of the episodes that it plays.
        """
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
    """Round up to a number of the sequence 1, 2, 3, 4, 6, 8, 12, 16 and so on.

    Idle slots cost time, but so does a separate playground for each number.
    """
    power = 1 << (count - 1).bit_length()
    return 3 * power // 4 if power >= 4 and count <= 3 * power // 4 else power


def _in_numpy(spec: EnvironmentSpec, config: PolicyObjectiveConfig, seed: int) -> NumpyReinforce | None:
    return NumpyReinforce.of(spec, config.algo, seed) if isinstance(config.algo, ReinforceConfig) else None


def _with_torch(spec: EnvironmentSpec, config: PolicyObjectiveConfig, seed: int) -> Algorithm:
    from hpcmarl.algos import make_algorithm

    return make_algorithm(spec, config.algo, seed)


def _common_spec(config: PolicyObjectiveConfig, environments: Sequence[EnvConfig]) -> EnvironmentSpec:
    """Return the spec that the environments of all workers share.

    Raises:
        ConfigError: If their policies differ.
    """
    specs = [describe(environment, config.policies) for environment in environments]
    for spec in specs[1:]:
        if spec.policies != specs[0].policies:
            raise ConfigError(
                "objective.workers: the environments of the workers have different agents or spaces, but all "
                "workers share one policy; give all of them the same agents and spaces"
            )
    return specs[0]
