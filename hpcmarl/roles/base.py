"""Base class of the roles, and the context that every role receives."""

from __future__ import annotations

import contextlib
import math
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hpcmarl.algos import make_algorithm, make_model
from hpcmarl.algos.model import Model
from hpcmarl.comm.payload import Payload
from hpcmarl.comm.protocol import ROLE_NAMES, Kind, control
from hpcmarl.comm.topology import Group, Topology
from hpcmarl.comm.transport import Message, SendHandle, Transport
from hpcmarl.config import Config, EnvConfig, SparseConfig, batch_of, counts_episodes, inference_form
from hpcmarl.config.file import dump_config
from hpcmarl.envs import BatchedEnvironment
from hpcmarl.errors import HpcmarlError
from hpcmarl.io.run_lock import RunLock
from hpcmarl.nets.inference import Inference
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.base import Averages, Optimizer
from hpcmarl.optim.rounds import RoundRule, make_rule
from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.packing import pack
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.rollouts.exchange import plan_lanes
from hpcmarl.tracing.spans import Tracer
from hpcmarl.types import EnvironmentSpec, FloatArray

if TYPE_CHECKING:
    import torch

    from hpcmarl.algos.base import Algorithm

EPISODES_A_MESSAGE = 16  # queue limits count this many single episodes as one message of unrolls
TOPOLOGY = 1  # number of the random stream that draws masks
REPORTS_PER_SECOND = 100  # reports to the server from all actors together, and from all learners together
ARENA_STEPS = 64  # rows of an arena from which whole episodes are cut


@dataclass(frozen=True)
class Context:
    """Everything that the roles of a run share. Built once on every rank, before the roles.

    Attributes:
        config: Configuration of the run.
        topology: Ranks, hosts and groups.
        transport: Messages of this rank.
        run_directory: Directory of the run.
        spec: Specification of the environment as the policies see it.
        resume: State of the checkpoint to resume from; on the server's rank only.
        job_end: End of the surrounding Slurm job, in seconds since 1970; None: no limit is known.
        processes: Process of each rank and its start time. The server's rank has all of them, other ranks
            that of the server.
        start: Initial parameters [P]; on the server's rank only. None: those of the algorithm.
        game: Wraps the bare environment of an actor; None: the actor plays the bare environment.
        whole: Specification of the bare environment, if `game` shows only a part of it.
        start_number: Number of this start of the run (io/starts.py).
        start_version: Version of the checkpoint that this start resumed from. 0: none; None: unknown on this
            rank.
        run_id: Identifier of the run in the run directory.
        lock: Lock of the run directory; on the server's rank only.
        remarks: Lines to log when logging begins; on the server's rank only.
        warnings: Warnings to log when logging begins; on the server's rank only.
        replaces: Whether this process replaces a dead one.
        trace: Recorder of this rank's spans; None: the run has no trace.
        place: Number of this rank among those of its host that need a device (placement.py).
    """

    config: Config
    topology: Topology
    transport: Transport
    run_directory: Path
    spec: EnvironmentSpec
    resume: dict[str, Any] | None = None
    job_end: float | None = None
    processes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    start: FloatArray | None = None
    game: Callable[[BatchedEnvironment], BatchedEnvironment] | None = None
    whole: EnvironmentSpec | None = None
    start_number: int = 1
    start_version: int | None = None
    run_id: str = ""
    lock: RunLock | None = None
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    replaces: bool = False
    trace: Tracer | None = None
    place: int = 0

    @property
    def rank(self) -> int:
        return self.transport.rank

    @property
    def environment_spec(self) -> EnvironmentSpec:
        """The specification of the bare environment."""
        return self.whole or self.spec

    def algorithm(self) -> Algorithm:
        """Return a new trainable algorithm of this run. Imports torch.

        Every learner builds the same one, from the same seed.
        """
        return make_algorithm(self.spec, self.config.algo, self.config.seed)

    def model(self, *, drawn: bool) -> Model:
        """Return the networks of this run, without torch.

        Args:
            drawn: Whether to draw initial parameters. Otherwise they are zero, for roles that receive
                parameters before they act.
        """
        return make_model(self.spec, self.config.algo, self.config.seed if drawn else None)

    def acting_model(self, *, drawn: bool, inference: Inference | None = None) -> Model:
        """Return the networks as `model` does, in the weight format for inference.

        Args:
            drawn: As in `model`.
            inference: What computes the networks; None: numpy where it can be, else torch on the CPU.
        """
        model = self.model(drawn=drawn)
        if inference is not None:
            model.infer_by(inference, self.open_device)
        model.set_weight_format(inference_form(self.config))
        return model

    def open_device(self) -> torch.device:
        """Return the device of this rank. Imports torch."""
        from hpcmarl.nets.device import open_device

        return open_device(self.config.device, self.place)

    def optimizer(self, algorithm: Model) -> Optimizer:
        """Return a new optimizer of this run, at the algorithm's initial parameters."""
        averages = Averages(algorithm.averages.start, algorithm.averaging_rate)
        initial = algorithm.initial_parameters() if self.start is None else self.start.copy()
        optimizer = make_optimizer(self.config.optimizer, initial, algorithm.parts, averages)
        if (sparse := self.sparse) is not None:  # every replica draws the same random numbers
            optimizer.become_sparse(
                SparseTopology(
                    sparse,
                    algorithm.layers,
                    algorithm.size,
                    generator_for(self.config.seed, "server", 0, TOPOLOGY),
                )
            )
        return optimizer

    @property
    def sparse(self) -> SparseConfig | None:
        """Configuration of sparse training; None: dense networks."""
        return self.config.algo.sparse_training

    def codec(self, algorithm: Model) -> RolloutCodec:
        """Return the rollout layouts of this run."""
        memory = {name: array.shape[-1] for name, array in algorithm.initial_memory(1).items()}
        return RolloutCodec(self.spec, with_state=algorithm.needs_state, memory=memory)

    def rule(self) -> RoundRule:
        """Return a new round rule. The server runs it; learners use its quota and scales."""
        rounds = self.config.rounds
        return make_rule(
            rounds.rule,
            len(self.topology.groups),
            self.batch,
            rounds.initial_batch,
            all_begun=rounds.counts_all_begun,
        )

    def attributes(self, role: str, index: int = 0) -> dict[str, Any]:
        """Return the HDF5 attributes that identify the origin of a file.

        Args:
            role: Role that writes the file.
            index: Number of the actor or group.
        """
        return {
            "config": self._config_text,
            "env": self.spec.id,
            "rank": self.rank,
            "role": role,
            "host": self.transport.host,
            "seeds": [self.config.seed, ROLE_NAMES.index(role), index],
            "run": self.run_id,
            "start": self.start_number,
            "start_version": self.start_version,
        }

    @cached_property
    def _config_text(self) -> str:
        return dump_config(self.config)

    def versions(self) -> dict[str, str]:
        """Return the versions of Python and of the packages that results depend on."""
        return dict(_versions(self.config.env.id.split(".")[0].split(":")[0]))

    @property
    def whole_episodes(self) -> bool:
        """Whether a trajectory is an episode instead of an unroll."""
        return counts_episodes(self.config)

    @cached_property
    def in_order(self) -> bool:
        """Whether a round counts on-policy episodes in the order in which they began.

        The first episodes to finish are the short ones. A gradient of those would belong to another
        objective.
        """
        return self.whole_episodes and self.config.algo.is_on_policy and self.rule().in_order

    @property
    def batch(self) -> int:
        """Trajectories of a round (M)."""
        return batch_of(
            self.config,
            [
                len(group.actors) * self.config.topology.environments_per_actor
                for group in self.topology.groups
            ],
        )

    def queue_limit(self, group: Group) -> int:
        """Return the number of rollout messages that a learner keeps.

        It is rounds.queue times the messages of one unroll of all slots. If messages hold single episodes, it
        is EPISODES_A_MESSAGE times rounds.queue for each actor. With several passes over a batch (PPO), it is
        at least the present batch and the next.

        Args:
            group: Group of the learner.
        """
        config, slots = self.config, self.config.topology.environments_per_actor
        unrolls = sum(max(1, len(self.lanes_of(actor))) for actor in group.actors)
        messages = len(group.actors) * EPISODES_A_MESSAGE if self.whole_episodes else unrolls
        passes = config.algo.minibatch_passes
        batch = 0 if passes is None else self.batch * passes.minibatches
        least = min((size for actor in group.actors for _, size in self.lanes_of(actor)), default=slots)
        return max(config.rounds.queue * messages, 2 * -(-batch // least))

    def lanes_of(self, actor: int) -> list[tuple[int, int]]:
        """Return first slot and number of slots of each lane of an actor with workers; else an empty list.

        Args:
            actor: Rank of the actor.
        """
        slots, workers = self.config.topology.environments_per_actor, len(self.topology.workers_of(actor))
        return plan_lanes(slots, workers, together=self.config.deterministic)

    @property
    def arena_steps(self) -> int:
        """Rows of an actor's arena."""
        return arena_steps(self.config)

    def group_env(self, group: int) -> EnvConfig:
        """Return the environment of a group: `env`, changed by the group's own keys."""
        return group_environment(self.config, group)


def arena_steps(config: Config) -> int:
    """Return the rows of an actor's arena: one unroll, or ARENA_STEPS."""
    return config.algo.unroll_steps or ARENA_STEPS


def group_environment(config: Config, group: int) -> EnvConfig:
    """Return `env` with the keys of `topology.groups[group].env` over it; `kwargs` are merged key by key."""
    return config.env.changed(config.topology.group_list[group].env)


@lru_cache
def _versions(environment: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in dict.fromkeys(("hpcmarl", "numpy", "torch", "pettingzoo", "h5py", "mpi4py", environment)):
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            found[name] = metadata.version(name)
    return found


class Role(ABC):
    """One role of a rank. Its methods never block.

    `on_message` processes one message, and `work` does a small piece of work.

    Args:
        context: The run.
        neighbours: Roles that the same rank has built before, by name.

    Attributes:
        stopping: Whether the role was asked to stop.
        finished: Whether nothing is left to do.
        waited: Seconds that the rank has slept since the role received its START.
        wake_at: Time of the next work that needs no message, in seconds of time.monotonic(); infinity: none.
    """

    name: ClassVar[str]
    waited = 0.0
    wake_at = math.inf

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        self.context = context
        self.transport = context.transport
        self.trace = context.trace
        self.stopping = self.finished = False
        self._steps = 0

    @abstractmethod
    def on_message(self, message: Message) -> None:
        """Process a message to this role.

        The role releases the message when its buffer is no longer needed.
        """

    @abstractmethod
    def work(self) -> bool:
        """Do a small piece of work without blocking.

        Returns:
            False if there was nothing to do.
        """

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:  # noqa: B027  optional
        """React to the loss of a rank. Messages to it are discarded from now on, and none comes from it.

        Args:
            rank: The lost rank.
            groups: Groups that are lost with it.
        """

    def on_replaced(self, rank: int) -> None:  # noqa: B027
        """React to a new process that replaces a lost actor or worker.

        Called on the server's rank and on that of the actor's learner, or of the worker's actor.

        Args:
            rank: Rank of the actor or worker.
        """

    def may_rest(self) -> bool:
        """Prepare for the sleep of the rank; return False if there is work after all."""
        return True

    def on_rested(self) -> None:  # noqa: B027  most roles prepare nothing
        """Take note that the rank is awake."""

    def step(self) -> bool:
        """Call `work`. If the configuration injects a fault for a test, raise it instead.

        Raises:
            HpcmarlError: The injected fault (faults.raise_in).
        """
        faults = self.context.config.faults
        if (
            faults.raise_in == self.name
            and faults.rank in (None, self.context.rank)
            and self._steps >= faults.after
        ):
            raise HpcmarlError(f"injected fault: faults.raise_in {self.name} on rank {self.context.rank}")
        self._steps += 1
        return self.work()

    def close(self) -> None:  # noqa: B027  most roles have no resources
        """Release files and environments. Also called after a failure."""

    def send(
        self,
        destination: int,
        kind: Kind,
        content: Payload | dict[str, Any] | None = None,
        **fields: Any,
    ) -> SendHandle:
        """Send a small message.

        Args:
            destination: Rank of the receiver.
            kind: Kind of the message.
            content: Its payload: a dataclass, or a role's state as a tree; None: no payload.
            **fields: Further fields of the header (comm/protocol.py).

        Returns:
            Handle of the message under way.
        """
        if isinstance(content, Payload):
            payload: bytes | bytearray = content.pack()
        else:
            payload = b"" if content is None else pack(content)
        header = {"source": self.context.rank, "role": self.name, **fields}
        return self.transport.send(destination, control(kind, payload, **header))


def generator_for(seed: int, role: str, index: int, *more: int) -> np.random.Generator:
    """Return the random numbers of one role of one run.

    Args:
        seed: Seed of the run.
        role: Name of the role.
        index: Number of the actor or group.
        *more: Further numbers, such as a version.

    Returns:
        A generator. Different arguments give independent random numbers.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, ROLE_NAMES.index(role), index, *more]))


class Interval:
    """A timer that is due at most once in a number of seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Return whether the interval has passed; if so, start the next one."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Paced(Interval):
    """An interval that grows with the duration of its task, which may grow with ranks and snapshots.

    The task takes at most SHARE of the time.
    """

    SHARE: ClassVar[float] = 0.002

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.least, self._before = seconds, 0.0

    def took(self, seconds: float) -> None:
        """Record the duration of the task.

        A single long duration has no effect, because a loaded library or a busy core can cause it. Two in a
        row lengthen the interval.

        Args:
            seconds: The duration.
        """
        self.seconds = max(self.least, min(seconds, self._before) / self.SHARE)
        self._before = seconds
