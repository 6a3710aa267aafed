"""PettingZoo's parallel interface: all living agents act at once.

Called by batch.py through slot.SlotAdapter. Must not know seeds, budgets, episode records or other slots.

step() is the hot path: where every agent lives on, nothing ends and there are no masks, it writes observations and rewards
and nothing else. Everything rarer goes through _settle() and _write().
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.envs.slot import INFO_MASK, NO_MASK, ONGOING, TERMINATED, TRUNCATED, Layout, Place, SlotAdapter, Views, read_observation, write_mask
from hpcmarl.errors import EnvironmentFailure


class ParallelSlot(SlotAdapter):
    """Drives one PettingZoo ParallelEnv."""

    alive_default = True

    def __init__(self, environment: Any, layout: Layout, with_state: bool) -> None:
        super().__init__(environment, layout, with_state)
        self._everyone = [place.agent for place in layout.places]
        self._masked = any(place.mask != NO_MASK for place in layout.places)
        self._live: Sequence[Place] = ()  # who acts in the coming step
        self._all_live = False
        self._observations: Mapping[Any, Any] = {}

    def begin(self, seed: int, row: int, views: Views) -> bool:
        observations, infos = self.environment.reset(seed=seed)
        self.infos = infos
        live = [self._place(agent) for agent in self.environment.agents]
        self._blank(row, views)
        self._write(live, observations, row, views)
        return bool(live)

    def step(self, actions: Sequence[Sequence[Any]], row: int, views: Views, cut: bool) -> int:
        environment = self.environment
        chosen = {place[0]: actions[place[1]][place[2]] for place in self._live}
        observations, rewards, terminated, truncated, infos = environment.step(chosen)
        self.infos = infos
        if self._all_live and not cut and environment.agents == self._everyone and not (True in terminated.values() or True in truncated.values()):
            table, obs = self.rewards, views.obs
            for agent, policy, column, shape, convert, _ in self._places:
                table[policy][column] = float(rewards[agent])
                observation = observations[agent]
                if convert is not None or observation.__class__ is not np.ndarray or observation.shape != shape:
                    observation = read_observation(self._place_of[agent], observation)
                obs[policy][row, column] = observation
            if self._masked:
                self._write_masks(self._places, observations, row, views)
            if self._with_state:
                self._write_state(row, views)
            self._observations = observations
            return ONGOING
        self._settle_rewards(rewards)
        dead = {agent for agent, value in terminated.items() if value}
        flagged = dead.union(agent for agent, value in truncated.items() if value)
        return self._settle(observations, dead, flagged, row, views, cut)

    def _settle_rewards(self, rewards: Mapping[Any, float]) -> None:
        """Those that did not act get none."""
        self._clear_rewards()
        for place in self._live:
            self.rewards[place.policy][place.column] = float(rewards.get(place.agent, 0.0))

    def _settle(self, observations: Any, dead: set[Any], flagged: set[Any], row: int, views: Views, cut: bool) -> int:
        """A step in which somebody died, joined or is absent, or in which the episode ends. dead: terminated agents; flagged: these and truncated ones."""
        listed = self.environment.agents
        coming = [self._place(agent) for agent in listed if agent not in flagged]
        survivors = []  # of the agents that acted: those that are truncated here
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
        """Write the living agents into a blank row; they act in the coming step."""
        for place in live:
            views.obs[place.policy][row, place.column] = read_observation(place, _observation_of(place, observations))
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
        raise EnvironmentFailure(f"agent {place.agent} lives and is given no observation") from None
