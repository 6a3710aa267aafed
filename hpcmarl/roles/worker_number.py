"""Choice of the number of workers of an actor from measured times (topology.workers_per_actor: auto).

The rate of environment steps is predicted for each arrangement of the same ranks. With

    s(n), u(n)  seconds and processor seconds of one step of n environments
    i(n)        processor seconds of the inference for n environments
    x           processor seconds of the exchange of one half with its worker
    E           environments of an actor
    A, K        actors, workers of an actor
    C           cores of the hosts together

actors that step their environments themselves make

    min( A E / (s(E) + i(E)),  C E / (u(E) + i(E)) )

environment steps a second. Actors with K workers infer for about half of their environments at a time, b, and
a worker steps h of them at a time:

    min( A K h / (s(h) + x),  A b / i(b),  C / ((u(h) + x) / h + i(b) / b) )

The first term is the rate of the ranks that step, the second that of the actors, the last that of the cores.
Both arrangements do the same work on the same ranks, so workers are faster only where inference does not use
the cores of the ranks that step, where the number of actors is fixed (topology.actors_per_learner), or where
ranks wait (docs/tuning.md).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcmarl.algos import make_model
from hpcmarl.algos.model import Model
from hpcmarl.comm.topology import Topology, assign_roles
from hpcmarl.comm.transport import Transport
from hpcmarl.config import Config, inference_form
from hpcmarl.envs import Seeds, describe, is_batched, make_environment, new_frame, new_outcome
from hpcmarl.errors import HpcmarlError
from hpcmarl.nets.inference import Inference
from hpcmarl.roles.base import generator_for
from hpcmarl.roles.efficiency import BARE_SEED, cores_of_host
from hpcmarl.types import EnvironmentSpec

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)
AUTO = "auto"
MEASURE_SECONDS = 0.5
LEAST_STEPS = 3
MOST_SLOTS = 4  # environments that are built to measure; many take long to build
# Processor time of the exchange of one half with its worker (docs/benchmarks.md), seconds.
EXCHANGE_SECONDS = 60e-6
# Workers are used only if they are predicted to be faster by more than the measurement is uncertain.
LEAST_GAIN = 1.1


@dataclass(frozen=True)
class Cost:
    """Seconds of an operation on n environments: a fixed part and a part for each."""

    fixed: float
    each: float

    def __call__(self, count: float) -> float:
        """Return the seconds for `count` environments."""
        return self.fixed + self.each * count

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> Cost:
        """Return the cost that two measurements (environments, seconds) determine; no part is negative."""
        if small[0] == large[0]:
            return cls(0.0, large[1] / large[0])
        each = min(max(0.0, (large[1] - small[1]) / (large[0] - small[0])), large[1] / large[0])
        return cls(large[1] - each * large[0], each)


@dataclass(frozen=True)
class StepCosts:
    """Measured times of a run's environments and policies.

    Attributes:
        wall: Seconds of one step, s.
        processor: Processor seconds of one step, u.
        inference: Processor seconds of one inference of an actor without workers, i.
        shared_inference: The same of an actor with workers, which may infer on another device.
    """

    wall: Cost
    processor: Cost
    inference: Cost
    shared_inference: Cost


def actors_rate(topology: Topology, slots: int, cores: int, costs: StepCosts) -> float:
    """Return the predicted environment steps per second of actors without workers.

    Args:
        topology: Ranks and roles.
        slots: Environments of an actor, E.
        cores: Cores of the hosts together.
        costs: Measured times.
    """
    inference = costs.inference(slots)
    of_ranks = len(topology.actors) * slots / (costs.wall(slots) + inference)
    return min(of_ranks, cores * slots / (costs.processor(slots) + inference))


def workers_rate(topology: Topology, slots: int, cores: int, costs: StepCosts) -> float:
    """Return the predicted environment steps per second of actors with workers; arguments as above."""
    actors = topology.actors
    workers = sum(min(slots, len(topology.workers_of(actor))) for actor in actors)
    batch, half = max(1.0, slots / 2), max(1.0, slots * len(actors) / (2 * workers))
    inference = costs.shared_inference(batch)
    return min(
        workers * half / (costs.wall(half) + EXCHANGE_SECONDS),
        len(actors) * batch / inference,
        cores / ((costs.processor(half) + EXCHANGE_SECONDS) / half + inference / batch),
    )


def choose_number(config: Config, size: int, hosts: Sequence[str], cores: int, costs: StepCosts) -> int:
    """Return the number of workers of each actor with the largest predicted rate; 0: none.

    Args:
        config: Configuration of the run.
        size: Number of ranks.
        hosts: Host of each rank.
        cores: Cores of the hosts together.
        costs: Measured times.
    """
    slots = config.topology.environments_per_actor
    best, fastest, acting_learners = 0, 0.0, size
    for number in range(min(slots, size - 1, max(Counter(hosts).values()) - 1) + 1):
        settings = config.topology.model_copy(update={"workers_per_actor": number})
        try:
            topology = assign_roles(size, hosts, settings)
        except HpcmarlError:
            continue
        if sum(group.learner in group.actors for group in topology.groups) > acting_learners:
            continue  # inference would wait for learning
        if number == 0:
            acting_learners = sum(group.learner in group.actors for group in topology.groups)
            fastest = LEAST_GAIN * actors_rate(topology, slots, cores, costs)
        elif (rate := workers_rate(topology, slots, cores, costs)) > fastest:
            best, fastest = number, rate
    return best


def measure_costs(config: Config) -> StepCosts:
    """Measure the times of a step and of the inference in this process."""
    spec = describe(config.env, config.policies)
    model = make_model(spec, config.algo, config.seed)
    model.set_weight_format(inference_form(config))
    model.load_parameters(model.initial_parameters())
    slots = config.topology.environments_per_actor
    few = max(1, slots // 4)
    small, large = (few, slots) if is_batched(config.env) else (1, min(slots, MOST_SLOTS))
    of_small, of_large = (_step_times(config, spec, model, size) for size in (small, large))
    alone, shared = (Inference.of_actor(config, has_workers=with_them) for with_them in (False, True))
    inference = _inference_cost(config, spec, alone, (few, slots))
    shapes = model.design.policies.values()
    differs = any(alone.library(shape) != shared.library(shape) for shape in shapes)
    return StepCosts(
        Cost.through((small, of_small[0]), (large, of_large[0])),
        Cost.through((small, of_small[1]), (large, of_large[1])),
        inference,
        _inference_cost(config, spec, shared, (few, slots)) if differs else inference,
    )


def _inference_cost(
    config: Config, spec: EnvironmentSpec, inference: Inference, sizes: tuple[int, int]
) -> Cost:
    """Measure the inference of an actor, for a small and a large number of environments."""
    model = make_model(spec, config.algo, config.seed)
    model.infer_by(inference, lambda: open_device_of(config))
    model.set_weight_format(inference_form(config))
    model.load_parameters(model.initial_parameters())
    small, large = ((size, _inference_seconds(config, model, size)) for size in sizes)
    return Cost.through(small, large)


def open_device_of(config: Config) -> torch.device:
    """Return the first device of this host. Imports torch."""
    from hpcmarl.nets.device import open_device

    return open_device(config.device, 0)


def _step_times(config: Config, spec: EnvironmentSpec, model: Model, slots: int) -> tuple[float, float]:
    """Return the seconds and the processor seconds of a step of some environments with random policies."""
    generator = generator_for(config.seed, "actor", 0)
    environment = make_environment(
        config.env,
        config.policies,
        slots,
        Seeds(config.seed, BARE_SEED),
        spec=spec,
        with_state=model.needs_state,
    )
    with contextlib.closing(environment):
        frame, outcome = new_frame(spec, slots, model.needs_state), new_outcome(spec, slots)
        environment.reset(frame)
        wall = processor = 0.0
        count, end = 0, time.perf_counter() + MEASURE_SECONDS
        while count < LEAST_STEPS or time.perf_counter() < end:
            decisions = model.act(frame, model.initial_memory(slots), generator)
            actions = {policy: decision.action for policy, decision in decisions.items()}
            began, began_processor = time.perf_counter(), time.process_time()
            environment.step(actions, outcome, frame)
            if count > 0:  # some environments compile at their first step
                wall += time.perf_counter() - began
                processor += time.process_time() - began_processor
            count += 1
    return wall / (count - 1), processor / (count - 1)


def _inference_seconds(config: Config, model: Model, slots: int) -> float:
    """Return the processor seconds of one inference for some environments."""
    generator = generator_for(config.seed, "actor", 0)
    frame, memory = new_frame(model.spec, slots, with_state=False), model.initial_memory(slots)
    for seen in frame.policies.values():
        seen.alive[:] = True
        if seen.action_mask is not None:
            seen.action_mask[:] = True
    model.act(frame, memory, generator)
    count, began, end = 0, time.process_time(), time.perf_counter() + MEASURE_SECONDS / 2
    while count < LEAST_STEPS or time.perf_counter() < end:
        model.act(frame, memory, generator)
        count += 1
    return (time.process_time() - began) / count


def with_number_of_workers(transport: Transport, config: Config, hosts: Sequence[str]) -> tuple[Config, str]:
    """Replace `topology.workers_per_actor: auto` by a number, measured on rank 0. Collective.

    Args:
        transport: The world.
        config: Configuration of the run.
        hosts: Host of each rank.

    Returns:
        The configuration, and on rank 0 a line about the choice; empty if nothing was to be chosen.
    """
    if config.topology.workers_per_actor != AUTO:
        return config, ""
    number, remark = 0, ""
    if transport.rank == 0:
        number, remark = _chosen(config, transport.size, hosts)
    chosen = transport.broadcast(str(number).encode() if transport.rank == 0 else None)
    topology = config.topology.model_copy(update={"workers_per_actor": int(bytes(chosen))})
    return config.model_copy(update={"topology": topology}), remark


def _chosen(config: Config, size: int, hosts: Sequence[str]) -> tuple[int, str]:
    key = "topology.workers_per_actor: auto is"
    if config.deterministic or config.league is not None:
        why = "deterministic: true" if config.deterministic else "the run is a league"
        return 0, f"{key} 0, because {why}"
    own = Counter(hosts)[hosts[0]]
    cores = cores_of_host(own) * len(set(hosts))
    try:
        costs = measure_costs(config)
        number = choose_number(config, size, hosts, cores, costs)
    except Exception as error:  # the checks that follow report what is wrong
        return 0, f"{key} 0, because the environment could not be measured: {error}"
    slots = config.topology.environments_per_actor
    return number, (
        f"{key} {number}: a step of {slots} environments takes {costs.wall(slots) * 1e3:.2f} ms and their "
        f"inference {costs.inference(slots) * 1e3:.2f} ms, on {cores} cores"
    )
