"""One environment slot: the base class of the adapters, and the tables that they use.

An adapter drives one environment and writes one row of the batch's arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.envs.observations import MisfitError, ObservationView
from hpcmarl.errors import EnvironmentFailure
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Frame, Outcome, PolicySpec

NO_MASK, OBSERVATION_MASK, INFO_MASK = 0, 1, 2
ONGOING, TERMINATED, TRUNCATED = 0, 1, 2
WIN_KEYS = ("win", "won", "battle_won")


class Place(NamedTuple):
    """Position of an agent in the arrays, and the way its observations are read.

    Attributes:
        agent: Agent as the environment names it.
        policy: Number of its policy.
        column: Column of the agent in that policy.
        view: How its observations are read.
        dtype: Type of its observations for the policy; structured for records.
        mask: Source of its action masks: NO_MASK, OBSERVATION_MASK or INFO_MASK.
    """

    agent: Any
    policy: int
    column: int
    view: ObservationView
    dtype: np.dtype[Any]
    mask: int


@dataclass(frozen=True)
class Layout:
    """Description that all slots of an environment share.

    Attributes:
        spec: Specification of the environment.
        places: Position of each agent.
        prepare: For each policy, the function that converts actions to the environment's form.
        common_reward: Whether all agents share one reward in each step, including agents that have left the
            episode.
    """

    spec: EnvironmentSpec
    places: tuple[Place, ...]
    prepare: tuple[Callable[[Array], list[list[Any]]], ...]
    common_reward: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the policies."""
        return tuple(policy.name for policy in self.spec.policies)

    def in_order_of(self, spec: EnvironmentSpec) -> Layout:
        """Return the layout with the entries of records in the order of another specification.

        A Dict space may list its keys in another order in each process.

        Args:
            spec: Specification that other ranks use. Policies that it lacks stay as they are.

        Raises:
            EnvironmentFailure: If a policy has other observations there.
        """
        others = {policy.name: policy for policy in spec.policies}
        policies = []
        for policy in self.spec.policies:
            other = others.get(policy.name, policy)
            if _observed(policy) != _observed(other):
                raise EnvironmentFailure(
                    f"environment {self.spec.id}: policy {policy.name} observes {policy.observation_dtype} "
                    f"{policy.observation_shape} in this process, but {other.observation_dtype} "
                    f"{other.observation_shape} in another one; its spaces must not depend on the process"
                )
            policies.append(replace(policy, observation_parts=other.observation_parts))
        places = tuple(
            place._replace(dtype=policies[place.policy].observation_dtype) for place in self.places
        )
        return replace(self, spec=replace(self.spec, policies=tuple(policies)), places=places)


def _observed(policy: PolicySpec) -> tuple[Any, ...]:
    parts = sorted((part.key, part.shape, part.dtype) for part in policy.observation_parts)
    return policy.observation_shape, policy.observation_type, parts


class Views:
    """Arrays of a frame and an outcome by policy number.

    Building them once in a step saves the look-ups in each slot.
    """

    __slots__ = ("alive", "episode_start", "masks", "obs", "state", "terminated", "truncated")

    def __init__(self, names: Sequence[str], frame: Frame, outcome: Outcome | None = None) -> None:
        frames = [frame.policies[name] for name in names]
        self.obs: list[Array] = [policy.obs for policy in frames]
        self.alive: list[BoolArray] = [policy.alive for policy in frames]
        self.masks: list[BoolArray | None] = [policy.action_mask for policy in frames]
        self.state = frame.state
        self.episode_start = frame.episode_start
        outcomes = [] if outcome is None else [outcome.policies[name] for name in names]
        self.terminated: list[BoolArray] = [policy.terminated for policy in outcomes]
        self.truncated: list[BoolArray] = [policy.truncated for policy in outcomes]


class SlotAdapter(ABC):
    """Driver of one environment.

    The batch copies `rewards` and `obs` for all slots at once. The adapter writes everything else into its
    row. Before `settle()` the batch sets alive to `alive_default`, masks to true and flags to false in all
    rows.

    Attributes:
        alive_default: Initial value of alive in each row.
        environment: The environment; the batch replaces it after a failure.
        rewards: Rewards of the last step, [policy][column].
        obs: Observations after the last step, [policy][column].
        infos: Last infos, by agent.
    """

    alive_default: bool

    def __init__(self, environment: Any, layout: Layout, with_state: bool) -> None:
        self.environment = environment
        self.layout = layout
        self.rewards = [[0.0] * len(policy.agents) for policy in layout.spec.policies]
        self._nothing = [
            np.zeros(policy.observation_shape, policy.observation_dtype) for policy in layout.spec.policies
        ]
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
        """Reset the environment, set `obs` and write the row, except episode_start.

        Args:
            seed: Seed of the episode.
            row: Slot to write.
            views: Arrays to write.

        Returns:
            False if the episode has no agents.
        """

    @abstractmethod
    def play(self, actions: Sequence[Sequence[Any]]) -> None:
        """Step the environment.

        The method must do nothing else. Otherwise a slot's long step would push the bookkeeping of the other
        slots out of the processor's caches.

        Args:
            actions: Actions in the environment's form, [policy][column].
        """

    @abstractmethod
    def settle(self, row: int, views: Views, cut: bool) -> int:
        """Write the results of `play()`, and the row of the next frame if the episode continues.

        Args:
            row: Slot to write.
            views: Arrays to write.
            cut: Truncate all living agents after this step.

        Returns:
            ONGOING, TERMINATED or TRUNCATED.
        """

    @abstractmethod
    def living(self) -> list[tuple[Place, Any]]:
        """Return the agents that lived before the failed step, with their last valid observations."""

    def abort(self, row: int, views: Views) -> int:
        """Make the failed step the truncated end of the episode.

        The step has no rewards, and the final observations are the last valid ones.

        Args:
            row: Slot to write.
            views: Arrays to write.

        Returns:
            TRUNCATED.
        """
        self._clear_rewards()
        for terminated, truncated in zip(views.terminated, views.truncated, strict=True):
            terminated[row] = truncated[row] = False
        self._final, self._final_state, self.infos = self.living(), self._last_state, {}
        for place, _ in self._final:
            views.truncated[place.policy][row, place.column] = True
        return TRUNCATED

    def final(self) -> tuple[dict[str, Array], FloatArray | None]:
        """Return the observations and the state at the end of a truncated episode.

        Returns:
            Observations by policy, [N, *observation_shape], zeros for agents that died; and the state [S] or
            None.
        """
        arrays = [
            np.zeros((len(policy.agents), *policy.observation_shape), policy.observation_dtype)
            for policy in self.layout.spec.policies
        ]
        for place, observation in self._final:
            # The environment failed before this agent had an observation.
            if observation is None:
                continue
            arrays[place.policy][place.column] = read_observation(place, observation)
        return dict(zip(self.layout.names, arrays, strict=True)), self._final_state

    def _blank(self, row: int, views: Views) -> None:
        """Clear a row: no agent alive, zero observations, every action allowed."""
        self._clear_observations()
        for alive, mask in zip(views.alive, views.masks, strict=True):
            alive[row] = False
            if mask is not None:
                mask[row] = True

    def win(self) -> dict[str, float]:
        """Return {"win": 1.0 or 0.0} if the last infos have a key of WIN_KEYS, otherwise {}."""
        for info in self.infos.values():
            if not info or not isinstance(info, Mapping):
                continue
            for key in WIN_KEYS:
                if key in info:
                    return {"win": float(bool(info[key]))}
        return {}

    def rest(self, row: int, views: Views) -> None:
        """Clear the row of a resting or quarantined slot: no agent acts, and observations are zero."""
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
                f"the state has {state.size} elements; allowed: {self.layout.spec.state_size}, its size at "
                "the first reset"
            )
        return state


def read_observation(place: Place, observation: Any) -> Array:
    """Return an observation as an array for the agent's policy (ObservationView.read).

    Raises:
        EnvironmentFailure: If the observation does not fit its space.
    """
    try:
        return place.view.read(observation, place.dtype)
    except MisfitError as error:
        raise EnvironmentFailure(f"agent {place.agent} observes {error}") from None


def write_mask(place: Place, given: Any, row: int, views: Views) -> None:
    """Write an action mask into a row. Without a mask, all actions stay allowed.

    Args:
        place: Position of the agent.
        given: Mask from the environment: an array, a tuple with an array for each component, or None.
        row: Slot to write.
        views: Arrays to write.

    Raises:
        EnvironmentFailure: If the mask has the wrong size.
    """
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
