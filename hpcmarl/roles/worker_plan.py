"""The memory that an actor shares with its workers: its places, and its size on each host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from hpcmarl.algos.design import make_design
from hpcmarl.comm.shared_memory import too_small
from hpcmarl.comm.topology import Topology
from hpcmarl.config import Config, counts_episodes
from hpcmarl.errors import UsageError
from hpcmarl.roles.base import Context, arena_steps
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.exchange import ExchangePlan, worker_of_slots
from hpcmarl.types import Array, EnvironmentSpec

ARENAS_OF_A_LANE = 3  # one that is being written, two that are being sent


def exchange_plan(context: Context, actor: int) -> ExchangePlan:
    """Return the places in the memory of an actor and its workers, equal on all of them.

    Args:
        context: The run.
        actor: Rank of the actor.
    """
    workers = len(context.topology.workers_of(actor))
    return plan_of(context.config, context.spec, context.environment_spec, workers)


def plan_of(config: Config, spec: EnvironmentSpec, whole: EnvironmentSpec, workers: int) -> ExchangePlan:
    """Return the places in the memory of an actor and its workers.

    Args:
        config: Configuration of the run.
        spec: Policies that the algorithm sees.
        whole: All policies of the environment.
        workers: Number of workers.
    """
    design = make_design(spec, config.algo)
    memory = {name: shape.memory_size for name, shape in design.policies.items() if shape.memory_size}
    return ExchangePlan(
        codec=RolloutCodec(spec, with_state=design.needs_state, memory=memory),
        whole=whole,
        steps=arena_steps(config),
        slots=config.topology.environments_per_actor,
        workers=workers,
        # whole episodes are cut out of the arena, which is never sent
        arenas=1 if counts_episodes(config) else ARENAS_OF_A_LANE,
        together=config.deterministic,
    )


def kinds_of_slots(context: Context) -> Array:
    """Return the kind of the worker (topology.workers) of every slot of the run, [slots]."""
    config, slots = context.config.topology, context.config.topology.environments_per_actor
    kinds = np.zeros(len(context.topology.actors) * slots, np.int64)
    for actor in context.topology.actors:
        workers = worker_of_slots(slots, len(context.topology.workers_of(actor)))
        first = context.topology.actor_index(actor) * slots
        kinds[first : first + slots] = [config.kind_of_worker(max(0, worker)) for worker in workers.tolist()]
    return kinds


def shared_bytes(
    config: Config, topology: Topology, spec: EnvironmentSpec, seen: Sequence[EnvironmentSpec] = ()
) -> dict[str, int]:
    """Return the shared memory that actors and workers need on each host.

    Args:
        config: Configuration of the run.
        topology: Ranks and hosts.
        spec: Specification of the environment.
        seen: Specifications of which an algorithm may see one, such as the sides of a league. The one that
            needs most memory counts. Empty: it sees the whole environment.

    Returns:
        Host -> bytes, for hosts with workers.
    """
    sizes: dict[str, int] = defaultdict(int)
    for actor in topology.actors:
        if workers := len(topology.workers_of(actor)):
            plans = [plan_of(config, own, spec, workers) for own in seen or (spec,)]
            sizes[topology.hosts[actor]] += max(plan.size() for plan in plans)
    return dict(sizes)


def check_shared_memory(
    config: Config,
    topology: Topology,
    spec: EnvironmentSpec,
    free: Mapping[str, int | None],
    seen: Sequence[EnvironmentSpec] = (),
) -> None:
    """Check that the shared memory of every host suffices.

    Args:
        config: Configuration of the run.
        topology: Ranks and hosts.
        spec: Specification of the environment.
        free: Host -> free bytes of /dev/shm; None: there is no /dev/shm. Hosts may be missing.
        seen: As in `shared_bytes`.

    Raises:
        UsageError: If it does not suffice on a host.
    """
    for host, size in shared_bytes(config, topology, spec, seen).items():
        if host in free and size > (free[host] or 0):
            raise UsageError(f"{host}: {too_small(size, free[host])}")
