"""PettingZoo's turn-based interface (AEC): one row holds one agent's turn.

After each turn the adapter writes the rewards of every agent. It also writes the flags of each agent that
died in that turn, whether or not that agent acted.

A dead agent may only call step(None). The adapter takes these turns at once, so the next row is always the
turn of a living agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class TurnSlot(SlotAdapter):
    """Driver of one PettingZoo AECEnv."""

    alive_default = False

    def __init__(self, environment: Any, layout: Layout, with_state: bool) -> None:
        super().__init__(environment, layout, with_state)
        # The dictionary is replaced at each change, never modified in place.
        self._living: dict[Any, Place] = {}
        # living agents before the step
        self._before: dict[Any, Place] = {}
        self._acting: Place | None = None
        self._observations: dict[Any, Any] = {}

    def begin(self, seed: int, row: int, views: Views) -> bool:
        self._living, self._observations = {}, {}
        self.environment.reset(seed=seed)
        self.infos = self.environment.infos
        self._join()
        self._before = self._living
        self._mark_dead(row, None)
        self._blank(row, views)
        if self._living:
            self._write(row, views)
        return bool(self._living)

    def play(self, actions: Sequence[Sequence[Any]]) -> None:
        self._before = self._living
        acting = self._acting
        assert acting is not None
        self.environment.step(actions[acting.policy][acting.column])

    def settle(self, row: int, views: Views, cut: bool) -> int:
        self._final = []
        self._clear_rewards()
        self._add_rewards()
        # Copy the infos before the environment removes its dead agents.
        self.infos = dict(self.environment.infos)
        self._mark(row, views)
        self._mark_dead(row, views)
        if cut and self._living:
            for place in self._living.values():
                if place.agent in self._before:
                    views.truncated[place.policy][row, place.column] = True
                    self._final.append((place, self.environment.observe(place.agent)))
        elif self._living:
            self._clear_observations()
            self._write(row, views)
            return ONGOING
        if not self._final:
            return TERMINATED
        self._final_state = self._read_state() if self._with_state else None
        return TRUNCATED

    def living(self) -> list[tuple[Place, Any]]:
        return [(place, self._observations.get(agent)) for agent, place in self._before.items()]

    def _add_rewards(self) -> None:
        for agent, reward in self.environment.rewards.items():
            place = self._place(agent)
            self.rewards[place.policy][place.column] += float(reward)

    def _mark(self, row: int, views: Views) -> None:
        """Write the flags of agents that died, and add agents that joined."""
        environment = self.environment
        terminations, truncations, listed = (
            environment.terminations,
            environment.truncations,
            environment.agents,
        )
        nobody_died = True not in terminations.values() and True not in truncations.values()
        if (
            nobody_died
            and len(listed) == len(self._living)
            and all(agent in self._living for agent in listed)
        ):
            return
        living = {}
        for agent, place in self._living.items():
            truncated = truncations.get(agent, False)
            if terminations.get(agent, False) or (agent not in listed and not truncated):
                views.terminated[place.policy][row, place.column] = True
            elif truncated:
                views.truncated[place.policy][row, place.column] = True
                # Observe now: the environment may remove the agent later.
                self._final.append((place, environment.observe(agent)))
            else:
                living[agent] = place
        self._living = living
        self._join()

    def _join(self) -> None:
        """Add the agents that the environment lists, unless they are dead or already known to be living."""
        environment = self.environment
        terminations, truncations = environment.terminations, environment.truncations
        joined = {
            agent: self._place(agent)
            for agent in environment.agents
            if not (terminations.get(agent, False) or truncations.get(agent, False))
        }
        self._living = {**self._living, **joined}

    def _mark_dead(self, row: int, views: Views | None) -> None:
        """Take the turns of dead agents until a living agent is selected.

        Rewards that the environment gives in these turns belong to this row.

        Args:
            row: Slot to write.
            views: Arrays of the step; None at a reset, when no reward or flag is written.

        Raises:
            EnvironmentFailure: If the selected agent is neither living nor dead, or keeps its turn after
                step(None).
        """
        environment = self.environment
        for _ in range(2 * len(self._places) + 1):
            if not environment.agents:
                self._living = {}
                return
            selected = environment.agent_selection
            if selected in self._living:
                return
            if not (
                environment.terminations.get(selected, False) or environment.truncations.get(selected, False)
            ):
                raise EnvironmentFailure(
                    f"it is the turn of {selected}, which is not among the living agents "
                    f"{', '.join(map(str, self._living))}"
                )
            environment.step(None)
            if views is not None:
                self._add_rewards()
                self._mark(row, views)
        raise EnvironmentFailure(f"agent {selected} is dead and keeps its turn after step(None)")

    def _write(self, row: int, views: Views) -> None:
        """Set the observations of the living agents and write the turn of the acting agent.

        The rest of the row must be blank.
        """
        environment = self.environment
        acting = self._living[environment.agent_selection]
        observations = {}
        for agent, place in self._living.items():
            observation = environment.observe(agent)
            observations[agent] = observation
            if observation is not None:
                self.obs[place.policy][place.column] = read_observation(place, observation)
            elif place is acting:
                raise EnvironmentFailure(f"agent {agent} has the turn and no observation")
        views.alive[acting.policy][row, acting.column] = True
        if acting.mask == INFO_MASK:
            write_mask(acting, environment.infos.get(acting.agent, {}).get("action_mask"), row, views)
        elif acting.mask != NO_MASK:
            write_mask(acting, observations[acting.agent]["action_mask"], row, views)
        self._write_state(row, views)
        self._acting, self._observations = acting, observations
