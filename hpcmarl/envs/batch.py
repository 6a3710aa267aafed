"""Batched environment that drives one PettingZoo or Gymnasium environment in each slot.

It assigns the seeds, keeps the records of episodes, applies the restart budget and resumes exactly. An
adapter (`slot.SlotAdapter`) drives each environment.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs.base import BatchedEnvironment, Seeds, episode_seed, new_outcome
from hpcmarl.envs.batch_arrays import (
    collect_observations,
    collect_rewards,
    copy_observations,
    prefill,
    stuck_agents,
)
from hpcmarl.envs.drawing import Drawing
from hpcmarl.envs.nonfinite import find_nonfinite, make_finite
from hpcmarl.envs.resolve import Source
from hpcmarl.envs.slot import TERMINATED, TRUNCATED, Layout, SlotAdapter, Views
from hpcmarl.envs.supervision import EnvSupervisor
from hpcmarl.errors import ConfigError, EnvironmentFailure
from hpcmarl.types import Array, Episode, FinalFrame, Frame, Outcome

logger = logging.getLogger(__name__)
# consecutive episodes that may begin without agents
EMPTY_RESETS = 5


class SlotBatch(BatchedEnvironment):
    """E slots, each with its own environment and adapter.

    Args:
        config: The environment.
        source: Factory of environments, from `resolve()`.
        layout: Spaces and agents that all slots share, from `probe()`.
        slots: Number E of slots.
        seeds: Source of the episodes' seeds.
        adapter: Adapter class as module:class, a value of `envs.KINDS`.
        record: Keep the actions of unfinished episodes for `state_dict()`.
        with_state: Write `env.state()` into frames that have room for it.
        skip_bad_numbers: End episodes with non-finite observations or rewards instead of raising.

    Raises:
        ConfigError: If a state is required and the environment has none.
    """

    def __init__(
        self,
        config: EnvConfig,
        source: Source,
        layout: Layout,
        slots: int,
        seeds: Seeds,
        *,
        adapter: str,
        record: bool = False,
        with_state: bool = False,
        skip_bad_numbers: bool = False,
    ) -> None:
        if with_state and layout.spec.state_size is None:
            raise ConfigError(
                f"env.id {source.id} has no state(); choose algo.critic: joint_observation or independent, "
                "or an environment that has one"
            )
        module, _, name = adapter.partition(":")
        cls: Callable[[Any, Layout, bool], SlotAdapter] = getattr(importlib.import_module(module), name)
        self.spec, self.slots = layout.spec, slots
        self.episode_index = np.full(slots, -1, np.int64)
        self.episode_step = np.zeros(slots, np.int64)
        self.rests_next = np.zeros(slots, np.bool_)
        self._config, self._source, self._layout, self._seeds = config, source, layout, seeds
        self._record, self._skip_bad_numbers = record, skip_bad_numbers
        self._supervisor = EnvSupervisor(config, source, slots, self._where)
        self.counts = self._supervisor.counts
        self._names, self._sizes = layout.names, [len(policy.agents) for policy in layout.spec.policies]
        self._adapters: list[SlotAdapter] = []
        self._returns = np.zeros((slots, len(self._names)))
        self._uncut = [False] * slots
        self._recorded: list[list[list[Array]]] = [[] for _ in range(slots)]  # [slot][step][policy]
        try:
            for _ in range(slots):
                self._adapters.append(cls(source.build(), layout, with_state))
        except BaseException:
            self.close()
            raise

    @property
    def retired(self) -> Collection[int]:
        return self._supervisor.retired

    def reset(self, frame: Frame) -> None:
        self.restart_slots(range(self.slots), frame)

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        views = Views(self._names, frame)
        self._supervisor.resting.difference_update(slots)
        for row in slots:
            if row not in self._supervisor.retired:
                self._begin(row, views)
            copy_observations(self._adapters[row], row, views)
        self._handle_nonfinite(None, views)
        self._check_masks(views)

    def rest_slots(self, slots: Sequence[int]) -> None:
        self._supervisor.resting.update(slots)

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        views = Views(self._names, frame, outcome)
        prefill(views, outcome, self._adapters[0].alive_default)
        prepared = [
            prepare(actions[name]) for prepare, name in zip(self._layout.prepare, self._names, strict=True)
        ]
        idle = self._supervisor.idle
        broken = self._play(prepared, idle)
        ended = self._settle(views, idle, broken)
        for row, problem in collect_rewards(self._adapters, self._layout, outcome, self._returns):
            raise EnvironmentFailure(f"environment {self._where(row)} {problem}")
        if self._record:
            for row in set(range(self.slots)) - idle:
                self._recorded[row].append([np.array(actions[name][row]) for name in self._names])
        self.episode_step += 1
        for row, end in ended:
            outcome.episode_end[row] = end
            self._finish(row, end, row in broken, outcome)
            self._begin_next_or_rest(row, views)
        collect_observations(self._adapters, views)
        self._handle_nonfinite(outcome, views)
        self._check_masks(views)

    def _play(self, prepared: list[list[list[Any]]], idle: set[int]) -> set[int]:
        """Step every environment, and consume one restart for each failure.

        Args:
            prepared: Actions of each policy in the form of the environment, [policy][slot][agent].
            idle: Slots that are not stepped.

        Returns:
            Slots whose environment raised.
        """
        broken, limit = set(), self._supervisor.limit
        limited = limit.seconds is not None
        for row, adapter, actions in zip(
            range(self.slots), self._adapters, zip(*prepared, strict=True), strict=True
        ):
            if row in idle:
                continue
            try:
                if limited:
                    limit.start()
                adapter.play(actions)
            except Exception as error:
                limit.stop()
                self._supervisor.consume_restart(row, error, self._step_of(row))
                broken.add(row)
        limit.stop()
        return broken

    def _settle(self, views: Views, idle: set[int], broken: set[int]) -> list[tuple[int, int]]:
        """Write the results of the step.

        Args:
            views: Arrays of the step.
            idle: Slots that were not stepped.
            broken: Slots whose environment failed; slots that fail here are added.

        Returns:
            (row, TERMINATED or TRUNCATED) of each episode that ended.
        """
        ended, last = [], self._config.max_steps
        cuts = (self.episode_step + 1 >= last).tolist() if last else self._uncut
        for row, adapter, cut in zip(range(self.slots), self._adapters, cuts, strict=True):
            if row in idle and row not in broken:
                adapter.rest(row, views)
                continue
            try:
                end = adapter.settle(row, views, cut) if row not in broken else adapter.abort(row, views)
            except EnvironmentFailure as error:
                raise self._supervisor.contract_error(row, error) from error
            except Exception as error:
                self._supervisor.consume_restart(row, error, self._step_of(row))
                broken.add(row)
                end = adapter.abort(row, views)
            if end:
                ended.append((row, end))
        return ended

    def _finish(self, row: int, end: int, crashed: bool, outcome: Outcome) -> None:
        """Record the episode that ended in this row, and replace a broken environment.

        Args:
            row: The slot.
            end: TERMINATED or TRUNCATED.
            crashed: Whether the environment failed; then no `Episode` is recorded.
            outcome: Its `finals` and `episodes` are extended.
        """
        adapter = self._adapters[row]
        if end == TRUNCATED:
            try:
                obs, state = adapter.final()
            except Exception as error:
                raise self._supervisor.contract_error(row, error) from error
            outcome.finals.append(FinalFrame(row, obs, state))
        if crashed:
            adapter.environment = self._supervisor.rebuild(row, adapter.environment)
            return
        self._supervisor.proved(row)
        returns = self._returns[row].tolist()
        outcome.episodes.append(
            Episode(
                slot=row,
                index=int(self.episode_index[row]),
                length=int(self.episode_step[row]),
                return_mean=sum(returns) / sum(self._sizes),
                returns={
                    name: total / size
                    for name, total, size in zip(self._names, returns, self._sizes, strict=True)
                },
                terminated=end == TERMINATED,
                outcome=adapter.win(),
            )
        )

    def _begin_next_or_rest(self, row: int, views: Views) -> None:
        """Begin the slot's next episode, or rest, after an episode ended."""
        if not self.rests_next[row]:
            self._begin(row, views)
            return
        if self.final_drawings is not None:
            self.final_drawings[row] = self.drawing(row)
        self._supervisor.resting.add(row)
        self._clear_records(row)
        self._adapters[row].rest(row, views)
        views.episode_start[row] = True

    def _begin(self, row: int, views: Views) -> None:
        """Begin the slot's next episode.

        A failed reset consumes a restart. An episode that begins without agents is skipped.

        Raises:
            EnvironmentFailure: If the restart budget allows no further failure, or EMPTY_RESETS resets leave
                no agents.
        """
        empty = 0
        while row not in self._supervisor.retired:
            self.episode_index[row] += 1
            self._clear_records(row)
            try:
                with self._supervisor.limit.around():
                    lives = self._adapters[row].begin(self._seed(row), row, views)
                if lives:
                    break
                empty += 1
            except EnvironmentFailure as error:
                raise self._supervisor.contract_error(row, error) from error
            except Exception as error:
                self._supervisor.consume_restart(row, error)
                self._adapters[row].environment = self._supervisor.rebuild(
                    row, self._adapters[row].environment
                )
            if empty == EMPTY_RESETS:
                raise EnvironmentFailure(
                    f"environment {self._where(row)}: {EMPTY_RESETS} resets left no agents; a reset must "
                    "fill env.agents"
                )
        if row in self._supervisor.retired:
            self._adapters[row].rest(row, views)
        views.episode_start[row] = True

    def _handle_nonfinite(self, outcome: Outcome | None, views: Views) -> None:
        """Handle non-finite observations and rewards.

        With `skip_bad_numbers` the episode is cut off at this step and the slot continues in a new
        environment.

        Args:
            outcome: Results of the step; None after a reset.
            views: Arrays of the step.

        Raises:
            EnvironmentFailure: If such episodes must not be skipped, or new episodes are non-finite too.
        """
        for attempt in range(EMPTY_RESETS + 1):
            found = find_nonfinite(self.spec, outcome, views)
            for row, agent, what in found:
                problem = f"environment {self._where(row)}: agent {agent} {what}"
                if not self._skip_bad_numbers:
                    raise EnvironmentFailure(
                        f"{problem}; set faults.on_nan: skip to end such episodes and continue"
                    )
                if attempt == EMPTY_RESETS:
                    raise EnvironmentFailure(f"{problem}, also after {EMPTY_RESETS} resets")
                logger.warning("%s; the episode is truncated at this step", problem)
            if not found:
                return
            for row in {row for row, _, _ in found}:
                self.counts["bad_numbers"] += 1
                self._cut_off(row, outcome, views)

    def _cut_off(self, row: int, outcome: Outcome | None, views: Views) -> None:
        """Truncate the episode at the last step, and continue in a new environment.

        Zeros replace the non-finite numbers of that step.
        """
        adapter = self._adapters[row]
        if outcome is not None:
            if not outcome.episode_end[row]:
                outcome.episode_end[row] = adapter.abort(row, views)
                outcome.finals.append(FinalFrame(row, *adapter.final()))
            outcome.episodes[:] = [
                episode
                for episode in outcome.episodes
                if episode.slot != row or np.isfinite(episode.return_mean)
            ]
            make_finite(row, outcome)
        adapter.environment = self._supervisor.rebuild(row, adapter.environment)
        if outcome is None:
            self._begin(row, views)
        else:
            self._begin_next_or_rest(row, views)
        copy_observations(adapter, row, views)

    def drawing(self, slot: int) -> Drawing | None:
        """Return the picture that the environment renders; None if it was made without rgb_array."""
        picture = self._adapters[slot].environment.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[-1] not in (3, 4):
            return None
        return np.ascontiguousarray(picture[..., :3], np.uint8)

    def _clear_records(self, row: int) -> None:
        """Reset the counters and records of the slot's episode."""
        self.episode_step[row] = 0
        self._returns[row] = 0.0
        self._recorded[row] = []

    def _seed(self, row: int) -> int:
        return episode_seed(self._seeds.seed, self._seeds.first_slot + row, int(self.episode_index[row]))

    def _step_of(self, row: int) -> int:
        """Return the number of the step that is being played, from 1."""
        return int(self.episode_step[row]) + 1

    def _where(self, row: int) -> str:
        slot = self._seeds.first_slot + row
        return (
            f"{self.spec.id} in slot {slot} (seed {self._seed(row)}, episode {self.episode_index[row]}, "
            f"step {self.episode_step[row]})"
        )

    def _check_masks(self, views: Views) -> None:
        for row, agent in stuck_agents(self.spec, views):
            raise EnvironmentFailure(
                f"environment {self._where(row)} forbids agent {agent} every action; a mask must allow at "
                "least one"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`.

        Returns:
            restarts: number of restarts; episode: int64 [E], the current episode of each slot, -1 before the
            first. With `record` also actions: the actions of each slot since its reset.
        """
        state: dict[str, Any] = {"restarts": self.counts["restarts"], "episode": self.episode_index.copy()}
        if self._record:
            state["actions"] = {str(row): self._actions(row) for row in range(self.slots)}
        return state

    def _actions(self, row: int) -> dict[str, Array]:
        """Return the recorded actions of a slot by policy, each [steps, N, *action.shape]."""
        steps = self._recorded[row]
        actions = {}
        for number, policy in enumerate(self.spec.policies):
            empty = np.zeros((0, len(policy.agents), *policy.action.shape), policy.action.dtype)
            actions[policy.name] = np.stack([step[number] for step in steps]) if steps else empty
        return actions

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Replay the recorded actions of each slot; without a record, begin the next episodes.

        If the number of slots has changed, all slots begin after the latest saved episode, so that no episode
        is played twice.

        Args:
            state: Result of `state_dict()`.
            frame: Observations before the next step; overwritten.

        Raises:
            EnvironmentFailure: If a replay ends early or raises, because the environment is not
                deterministic.
        """
        saved = np.asarray(state["episode"], np.int64)
        same = saved.shape == (self.slots,)
        self.counts["restarts"] = int(state["restarts"])
        self.episode_index[:] = saved if same else saved.max(initial=-1)
        if not (self._record and same and "actions" in state):
            self.reset(frame)
            return
        views = Views(self._names, frame, new_outcome(self.spec, self.slots))
        for row in range(self.slots):
            if saved[row] < 0:
                self._begin(row, views)
            else:
                self._replay(row, state["actions"][str(row)], views)
            copy_observations(self._adapters[row], row, views)

    def _replay(self, row: int, actions: Mapping[str, Array], views: Views) -> None:
        """Restore one slot's unfinished episode by playing its recorded actions.

        Args:
            row: The slot.
            actions: Actions of each policy since the reset, [steps, N, *action.shape].
            views: Arrays to write.

        Raises:
            EnvironmentFailure: If the environment raises or the episode ends.
        """
        adapter = self._adapters[row]
        self._clear_records(row)
        prepared = [
            prepare(np.asarray(actions[name]))
            for prepare, name in zip(self._layout.prepare, self._names, strict=True)
        ]
        alive = True
        try:
            alive = adapter.begin(self._seed(row), row, views)
            for step in range(len(prepared[0])):
                for rows, masks in zip(views.alive, views.masks, strict=True):
                    rows[row] = adapter.alive_default
                    if masks is not None:
                        masks[row] = True
                if alive:
                    adapter.play([batch[step] for batch in prepared])
                if not alive or adapter.settle(row, views, False):
                    alive = False
                    break
                self.episode_step[row] += 1
                self._recorded[row].append([np.array(actions[name][step]) for name in self._names])
                self._returns[row] += [sum(rewards) for rewards in adapter.rewards]
        except Exception as error:
            raise EnvironmentFailure(
                f"environment {self._where(row)} raised in a replay: {type(error).__name__}: {error}"
            ) from error
        if not alive:
            raise EnvironmentFailure(
                f"environment {self._where(row)} ended in the replay of an unfinished episode; exact resume "
                "needs an environment that is determined by seed and actions"
            )
        views.episode_start[row] = self.episode_step[row] == 0

    def close(self) -> None:
        for adapter in self._adapters:
            with contextlib.suppress(Exception):
                adapter.environment.close()
