"""The environments of an actor: those that it steps itself, and the interface of those on workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcmarl.comm.transport import Message
from hpcmarl.envs import BatchedEnvironment, Seeds, make_environment
from hpcmarl.roles.actor.episode_turns import EpisodeTurns
from hpcmarl.roles.actor.lane import Lane, Stage
from hpcmarl.roles.actor.remote_environment import RemoteEnvironment
from hpcmarl.roles.actor.sender import ARENAS, ArenaRing
from hpcmarl.roles.efficiency import measure_bare
from hpcmarl.rollouts.assembler import EpisodeAssembler
from hpcmarl.rollouts.exchange import worker_of_slots
from hpcmarl.rollouts.layout import RolloutArena
from hpcmarl.types import Array, FloatArray

if TYPE_CHECKING:
    from hpcmarl.roles.actor.actor import Actor


class Environments(ABC):
    """The environments of one actor, divided into lanes.

    Attributes:
        lanes: Slots that step together.
        bare: Environment steps per second of bare stepping; None: not measured.
        remote: Whether other processes step the environments.
        step_delay: Seconds that the actor adds to every step.
        asks_for_states: Whether the state of the environments has to be requested from other processes.
        lost: Whether no environment is left.
    """

    lanes: Sequence[Lane]
    bare: float | None = None
    remote = False
    step_delay = 0.0
    asks_for_states = False

    def __init__(self, actor: Actor) -> None:
        self._actor, self._context = actor, actor.context

    @cached_property
    def delayed(self) -> bool:
        """Whether the actor adds delays."""
        return self.step_delay > 0.0 or any(lane.trajectory_delay > 0.0 for lane in self.lanes)

    def seconds_by_worker(self) -> list[float]:
        """Return the seconds that each worker has spent in environments; empty without workers."""
        return []

    def _lane(
        self,
        first: int,
        environment: BatchedEnvironment,
        arenas: Sequence[RolloutArena],
        remote: RemoteEnvironment | None,
    ) -> Lane:
        """Return a lane.

        Args:
            first: Number of its first slot among the actor's.
            environment: Its environments.
            arenas: Its arenas.
            remote: The environments on workers; None: this process steps them.
        """
        actor, slots = self._actor, environment.slots
        begin = actor.index * actor.slots + first
        numbers = np.arange(begin, begin + slots, dtype=np.int64)
        memory = actor.algorithm.initial_memory(slots)
        workers = len(self._context.topology.workers_of(self._context.rank)) if self.remote else 0
        of_slots = worker_of_slots(actor.slots, workers)[first : first + slots]
        turns = None
        if self._context.whole_episodes:
            assembler = EpisodeAssembler(actor.codec, slots, actor.index, numbers, of_slots)
            turns = EpisodeTurns(environment, assembler, memory, actor.numbers, first)
        ring = ArenaRing(arenas, fixed=remote is not None)
        shares, delay = self._random_shares(of_slots), self._trajectory_delay(of_slots)
        lane = Lane(first, environment, ring, memory, turns, numbers, of_slots, remote, shares, delay)
        lane.trace = self._context.trace
        if turns is not None and remote is None:  # workers record the episodes that they begin
            turns.trace = self._context.trace
        return lane

    def _trajectory_delay(self, workers: Array) -> float:
        """Return the delay of every trajectory in the slots of some workers: that of the slowest kind."""
        topology = self._context.config.topology
        delays = [kind.delay.trajectory for kind in topology.workers] or [0.0]
        own = max(delays[topology.kind_of_worker(max(0, worker))] for worker in workers.tolist())
        return topology.group_list[self._actor.group.index].delay.trajectory + (own if self.remote else 0.0)

    def _random_shares(self, workers: Array) -> FloatArray | None:
        """Return the share of random actions in the slots of some workers, NaN: as the algorithm says.

        None: as the algorithm says in all slots, of this and any other lane.
        """
        topology = self._context.config.topology
        own = [np.nan if kind.epsilon is None else kind.epsilon for kind in topology.workers]
        if np.isnan(own).all():
            return None
        return np.array([own[topology.kind_of_worker(worker)] for worker in workers.tolist()])

    @abstractmethod
    def begin(self, state: Mapping[str, Any] | None) -> None:
        """Begin episodes in all slots, or continue from a state.

        Args:
            state: State of the environments of all slots; None: a new run.
        """

    @property
    @abstractmethod
    def lost(self) -> bool:
        """Whether no environment is left."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environments of all slots."""

    def have_states(self) -> bool:
        """Request the states from other processes, and return whether all have arrived."""
        return True

    def forget_states(self) -> None:
        """Discard the states that have arrived."""
        return

    def on_message(self, message: Message) -> None:
        """Process a message from a worker."""
        raise AssertionError(f"an actor without workers has received a message of kind {message.kind.name}")

    def on_lost(self, rank: int) -> Collection[Lane]:
        """Return the lanes that are lost with a rank."""
        return ()

    def on_replaced(self, rank: int) -> Collection[Lane]:
        """Return the lanes that begin new episodes, because a new process replaces a worker."""
        return ()

    def may_rest(self) -> bool:
        """Ask for a wake-up when environments finish; return False if some have just finished."""
        return True

    def on_rested(self) -> None:
        """Note that the actor is awake."""
        return

    def stop(self) -> None:
        """Use the environments no more."""
        return

    @abstractmethod
    def close(self) -> None:
        """Release the environments."""


class OwnEnvironments(Environments):
    """Environments that the actor steps itself, in one lane."""

    def __init__(self, actor: Actor) -> None:
        super().__init__(actor)
        context, config = actor.context, actor.context.config
        self.step_delay = config.topology.group_list[actor.group.index].delay.step
        self.bare = measure_bare(context, actor.index, actor.group.index)
        environment = make_environment(
            context.group_env(actor.group.index),
            config.policies,
            actor.slots,
            Seeds(config.seed, actor.index * actor.slots),
            spec=context.environment_spec,
            record=config.deterministic,
            with_state=actor.algorithm.needs_state,
            skip_bad_numbers=config.faults.on_nan == "skip",
        )
        self._environment = environment if context.game is None else context.game(environment)
        layout = actor.codec.layout(context.arena_steps, actor.slots)
        arenas = [RolloutArena(layout) for _ in range(ARENAS)]
        self.lanes = (self._lane(0, self._environment, arenas, None),)

    def begin(self, state: Mapping[str, Any] | None) -> None:
        lane = self.lanes[0]
        if state is None:
            self._environment.reset(lane.frame)
        else:
            self._environment.load_state_dict(state, lane.frame)
        lane.stage = Stage.LOADING

    @property
    def lost(self) -> bool:
        return False

    def state_dict(self) -> dict[str, Any]:
        return self._environment.state_dict()

    def close(self) -> None:
        self._environment.close()
