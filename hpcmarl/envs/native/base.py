"""Base class of natively batched games in numpy: seats, episodes, resting slots, frames and outcomes.

These games cannot fail: `env.step_seconds` and `env.restarts` do not apply, and `counts` stay 0. All players
end together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcmarl.config import EnvConfig
from hpcmarl.envs.base import BatchedEnvironment, Seeds, new_frame, new_outcome
from hpcmarl.envs.slot import ONGOING, TERMINATED, TRUNCATED
from hpcmarl.errors import ConfigError, EnvironmentFailure
from hpcmarl.types import (
    Array,
    BoolArray,
    EnvironmentSpec,
    Episode,
    FinalFrame,
    FloatArray,
    Frame,
    IntArray,
    Outcome,
)

# steps of random numbers that are drawn in advance for bare stepping
DRAWN = 64


class NativeBatch(BatchedEnvironment):
    """E games of P players, in the order of `players`.

    A subclass implements the rules and the observations for the slots `rows` [n]. If `rows` is the object
    `_everywhere`, all slots are meant. Callers do not modify the arrays of observations that a subclass
    returns.

    Args:
        config: The environment.
        spec: Specification of the environment.
        players: Names of the players.
        slots: Number E of games.
        seeds: Source of the episodes' seeds.
        record: Save the running games in `state_dict()`.
    """

    def __init__(
        self,
        config: EnvConfig,
        spec: EnvironmentSpec,
        players: Sequence[str],
        slots: int,
        seeds: Seeds,
        *,
        record: bool,
    ) -> None:
        self.spec, self.slots = spec, slots
        self.counts = Counter(restarts=0, hangs=0, bad_numbers=0, quarantined=0)
        self.episode_index = np.full(slots, -1, np.int64)
        self.episode_step = np.zeros(slots, np.int64)
        self._players, self._seeds, self._record, self._limit = players, seeds, record, config.max_steps
        self._seats = [
            (policy.name, _selection([players.index(agent) for agent in policy.agents]))
            for policy in spec.policies
        ]
        # whether one policy has all players, in their order
        self._one_policy = self._seats == [(spec.policies[0].name, slice(0, len(players)))]
        self._everywhere, self._nowhere = np.arange(slots), np.zeros(slots, np.bool_)
        self._resting = np.zeros(slots, np.bool_)
        self.rests_next = np.zeros(slots, np.bool_)
        self._returns = np.zeros((slots, len(players)))

    @abstractmethod
    def _begin_games(self, rows: IntArray) -> None:
        """Begin new games in these slots; `episode_index` already holds the new episodes."""

    @abstractmethod
    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        """Play one step of the games in these slots.

        Args:
            rows: Slots, [n].
            actions: Actions of all players, [n, P].

        Returns:
            Rewards [n, P], and whether the games are over [n].

        Raises:
            EnvironmentFailure: If an action is forbidden.
        """

    @abstractmethod
    def _seen_by(self, rows: IntArray) -> dict[str, Array]:
        """Return the observations of each policy, [n, N, *shape] of a type that its type can hold."""

    def _state_of(self, rows: IntArray) -> FloatArray | None:
        """Return the state that belongs to the last result of `_seen_by`, [n, S].

        Returns:
            The state; None if the game has none or it was not requested.
        """
        return None

    @abstractmethod
    def _acting(self, rows: IntArray) -> BoolArray:
        """Return whether each player acts in the next step, [n, P]."""

    @abstractmethod
    def _allowed(self, rows: IntArray) -> BoolArray | None:
        """Return the allowed actions, [n, P, A].

        Returns:
            The masks; None if the game has none. A player without the turn has an all-true mask.
        """

    @abstractmethod
    def _save_games(self) -> dict[str, Array]:
        """Return the state of the games for `_restore_games`."""

    @abstractmethod
    def _restore_games(self, state: Mapping[str, Any]) -> None:
        """Restore the games from the state that `_save_games` returned."""

    def reset(self, frame: Frame) -> None:
        self.restart_slots(range(self.slots), frame)

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        rows = np.array(list(slots), np.int64)
        self._resting[rows] = False
        self._begin(rows)
        self._show(rows, frame)
        frame.episode_start[rows] = True

    def rest_slots(self, slots: Sequence[int]) -> None:
        self._resting[list(slots)] = True

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        joint = self._joint(actions)
        if np.count_nonzero(self._resting):
            rows = (~self._resting).nonzero()[0]
            rewards, over = np.zeros(self._returns.shape), np.zeros(self.slots, np.bool_)
            rewards[rows], over[rows] = self._play(rows, joint[rows])
        else:
            rewards, over = self._play(self._everywhere, joint)
        self._returns += rewards
        self.episode_step += 1
        outcome.finals.clear()
        outcome.episodes.clear()
        ends = outcome.episode_end
        ends.fill(ONGOING)
        ends[over] = TERMINATED
        truncated = self._nowhere
        if self._limit is not None:
            truncated = ~over & ~self._resting & (self.episode_step >= self._limit)
            ends[truncated] = TRUNCATED
        for name, seats in self._seats:
            own = outcome.policies[name]
            own.reward[...] = rewards[:, seats]
            own.terminated[...] = over[:, None]
            own.truncated[...] = truncated[:, None]
        finished = ends.nonzero()[0]
        if len(finished):
            self._finish(finished, truncated[finished], outcome)
        self._show(self._everywhere, frame)
        np.not_equal(ends, ONGOING, out=frame.episode_start)

    def _joint(self, actions: Mapping[str, Array]) -> Array:
        """Return the actions of all players, [E, P]."""
        if self._one_policy:
            return actions[self._seats[0][0]]
        joint = np.empty((self.slots, len(self._players)), np.int64)
        for name, seats in self._seats:
            joint[:, seats] = actions[name]
        return joint

    def _finish(self, rows: IntArray, truncated: BoolArray, outcome: Outcome) -> None:
        """Record the episodes that ended in these rows, and begin the next ones.

        Args:
            rows: Slots with an episode that ended, [n].
            truncated: Whether each of them was truncated, [n].
            outcome: Its `finals` and `episodes` are extended.
        """
        cut = rows[truncated]
        if len(cut):
            seen, state = self._seen_by(cut), self._state_of(cut)
            for number, row in enumerate(cut.tolist()):
                views = {
                    policy.name: seen[policy.name][number].astype(policy.observation_dtype)
                    for policy in self.spec.policies
                }
                outcome.finals.append(FinalFrame(row, views, None if state is None else state[number]))
        each = self._returns[rows]
        means = _means(each)
        by_policy = {
            name: means if self._one_policy else _means(each[:, seats]) for name, seats in self._seats
        }
        places = zip(
            rows.tolist(),
            self.episode_index[rows].tolist(),
            self.episode_step[rows].tolist(),
            truncated.tolist(),
            strict=True,
        )
        for number, (row, index, length, cut_off) in enumerate(places):
            returns = {name: own[number] for name, own in by_policy.items()}
            outcome.episodes.append(Episode(row, index, length, means[number], returns, not cut_off))
        if self.final_drawings is not None:
            self.final_drawings.update((row, self.drawing(row)) for row in rows.tolist())
        self._begin(rows)
        if np.count_nonzero(self.rests_next):
            asleep = rows[self.rests_next[rows]]
            self._resting[asleep] = True
            self.episode_index[asleep] -= 1  # restart_slots begins the next episode

    def _forbid(self, rows: IntArray, players: IntArray, actions: IntArray, wrong: BoolArray) -> None:
        """Raise EnvironmentFailure for the first forbidden move.

        Args:
            rows: Slots, [n].
            players: Player of each move, [n].
            actions: The moves, [n].
            wrong: Whether each move is forbidden, [n].
        """
        for number in np.flatnonzero(wrong)[:1].tolist():
            slot = self._seeds.first_slot + int(rows[number])
            name = self._players[players[number]]
            raise EnvironmentFailure(
                f"environment {self.spec.id} in slot {slot}: {name} took action {actions[number]}, which its "
                "mask forbids"
            )

    def _begin(self, rows: IntArray) -> None:
        """Begin the next episode in these slots."""
        self.episode_index[rows] += 1
        self.episode_step[rows] = 0
        self._returns[rows] = 0.0
        self._begin_games(rows)

    def _show(self, rows: IntArray, frame: Frame) -> None:
        """Write the observations before the next step into these rows.

        In resting slots observations are zero and no player acts.
        """
        seen, acting, allowed = self._seen_by(rows), self._acting(rows), self._allowed(rows)
        where = slice(None) if rows is self._everywhere else rows
        asleep = rows[self._resting[rows]] if np.count_nonzero(self._resting) else ()
        for name, seats in self._seats:
            view = frame.policies[name]
            if view.obs.dtype.names is None:
                view.obs[where] = seen[name]
            else:  # numpy copies whole records more slowly than their fields
                for key in view.obs.dtype.names:
                    view.obs[key][where] = seen[name][key]
            view.alive[where] = acting[:, seats]
            if view.action_mask is not None and allowed is not None:
                view.action_mask[where] = allowed[:, seats]
            if len(asleep):
                view.obs[asleep], view.alive[asleep] = 0.0, False
                if view.action_mask is not None:
                    view.action_mask[asleep] = True
        if frame.state is not None and (state := self._state_of(rows)) is not None:
            frame.state[where] = state
            if len(asleep):
                frame.state[asleep] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`.

        Returns:
            restarts: always 0; episode: [E], -1 before the first. With `record` also the state of the games,
            their steps and returns.
        """
        state: dict[str, Any] = {"restarts": 0, "episode": self.episode_index.copy()}
        if self._record:
            state |= {
                "games": self._save_games(),
                "step": self.episode_step.copy(),
                "returns": self._returns.copy(),
            }
        return state

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Restore the games of a recording environment.

        Without a record, or with another number of slots, the next episodes begin.
        """
        saved = np.asarray(state["episode"], np.int64)
        same = saved.shape == (self.slots,)
        self.episode_index[:] = saved if same else saved.max(initial=-1)
        if not (self._record and same and "games" in state) or (saved < 0).any():
            self.reset(frame)
            return
        self._begin_games(self._everywhere)
        self._restore_games(state["games"])
        self.episode_step[:], self._returns[...] = state["step"], state["returns"]
        self._show(self._everywhere, frame)
        frame.episode_start[...] = self.episode_step == 0

    def close(self) -> None:
        """Do nothing: no resource is open."""


def _selection(seats: list[int]) -> slice | list[int]:
    """Return an index for these seats of an array [E, P, ...].

    It is a slice, which copies nothing, if the seats are neighbours.
    """
    run = slice(seats[0], seats[-1] + 1)
    return run if seats == list(range(run.start, run.stop)) else seats


def _means(returns: Array) -> list[float]:
    """Return the mean over agents of returns [n, N], as a list of n numbers."""
    return (np.add.reduce(returns, 1) / returns.shape[1]).tolist()  # type: ignore[no-any-return]


def refuse_state(config: EnvConfig, with_state: bool) -> None:
    """Raise ConfigError if a state is required: these games have none."""
    if with_state:
        raise ConfigError(
            f"env.id {config.id} has no state(); choose algo.critic: joint_observation or independent, or an "
            "environment that has one"
        )


def random_steps(batch: NativeBatch, seeds: Seeds) -> Callable[[], None]:
    """Return a function that takes one step of all games with random, allowed actions.

    It is the baseline for training speed.
    """
    frame, outcome = new_frame(batch.spec, batch.slots), new_outcome(batch.spec, batch.slots)
    generator = np.random.default_rng(seeds.seed)
    sizes = {
        policy.name: (DRAWN, batch.slots, len(policy.agents), policy.action.mask_size)
        for policy in batch.spec.policies
    }
    drawn = {name: generator.random(size) for name, size in sizes.items()}
    batch.reset(frame)
    count = 0

    def take() -> None:
        nonlocal count
        actions = {}
        for name, numbers in drawn.items():
            mask = frame.policies[name].action_mask
            actions[name] = (
                numbers[count % DRAWN] if mask is None else numbers[count % DRAWN] * mask
            ).argmax(-1)
        batch.step(actions, outcome, frame)
        count += 1

    return take


class OneShapeBatch(NativeBatch):
    """A batch of games whose players all have observations of one shape and type."""

    @abstractmethod
    def _seen(self, rows: IntArray) -> Array:
        """Return the observations of all players, [n, P, *shape]."""

    def _seen_by(self, rows: IntArray) -> dict[str, Array]:
        seen = self._seen(rows)
        return {name: seen[:, seats] for name, seats in self._seats}
