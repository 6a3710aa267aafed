"""One environment slot: what parallel.py and aec.py have in common, and the tables that they work from.

Called by batch.py. An adapter drives one environment and writes one row of the batch's arrays; it must not
know seeds, budgets, episode records or other slots.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.envs.spaces import Convert
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Frame, Outcome

NO_MASK, OBSERVATION_MASK, INFO_MASK = 0, 1, 2
ONGOING, TERMINATED, TRUNCATED = 0, 1, 2
WIN_KEYS = ("win", "won", "battle_won")


class Place(NamedTuple):
    """Where an agent stands in the arrays (policy number, column in the policy) and how its observations are
    read."""

    agent: Any
    policy: int
    column: int
    shape: tuple[int, ...]
    convert: Convert | None
    mask: int


@dataclass(frozen=True)
class Layout:
    """What all slots of an environment share: the spec, the agents' places, and per policy what turns actions
    into the environment's.

    common_reward: all agents have one reward in a step, and those that have left the episode get it, too.
    """

    spec: EnvironmentSpec
    places: tuple[Place, ...]
    prepare: tuple[Callable[[Array], list[list[Any]]], ...]
    common_reward: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(policy.name for policy in self.spec.policies)


class Views:
    """The arrays of a frame and an outcome by policy number: one look-up a step instead of one a slot."""

    __slots__ = ("alive", "episode_start", "masks", "obs", "state", "terminated", "truncated")

    def __init__(self, names: Sequence[str], frame: Frame, outcome: Outcome | None = None) -> None:
        frames = [frame.policies[name] for name in names]
        self.obs: list[FloatArray] = [policy.obs for policy in frames]
        self.alive: list[BoolArray] = [policy.alive for policy in frames]
        self.masks: list[BoolArray | None] = [policy.action_mask for policy in frames]
        self.state = frame.state
        self.episode_start = frame.episode_start
        outcomes = [] if outcome is None else [outcome.policies[name] for name in names]
        self.terminated: list[BoolArray] = [policy.terminated for policy in outcomes]
        self.truncated: list[BoolArray] = [policy.truncated for policy in outcomes]


class SlotAdapter(ABC):
    """Drives one environment.

    `rewards[policy][column]` are those of the last step and `obs[policy][column]` the arrays observed after
    it: the batch copies them for all slots at once. Everything else is written into the row by the adapter.
    Before settle() the batch has set, in all rows, alive to `alive_default`, masks to true and flags to
    false.
    """

    alive_default: bool

    def __init__(self, environment: Any, layout: Layout, with_state: bool) -> None:
        self.environment = environment
        self.layout = layout
        self.rewards = [[0.0] * len(policy.agents) for policy in layout.spec.policies]
        self._nothing = [np.zeros(policy.observation_shape, np.float32) for policy in layout.spec.policies]
        self.obs: list[list[Array]] = [
            [zeros] * len(policy.agents)
            for zeros, policy in zip(self._nothing, layout.spec.policies, strict=True)
        ]
        self.infos: Mapping[Any, Any] = {}
        self._places = layout.places
        self._place_of = {place.agent: place for place in layout.places}
        self._with_state = with_state
        self._last_state: FloatArray | None = None
        self._final: list[tuple[Place, Any]] = []
        self._final_state: FloatArray | None = None

    @abstractmethod
    def begin(self, seed: int, row: int, views: Views) -> bool:
        """Reset the environment, set obs and write the row (not episode_start); false where the episode has
        no agents."""

    @abstractmethod
    def play(self, actions: Sequence[Sequence[Any]]) -> None:
        """Step the environment with actions[policy][column]: nothing but that, so that one slot's long step
        does not push the bookkeeping of the others out of the processor's caches."""

    @abstractmethod
    def settle(self, row: int, views: Views, cut: bool) -> int:
        """Write what came of play(); returns ONGOING, TERMINATED or TRUNCATED.

        While the episode goes on the row of the next frame is written. `cut` truncates all living agents
        after this step.
        """

    @abstractmethod
    def living(self) -> list[tuple[Place, Any]]:
        """The agents that lived before the step that failed, with their last good observations."""

    def abort(self, row: int, views: Views) -> int:
        """Make the failed step the truncated end of the episode, with nothing in it but the last good
        observations."""
        self._clear_rewards()
        for terminated, truncated in zip(views.terminated, views.truncated, strict=True):
            terminated[row] = truncated[row] = False
        self._final, self._final_state, self.infos = self.living(), self._last_state, {}
        for place, _ in self._final:
            views.truncated[place.policy][row, place.column] = True
        return TRUNCATED

    def final(self) -> tuple[dict[str, FloatArray], FloatArray | None]:
        """The observations and the state at the end of a truncated episode; zeros for agents that died."""
        arrays = [
            np.zeros((len(policy.agents), *policy.observation_shape), np.float32)
            for policy in self.layout.spec.policies
        ]
        for place, observation in self._final:
            if observation is None:  # of an agent that had none yet when its environment failed
                continue
            arrays[place.policy][place.column] = read_observation(place, observation)
        return dict(zip(self.layout.names, arrays, strict=True)), self._final_state

    def _blank(self, row: int, views: Views) -> None:
        """Make a row empty: nobody alive, zero observations, every action allowed."""
        self._clear_observations()
        for alive, mask in zip(views.alive, views.masks, strict=True):
            alive[row] = False
            if mask is not None:
                mask[row] = True

    def win(self) -> dict[str, float]:
        """{"win": 1.0 or 0.0} where the last infos of an agent tell it."""
        for info in self.infos.values():
            if not info or not isinstance(info, Mapping):
                continue
            for key in WIN_KEYS:
                if key in info:
                    return {"win": float(bool(info[key]))}
        return {}

    def rest(self, row: int, views: Views) -> None:
        """A slot in quarantine: nobody acts, nothing is seen."""
        self._clear_rewards()
        self._blank(row, views)

    def _clear_observations(self) -> None:
        for obs, nothing in zip(self.obs, self._nothing, strict=True):
            obs[:] = [nothing] * len(obs)

    def _clear_rewards(self) -> None:
        for rewards in self.rewards:
            rewards[:] = [0.0] * len(rewards)

    def _place(self, agent: Any) -> Place:
        try:
            return self._place_of[agent]
        except KeyError:
            raise EnvironmentFailure(
                f"agent {agent} is not among the possible agents {', '.join(map(str, self._place_of))}"
            ) from None

    def _write_state(self, row: int, views: Views) -> None:
        if self._with_state:
            self._last_state = self._read_state()
            if views.state is not None:
                views.state[row] = self._last_state

    def _read_state(self) -> FloatArray:
        state = np.array(self.environment.state(), np.float32).ravel()
        if state.size != self.layout.spec.state_size:
            raise EnvironmentFailure(
                f"the state has {state.size} elements; it had {self.layout.spec.state_size} at first, and "
                "must keep its size"
            )
        return state


def read_observation(place: Place, observation: Any) -> Array:
    """An observation as an array of the agent's shape. Raises EnvironmentFailure where the shape is another
    one."""
    array: Array = np.asarray(observation if place.convert is None else place.convert(observation))
    if array.shape != place.shape:
        raise EnvironmentFailure(
            f"agent {place.agent} observes an array of shape {array.shape}; its space says {place.shape}"
        )
    return array


def write_mask(place: Place, given: Any, row: int, views: Views) -> None:
    """Write an action mask (an array, or one array a component) where the environment gave one; elsewhere all
    actions stay allowed."""
    target = views.masks[place.policy]
    if target is None or given is None:
        return
    mask = (
        np.concatenate([np.asarray(part).ravel() for part in given])
        if isinstance(given, tuple)
        else np.asarray(given).ravel()
    )
    if mask.size != target.shape[-1]:
        raise EnvironmentFailure(
            f"agent {place.agent} is given an action mask of {mask.size} elements; its actions need "
            f"{target.shape[-1]}"
        )
    target[row, place.column] = mask
