"""Measure a learner's updates against those of a bare torch loop.

One process runs both in turn, in short windows, without MPI. Trajectories are really played first, with the
untrained policies. An update of hpcmarl is all work of a learner and the server in a round with one learner.
It reads messages; headers of replayed episodes are left out, since a replay buffer reads them once on
arrival. Then it joins the rollouts and computes targets, loss and backward pass. The flat gradient is summed
and stepped, the parameters are loaded, and the target network follows. An update of the bare loop
(reference/learning.py) begins with stacked tensors and ends with a step of torch.optim.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpcmarl.algos import make_algorithm
from hpcmarl.algos.base import Algorithm
from hpcmarl.algos.batch import select
from hpcmarl.bench.reference.action_critics import ReferenceMADDPG, ReferenceMASAC
from hpcmarl.bench.reference.critics import ReferenceCOMA, ReferenceValueCritic
from hpcmarl.bench.reference.learning import ReferenceLoop, ReferenceValues
from hpcmarl.comm.local import LocalWorld
from hpcmarl.comm.protocol import Buffer, Header, Kind, write_header
from hpcmarl.comm.topology import assign_roles
from hpcmarl.config import Config, TopologyConfig
from hpcmarl.envs import Seeds, describe, make_environment
from hpcmarl.errors import UsageError
from hpcmarl.optim.rounds import Engine, make_rule, share
from hpcmarl.roles.base import Context, generator_for
from hpcmarl.roles.deterministic_quota import USUAL_EPISODE
from hpcmarl.roles.learner.nonfinite import NonFiniteGradientFilter
from hpcmarl.roles.learner.step_store import StepStore
from hpcmarl.rollouts.assembler import EpisodeAssembler
from hpcmarl.rollouts.codec import OpenedMessage
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import Array, Gradient, Rollout

WINDOW = 1.0  # seconds of one window; the two alternate
BATCHES = 4  # batches of trajectories that updates use in turn
BARE: dict[str, Callable[[Config, Any], ReferenceLoop]] = {
    **dict.fromkeys(("iql", "vdn", "qmix", "wqmix", "res"), ReferenceValues),
    **dict.fromkeys(("ma_trace", "ppo"), ReferenceValueCritic),
    "coma": ReferenceCOMA,
    "maddpg": ReferenceMADDPG,
    "masac": ReferenceMASAC,
}
CONTINUOUS = ("maddpg", "masac")  # their bare loops have continuous actions
STORE_BYTES = 2e9  # limit of a replay of single steps, as by default
# messages, as a replay buffer holds them, and the numbers of their trajectories to use (None: all)
Part = list[tuple[OpenedMessage, Array | None]]


class Learning:
    """A learner and a server's engine in one process.

    Args:
        config: Configuration of the run.
        algorithm: The algorithm that learns.

    Attributes:
        batch: Trajectories of one update.
        readers: Functions that read the rollouts of an update, used in turn.
    """

    def __init__(self, config: Config, algorithm: Algorithm) -> None:
        transport = LocalWorld(1).transports[0]
        topology = assign_roles(1, [transport.host], TopologyConfig())
        self.context = Context(config, topology, transport, Path(), algorithm.spec)
        self.algorithm, self.gradient_filter = algorithm, NonFiniteGradientFilter(config)
        self.codec = self.context.codec(algorithm)
        self.batch = share(self.context.batch, len(config.topology.group_list))
        self.readers: list[Callable[[], list[Rollout]]]
        if config.algo.draws_steps:
            self.readers = [self._play_steps(number) for number in range(BATCHES)]
        else:
            self.readers = [partial(self._read, part) for _ in range(BATCHES) for part in self._play()]
        self.engine = Engine(make_rule("sync", 1, 1), self.context.optimizer(algorithm))
        self.algorithm.on_version(0)

    def _play(self) -> list[Part]:
        """Play one batch of trajectories.

        Returns:
            The whole batch as one part, or `minibatches` random parts if the algorithm trains in epochs.
        """
        passes = self.algorithm.minibatch_passes
        parts = 1 if passes is None else passes.minibatches
        played = [
            self.codec.open(message) for message in play(self.context, self.algorithm, parts * self.batch)
        ]
        if passes is None:
            return [[(message, None) for message in played]]
        rows = [
            (index, slot)
            for index, message in enumerate(played)
            for slot in range(self.codec.read(message.buffer, 0).count)
        ]
        order = generator_for(self.context.config.seed, "learner", 0).permutation(len(rows))
        drawn = [np.array(sorted(rows[row] for row in part)) for part in np.array_split(order, parts)]
        return [
            [(played[index], part[part[:, 0] == index, 1]) for index in np.unique(part[:, 0])]
            for part in drawn
        ]

    def _play_steps(self, batch: int) -> Callable[[], list[Rollout]]:
        """Play whole episodes, draw one batch of their steps, and return the function that reads it."""
        config = self.context.config
        store = StepStore(self.codec, config.algo.decisions_per_target, STORE_BYTES)
        episodes = math.ceil(self.batch / (config.env.max_steps or USUAL_EPISODE))
        for message in play(self.context, self.algorithm, episodes):
            store.add(message)
        numbers = np.sort(generator_for(config.seed, "learner", batch).integers(store.total, size=self.batch))
        return lambda: store.read(numbers)[0]

    def _read(self, part: Part) -> list[Rollout]:
        """Read rollouts from their messages."""
        if self.context.whole_episodes:
            return self.codec.read_together([message for message, _ in part])
        read = ((self.codec.read(message.buffer, 0), slots) for message, slots in part)
        return [rollout if slots is None else select(rollout, slots) for rollout, slots in read]

    def rollouts(self, number: int) -> list[Rollout]:
        """Read the rollouts of update `number`."""
        return self.readers[number % len(self.readers)]()

    def update(self, number: int) -> None:
        """Compute one gradient and make one step."""
        rollouts = self.rollouts(number)
        vector, _ = self.algorithm.gradient(rollouts)
        version = self.engine.version
        self.gradient_filter.accepts(vector, (), version)
        count = sum(rollout.count for rollout in rollouts)
        self.engine.on_gradient(Gradient(0, version, count, vector))
        self.algorithm.load_parameters(self.engine.optimizer.query_point())
        self.algorithm.on_version(self.engine.version)


def play(context: Context, algorithm: Algorithm, count: int) -> list[Buffer]:
    """Play trajectories with the algorithm's policies.

    Args:
        context: Context of the run.
        algorithm: Chooses the actions.
        count: Least number of trajectories.

    Returns:
        Messages as actors send them: unrolls of all slots, or single episodes.
    """
    config, slots = context.config, context.config.topology.environments_per_actor
    environment = make_environment(
        config.env, config.policies, slots, Seeds(config.seed), with_state=algorithm.needs_state
    )
    codec, generator, memory = (
        context.codec(algorithm),
        generator_for(config.seed, "actor", 0),
        algorithm.initial_memory(slots),
    )
    arena = RolloutArena(codec.layout(context.arena_steps, slots))
    assembler = EpisodeAssembler(codec, slots, 0, np.arange(slots)) if context.whole_episodes else None
    environment.reset(arena.frames[0])
    messages: list[Buffer] = []
    while len(messages) * (1 if assembler else slots) < count:
        for policy, before in memory.items():
            arena.arrays[policy + "/memory"][:] = before
        for row in range(context.arena_steps):
            decisions = algorithm.act(arena.frames[row], memory, generator)
            arena.decide(row, decisions, memory)
            outcome = arena.outcomes[row]
            environment.step(
                {policy: decision.action for policy, decision in decisions.items()},
                outcome,
                arena.frames[row + 1],
            )
            arena.keep(row, outcome)
            if assembler is not None:
                messages += [message for message, _ in assembler.after_step(arena, row, 0)]
        if assembler is None:
            messages.append(arena.finish(0, 0)[0].copy())
        arena.begin_after(arena)
    environment.close()
    for message in messages:
        write_header(message, Header(Kind.ROLLOUT))
    return messages if assembler is None else messages[:count]


def check(config: Config, algorithm: Algorithm) -> None:
    """Refuse settings that the bare loops do not implement.

    Raises:
        UsageError: Such a setting is in the configuration.
    """
    chosen: Any = config.algo
    if chosen.name not in BARE:
        raise UsageError(
            f"algo.name: there is no bare loop of {chosen.name} to compare with; allowed: {', '.join(BARE)}"
        )
    policies, continuous = algorithm.spec.policies, chosen.name in CONTINUOUS
    kind = "continuous" if continuous else "discrete"
    if len(policies) > 1 or policies[0].action.kind != kind or algorithm.spec.turn_based:
        raise UsageError(
            f"env.id: the bare loops need agents of one policy with {'' if continuous else 'single '}{kind} "
            f"actions, all at once; {config.env.id} does not have such agents"
        )
    plain: dict[str, Any] = {
        "normalise_values": False,
        "normalise_observations": False,
        "importance_sampling": True,
        "operator": "max",
        "sparse": None,
        "weighting": "optimistic",
    }
    plain |= {"n_step": 1, "random_steps": 0} if continuous else {"target_entropy": None, "target_rate": None}
    if chosen.name == "ma_trace" and chosen.critic != "independent":
        plain["ratios"] = "joint" if chosen.ratios == "joint" else None
    for key, value in plain.items():
        if getattr(chosen, key, value) != value:
            raise UsageError(f"algo.{key}: {getattr(chosen, key)} is not in the bare loops; use {value}")
    for key, value in (("value_clip", None), ("advantages", "each_pass")):
        if getattr(chosen, key, value) != value:
            found = f"algo.{key}: {getattr(chosen, key)} needs values recorded at the start of a batch"
            raise UsageError(f"{found}, which is not timed here; use {'null' if value is None else value}")
    check_networks(config, algorithm)


def check_networks(config: Config, algorithm: Algorithm) -> None:
    """Refuse networks that the bare loops do not have; raises as `check`."""
    chosen: Any = config.algo
    if getattr(chosen, "shared_encoder", False):
        raise UsageError("algo.shared_encoder: true is not in the bare loops; use false")
    actor_critic, continuous = chosen.name in ("ma_trace", "ppo", "coma"), chosen.name in CONTINUOUS
    critic = getattr(chosen, "critic_network", None)
    for key, network in (("algo.network", chosen.network), ("algo.critic_network", critic)):
        if network is None:
            continue
        if network.layer_norm:
            raise UsageError(f"{key}.layer_norm: true is not in the bare loops; use false")
        if network.body == "lstm":
            raise UsageError(f"{key}.body: lstm is not in the bare loops; use mlp, or gru for values")
    if actor_critic and critic is not None and critic.recurrent:
        raise UsageError(
            "algo.critic_network.body: gru needs a memory from the unrolls before, which is not timed "
            "here; use false"
        )
    if (actor_critic or continuous) and chosen.network.recurrent:
        raise UsageError(
            "algo.network.body: gru is in the bare loops of value-based algorithms only; use mlp"
        )
    shape = algorithm.design.policies[algorithm.spec.policies[0].name]
    if continuous and not shape.form.flat:
        raise UsageError(
            f"algo.network: the bare loop of {chosen.name} has dense layers of flat inputs only; use "
            "encoder: flat and no module"
        )
    if shape.module is not None and shape.module.memory:
        raise UsageError(
            f"algo.network.module: {chosen.network.module} is recurrent, and the bare loops call modules "
            "without a memory; set its memory_size to 0"
        )
    if getattr(chosen, "mixer_module", None) is not None:
        raise UsageError(f"algo.mixer_module: {chosen.mixer_module} is not in the bare loops; use null")


def run(config: Config, seconds: float) -> dict[str, Any]:
    """Measure both for about `seconds` each.

    Returns:
        Updates per second, their ratio, processor time of an update, and `gradient_difference`. That is the
        largest difference between the two gradients at the initial parameters, relative to the largest entry.

    Raises:
        UsageError: No bare loop implements the configuration.
    """
    torch.set_num_threads(config.topology.threads)
    algorithm = make_algorithm(describe(config.env, config.policies), config.algo, config.seed)
    check(config, algorithm)
    bare = BARE[config.algo.name](config, algorithm)
    learning = Learning(config, algorithm)
    inputs = [bare.stack(learning.rollouts(number)) for number in range(len(learning.readers))]
    rollouts = learning.rollouts(0)
    trajectories = sum(rollout.count for rollout in rollouts)
    own, other = algorithm.gradient(rollouts)[0] / trajectories, -bare.gradient(inputs[0])
    difference = float(np.abs(own - other).max() / np.abs(other).max())
    ours = Clock(learning.update)
    theirs = Clock(lambda number: bare.update(inputs[number % len(inputs)]))
    for number in range(2):  # the first updates allocate memory
        ours.update(number)
        theirs.update(number)
    for _ in range(max(2, round(seconds / WINDOW))):
        ours.run(WINDOW)
        theirs.run(WINDOW)
    ratios = (np.array(ours.rates) / np.array(theirs.rates)).tolist()
    return {
        "updates_per_second": float(np.mean(ours.rates)),
        "bare_updates_per_second": float(np.mean(theirs.rates)),
        "ratio": float(np.mean(ours.rates) / np.mean(theirs.rates)),
        "ratio_median": float(np.median(ratios)),
        "ratio_of_windows": ratios,
        "ratio_of_processor_time": theirs.processor_seconds / ours.processor_seconds,
        "processor_seconds": ours.processor_seconds,
        "bare_processor_seconds": theirs.processor_seconds,
        "gradient_difference": difference,
        "algorithm": config.algo.name,
        "environment": config.env.id,
        "trajectories": trajectories,
        "steps": sum(rollout.steps * rollout.count for rollout in rollouts),
        "longest_steps": max(rollout.steps for rollout in rollouts),
        "parameters": algorithm.size,
        "window_seconds": WINDOW,
    }


class Clock:
    """Clock that runs and times numbered updates.

    Processor time is less sensitive to other load on the machine than rates are.

    Args:
        update: Called with the number of the update, from 0.

    Attributes:
        rates: Updates per second, one for each window.
        processor: Processor seconds of all updates.
        updates: Number of updates.
    """

    def __init__(self, update: Callable[[int], None]) -> None:
        self.update = update
        self.rates: list[float] = []
        self.processor, self.updates = 0.0, 0

    def run(self, seconds: float) -> None:
        """Run updates for one window of `seconds`."""
        first, began, processor = self.updates, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            self.update(self.updates)
            self.updates += 1
        self.rates.append((self.updates - first) / (time.perf_counter() - began))
        self.processor += time.process_time() - processor

    @property
    def processor_seconds(self) -> float:
        """Mean processor time of an update, in seconds."""
        return self.processor / self.updates
