"""PettingZoo's parallel interface: all living agents act at once.

`settle()` is the hot path. If every agent stays alive, it writes observations and rewards and little else.
Rarer cases go through `_settle_change()` and `_write()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from hpcmarl.envs.adapters.cycles import Step, step_of
from hpcmarl.envs.slot import (
    INFO_MASK,
    NO_MASK,
    ONGOING,
    TERMINATED,
    TRUNCATED,
    Layout,
    Place,
    SlotAdapter,
    Views,
    read_observation,
    write_mask,
)
from hpcmarl.errors import EnvironmentFailure


class Members(NamedTuple):
    """Agents of one policy in the order of their columns.

    Attributes:
        agents: Agents as the environment names them.
        pick: Function that reads the entries of all these agents from a mapping by agent, in one call if
            there are several.
        shape: Shape of one agent's observation.
        plain: Whether observations are arrays of that shape that need no conversion.
        dtype: Type that these arrays must have; None: any, since numbers of all types become float32.
    """

    agents: list[Any]
    pick: Callable[[Mapping[Any, Any]], Sequence[Any]]
    shape: tuple[int, ...]
    plain: bool
    dtype: np.dtype[Any] | None


class ParallelSlot(SlotAdapter):
    """Driver of one PettingZoo ParallelEnv."""

    alive_default = True

    def __init__(self, environment: Any, layout: Layout, with_state: bool) -> None:
        super().__init__(environment, layout, with_state)
        self._everyone = [place.agent for place in layout.places]
        self._one_policy = len(layout.spec.policies) == 1
        self._members = [self._members_of(number) for number in range(len(layout.spec.policies))]
        self._masked = any(place.mask != NO_MASK for place in layout.places)
        # agents that act in the next step
        self._live: Sequence[Place] = ()
        self._all_live = False
        self._observations: Mapping[Any, Any] = {}
        self._result: Any = ()
        self._step: Step = environment.step

    def _members_of(self, number: int) -> Members:
        places = sorted(
            (place for place in self._places if place.policy == number), key=lambda place: place.column
        )
        agents = [place.agent for place in places]
        pick = itemgetter(*agents) if len(agents) > 1 else lambda by_agent: (by_agent[agents[0]],)
        view, dtype = places[0].view, places[0].dtype
        plain = all(place.view.plain for place in places)
        return Members(agents, pick, view.shape, plain, None if dtype == np.float32 else dtype)

    def begin(self, seed: int, row: int, views: Views) -> bool:
        observations, infos = self.environment.reset(seed=seed)
        # The environment may have been replaced since the last episode.
        self._step = step_of(self.environment)
        self.infos = infos
        live = [self._place(agent) for agent in self.environment.agents]
        self._blank(row, views)
        self._write(live, observations, row, views)
        return bool(live)

    def play(self, actions: Sequence[Sequence[Any]]) -> None:
        if self._all_live and self._one_policy:
            # Both sequences have the same length by construction.
            chosen = dict(zip(self._everyone, actions[0]))  # noqa: B905
        else:
            chosen = {place.agent: actions[place.policy][place.column] for place in self._live}
        self._result = self._step(chosen)

    def settle(self, row: int, views: Views, cut: bool) -> int:
        observations, rewards, terminated, truncated, self.infos = self._result
        nobody_ends = not cut and True not in terminated.values() and True not in truncated.values()
        if self._all_live and nobody_ends and self.environment.agents == self._everyone:
            for number, (agents, pick, shape, plain, dtype) in enumerate(self._members):
                self.rewards[number] = list(map(float, pick(rewards)))
                seen = pick(observations)
                for observation in seen:
                    if (
                        not plain
                        or observation.__class__ is not np.ndarray
                        or observation.shape != shape
                        or (dtype is not None and observation.dtype != dtype)
                    ):
                        seen = [
                            read_observation(self._place_of[agent], observations[agent]) for agent in agents
                        ]
                        break
                self.obs[number][:] = seen
            if self._masked:
                self._write_masks(self._places, observations, row, views)
            if self._with_state:
                self._write_state(row, views)
            self._observations = observations
            return ONGOING
        self._settle_rewards(rewards)
        dead = {agent for agent, value in terminated.items() if value}
        flagged = dead.union(agent for agent, value in truncated.items() if value)
        return self._settle_change(observations, dead, flagged, row, views, cut)

    def _settle_rewards(self, rewards: Mapping[Any, float]) -> None:
        """Set the rewards of the step.

        An agent that did not act gets no reward. If all agents share one reward, every agent gets that
        reward.
        """
        self._clear_rewards()
        common = 0.0
        for place in self._live:
            common = self.rewards[place.policy][place.column] = float(rewards.get(place.agent, 0.0))
        if self.layout.common_reward and not self._all_live:
            acting = {place.agent for place in self._live}
            for place in self._places:
                if place.agent not in acting:
                    self.rewards[place.policy][place.column] = common

    def _settle_change(
        self, observations: Any, dead: set[Any], flagged: set[Any], row: int, views: Views, cut: bool
    ) -> int:
        """Settle a step in which an agent died, joined or is absent, or in which the episode ends.

        Args:
            observations: Observations by agent.
            dead: Terminated agents.
            flagged: Terminated and truncated agents.
            row: Slot to write.
            views: Arrays of the step.
            cut: Whether the episode ends at this step because of `env.max_steps`.

        Returns:
            ONGOING, TERMINATED or TRUNCATED.
        """
        listed = self.environment.agents
        coming = [self._place(agent) for agent in listed if agent not in flagged]
        # agents that acted and are truncated in this step
        survivors = []
        ends = cut or not coming
        for place in self._live:
            agent, policy, column = place[:3]
            if agent in dead or (agent not in flagged and agent not in listed):
                views.terminated[policy][row, column] = True
            elif cut or agent in flagged:
                views.truncated[policy][row, column] = True
                survivors.append(place)
        if not ends:
            self._blank(row, views)
            self._write(coming, observations, row, views)
            return ONGOING
        if not survivors:
            return TERMINATED
        self._final = [(place, _observation_of(place, observations)) for place in survivors]
        self._final_state = self._read_state() if self._with_state else None
        return TRUNCATED

    def living(self) -> list[tuple[Place, Any]]:
        return [(place, self._observations[place.agent]) for place in self._live]

    def _write(self, live: list[Place], observations: Any, row: int, views: Views) -> None:
        """Write the living agents into a blank row; they act in the next step."""
        for place in live:
            self.obs[place.policy][place.column] = read_observation(
                place, _observation_of(place, observations)
            )
            views.alive[place.policy][row, place.column] = True
        self._write_masks(live, observations, row, views)
        if live:
            self._write_state(row, views)
        self._live = self._places if len(live) == len(self._places) else live
        self._all_live = len(live) == len(self._places)
        self._observations = observations

    def _write_masks(self, live: Sequence[Place], observations: Any, row: int, views: Views) -> None:
        for place in live:
            if place.mask == INFO_MASK:
                write_mask(place, self.infos.get(place.agent, {}).get("action_mask"), row, views)
            elif place.mask != NO_MASK:
                write_mask(place, observations[place.agent]["action_mask"], row, views)


def _observation_of(place: Place, observations: Any) -> Any:
    try:
        return observations[place.agent]
    except KeyError:
        raise EnvironmentFailure(f"agent {place.agent} is alive and has no observation") from None
