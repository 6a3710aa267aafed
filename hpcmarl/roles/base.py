"""What a role is, and what every role is given. A role never blocks: messages come in, `step()` does one bit
of work.
"""

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
from hpcmarl.optim import make_optimizer
from hpcmarl.optim.base import Averages, Optimizer
from hpcmarl.optim.rounds import RoundRule, make_rule
from hpcmarl.optim.sparse import SparseTopology
from hpcmarl.packing import pack
from hpcmarl.rollouts.codec import RolloutCodec
from hpcmarl.types import EnvironmentSpec, FloatArray

if TYPE_CHECKING:
    from hpcmarl.algos.base import Algorithm

EPISODES_A_MESSAGE = 16  # a rollout message of unrolls stands for about so many episodes
TOPOLOGY = 1  # number of the random stream that draws masks
REPORTS_PER_SECOND = 100  # that the server gets from all actors, and from all learners
ARENA_STEPS = 64  # rows of an arena where whole episodes are cut out of it


@dataclass(frozen=True)
class Context:
    """The same on every rank but for `transport`: built once, before the roles."""

    config: Config
    topology: Topology
    transport: Transport
    run_directory: Path
    spec: EnvironmentSpec
    resume: dict[str, Any] | None = None  # the checkpoint's state; on the server's rank alone
    job_end: float | None = None  # of the Slurm job around the run, seconds since 1970
    # and when each was started; the server knows all, others the server's
    processes: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    start: FloatArray | None = None  # initial parameters, on the server's rank; default: the algorithm's own
    game: Callable[[BatchedEnvironment], BatchedEnvironment] | None = (
        None  # what actors play instead of the bare environment
    )
    whole: EnvironmentSpec | None = (
        None  # of the bare environment, where `spec` is of the part of it that `game` shows
    )
    start_number: int = 1  # of this start of the run (io/starts.py)
    start_version: int | None = (
        None  # of the checkpoint that this start went on from; 0: none; None: not known on this rank
    )
    run_id: str = ""  # of the run directory's run
    lock: RunLock | None = None  # on the run directory; on the server's rank alone
    remarks: tuple[str, ...] = ()  # for the log, when logging begins; on the server's rank alone
    warnings: tuple[str, ...] = ()  # the same

    @property
    def rank(self) -> int:
        return self.transport.rank

    @property
    def environment_spec(self) -> EnvironmentSpec:
        """The specification of the bare environment."""
        return self.whole or self.spec

    def algorithm(self) -> Algorithm:
        """A new algorithm of this run, which learns; every learner builds it from the same seed. Imports
        torch.
        """
        return make_algorithm(self.spec, self.config.algo, self.config.seed)

    def model(self, *, drawn: bool) -> Model:
        """The networks of this run, without torch. drawn: with initial parameters; else zeros, for who is
        sent parameters before it acts.
        """
        return make_model(self.spec, self.config.algo, self.config.seed if drawn else None)

    def acting_model(self, *, drawn: bool) -> Model:
        """The same for a role that acts."""
        model = self.model(drawn=drawn)
        model.set_weight_format(inference_form(self.config))
        return model

    def optimizer(self, algorithm: Model) -> Optimizer:
        """A new optimizer of this run, at the algorithm's initial parameters."""
        averages = Averages(algorithm.averages.start, algorithm.averaging_rate)
        initial = algorithm.initial_parameters() if self.start is None else self.start.copy()
        optimizer = make_optimizer(self.config.optimizer, initial, algorithm.parts, averages)
        if (sparse := self.sparse) is not None:  # the same random numbers for every replica
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
        """Sparse training of the networks; None: dense."""
        return self.config.algo.sparse_training

    def codec(self, algorithm: Model) -> RolloutCodec:
        """The rollout layouts of this run."""
        memory = {name: array.shape[-1] for name, array in algorithm.initial_memory(1).items()}
        return RolloutCodec(self.spec, with_state=algorithm.needs_state, memory=memory)

    def rule(self) -> RoundRule:
        """A new round rule; learners ask it for their quota and scales, the server runs it."""
        rounds = self.config.rounds
        return make_rule(
            rounds.rule,
            len(self.topology.groups),
            self.batch,
            rounds.initial_batch,
            all_begun=rounds.counts_all_begun,
        )

    def attributes(self, role: str, index: int = 0) -> dict[str, Any]:
        """What every HDF5 file says about where it comes from."""
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
        """Versions of what the results depend on."""
        return dict(_versions(self.config.env.id.split(".")[0].split(":")[0]))

    @property
    def whole_episodes(self) -> bool:
        """Whether a trajectory is an episode instead of an unroll."""
        return counts_episodes(self.config)

    @cached_property
    def in_order(self) -> bool:
        """Whether a round counts on-policy episodes in the order in which they began.

        The first to finish are the short ones, so that a gradient of those would be of another objective.
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
        """Rollout messages that a learner keeps: rounds.queue for each actor (single episodes are smaller, so
        there are more of them), and for an algorithm that goes through batches again and again (PPO) the
        present batch and the next.
        """
        config = self.config
        queue = config.rounds.queue * len(group.actors) * (EPISODES_A_MESSAGE if self.whole_episodes else 1)
        passes = config.algo.minibatch_passes
        batch = 0 if passes is None else self.batch * passes.minibatches
        return max(queue, 2 * -(-batch // config.topology.environments_per_actor))

    @property
    def arena_steps(self) -> int:
        """Rows of an actor's arena: one unroll, or ARENA_STEPS."""
        return self.config.algo.unroll_steps or ARENA_STEPS

    def group_env(self, group: int) -> EnvConfig:
        """The environment of a group: `env` with the group's own keys over it."""
        return group_environment(self.config, group)


def group_environment(config: Config, group: int) -> EnvConfig:
    """`env` with the keys of `topology.groups[group].env` over it; `kwargs` are merged key by key."""
    return config.env.changed(config.topology.group_list[group].env)


@lru_cache
def _versions(environment: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in dict.fromkeys(("hpcmarl", "numpy", "torch", "pettingzoo", "h5py", "mpi4py", environment)):
        with contextlib.suppress(metadata.PackageNotFoundError, ValueError):
            found[name] = metadata.version(name)
    return found


class Role(ABC):
    """One part that a rank plays; `neighbours` are the roles that the same rank has built before.

    Attributes:
        stopping: Whether it was told to stop.
        finished: Whether nothing is left to do.
        waited: Seconds that its rank has slept since the role was given its START.
        wake_at: When the next bit of work is due without any message, in seconds of time.monotonic();
            infinity where none is.
    """

    name: ClassVar[str]
    waited = 0.0
    wake_at = math.inf

    def __init__(self, context: Context, neighbours: Mapping[str, Role]) -> None:
        self.context = context
        self.transport = context.transport
        self.stopping = self.finished = False
        self._steps = 0

    @abstractmethod
    def on_message(self, message: Message) -> None:
        """Take a message that is addressed to this role; release it when its buffer is not needed any
        more.
        """

    @abstractmethod
    def work(self) -> bool:
        """Do one bit of work without blocking; False when there was nothing to do."""

    def on_lost(self, rank: int, groups: Sequence[int]) -> None:  # noqa: B027  most ranks are nothing to most roles
        """A rank is lost and with it, perhaps, whole groups; messages to it vanish from now on, none comes
        from it.
        """

    def on_replaced(self, rank: int) -> None:  # noqa: B027
        """A new process has the place of a lost actor. Called on the server's rank and on that of its
        learner.
        """

    def step(self) -> bool:
        """`work`, after an injected fault where the configuration asks for one (tests)."""
        faults = self.context.config.faults
        if (
            faults.raise_in == self.name
            and faults.rank in (None, self.context.rank)
            and self._steps >= faults.after
        ):
            raise HpcmarlError(f"injected fault: faults.raise_in {self.name} on rank {self.context.rank}")
        self._steps += 1
        return self.work()

    def close(self) -> None:  # noqa: B027  most roles hold nothing
        """Give back files and environments; also called after a failure."""

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
            fields: Further fields of the header (comm/protocol.py).
        """
        if isinstance(content, Payload):
            payload: bytes | bytearray = content.pack()
        else:
            payload = b"" if content is None else pack(content)
        header = {"source": self.context.rank, "role": self.name, **fields}
        return self.transport.send(destination, control(kind, payload, **header))


def generator_for(seed: int, role: str, index: int, *more: int) -> np.random.Generator:
    """The random numbers of one role of one run: independent for different roles, indices and further
    numbers.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, ROLE_NAMES.index(role), index, *more]))


class Interval:
    """True at most once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the time has passed; starts the next interval when it has."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Paced(Interval):
    """An interval that also keeps what is done in it, which may grow with ranks and snapshots, to a small
    share of the time.
    """

    SHARE: ClassVar[float] = 0.002

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.least, self._before = seconds, 0.0

    def took(self, seconds: float) -> None:
        """It was done, and took so long. Taking long once (a library loaded, a busy core) changes nothing,
        doing so twice does.
        """
        self.seconds = max(self.least, min(seconds, self._before) / self.SHARE)
        self._before = seconds
