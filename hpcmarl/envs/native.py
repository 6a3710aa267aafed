"""What natively batched games in numpy have in common: seats, episodes, resting slots, frames and outcomes.

The base of matrix.py, tree.py and boards.py, called by roles/ through base.BatchedEnvironment. Must not know the games' rules, networks,
ranks or files.
Nothing can break in such games: env.step_seconds and env.restarts do not apply, and `counts` stay 0. All players end together.
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
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, Episode, FinalFrame, FloatArray, Frame, IntArray, Outcome

DRAWN = 64  # steps whose random numbers are drawn ahead for bare stepping


class NativeBatch(BatchedEnvironment):
    """E games of P players, in the order of `players`. A subclass says how they begin, go on and look, for the slots `rows` [n]."""

    def __init__(self, config: EnvConfig, spec: EnvironmentSpec, players: Sequence[str], slots: int, seeds: Seeds, *, record: bool) -> None:
        self.spec, self.slots = spec, slots
        self.counts = Counter(restarts=0, hangs=0, bad_numbers=0, quarantined=0)
        self.episode_index = np.full(slots, -1, np.int64)
        self.episode_step = np.zeros(slots, np.int64)
        self._players, self._seeds, self._record, self._limit = players, seeds, record, config.max_steps
        seats = {agent: (policy.name, column) for policy in spec.policies for column, agent in enumerate(policy.agents)}
        self._seats = [seats[player] for player in players]
        self._everywhere = np.arange(slots)
        self._resting = np.zeros(slots, np.bool_)
        self.rests_next = np.zeros(slots, np.bool_)
        self._returns = np.zeros((slots, len(players)))

    @abstractmethod
    def _begin_games(self, rows: IntArray) -> None:
        """Put new games into these slots; episode_index is that of the new episodes."""

    @abstractmethod
    def _play(self, rows: IntArray, actions: IntArray) -> tuple[Array, BoolArray]:
        """actions [n, P] -> rewards [n, P] and whether the games are over [n]. Raises EnvironmentFailure for a forbidden action."""

    @abstractmethod
    def _seen(self, rows: IntArray) -> FloatArray:
        """What the players see: float32 [n, P, *shape]."""

    @abstractmethod
    def _acting(self, rows: IntArray) -> BoolArray:
        """Who has to act: [n, P]."""

    @abstractmethod
    def _allowed(self, rows: IntArray) -> BoolArray | None:
        """What they may do, [n, P, A], all that they could where it is not their turn; None in games without masks."""

    @abstractmethod
    def _standing(self) -> dict[str, Array]:
        """Where the games stand: what _stand needs."""

    @abstractmethod
    def _stand(self, state: Mapping[str, Any]) -> None:
        """Put the games where they stood."""

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
        rows = np.flatnonzero(~self._resting) if self._resting.any() else self._everywhere
        joint = np.stack([actions[name][:, column] for name, column in self._seats], 1)
        rewards, over = np.zeros(self._returns.shape), np.zeros(self.slots, np.bool_)
        rewards[rows], over[rows] = self._play(rows, joint[rows])
        self._returns += rewards
        self.episode_step += 1
        ends = np.where(over, TERMINATED, ONGOING)
        if self._limit is not None:
            ends[~over & ~self._resting & (self.episode_step >= self._limit)] = TRUNCATED
        outcome.finals.clear()
        outcome.episodes.clear()
        outcome.episode_end[...] = ends
        terminated, truncated = ends == TERMINATED, ends == TRUNCATED
        for seat, (name, column) in enumerate(self._seats):
            told = outcome.policies[name]
            told.reward[:, column] = rewards[:, seat]
            told.terminated[:, column] = terminated
            told.truncated[:, column] = truncated
        finished = np.flatnonzero(ends)
        if finished.size:
            self._finish(finished, truncated, outcome)
        self._show(self._everywhere, frame)
        frame.episode_start[...] = ends != ONGOING

    def _finish(self, rows: IntArray, truncated: BoolArray, outcome: Outcome) -> None:
        """Tell of the episodes that ended in these rows, and begin the next ones."""
        cut = np.flatnonzero(truncated)
        for row, seen in zip(cut.tolist(), self._seen(cut) if cut.size else (), strict=True):
            obs = {policy.name: np.zeros((len(policy.agents), *policy.observation_shape), np.float32) for policy in self.spec.policies}
            for (name, column), view in zip(self._seats, seen, strict=True):
                obs[name][column] = view
            outcome.finals.append(FinalFrame(row, obs, None))
        names = [policy.name for policy in self.spec.policies]
        each = self._returns[rows]
        by_policy = [each[:, [seat for seat, (owner, _) in enumerate(self._seats) if owner == name]].mean(1).tolist() for name in names]
        told = zip(
            rows.tolist(),
            self.episode_index[rows].tolist(),
            self.episode_step[rows].tolist(),
            each.mean(1).tolist(),
            zip(*by_policy, strict=True),
            truncated[rows].tolist(),
            strict=True,
        )
        for row, index, length, mean, returns, cut_off in told:
            outcome.episodes.append(Episode(row, index, length, mean, dict(zip(names, returns, strict=True)), not cut_off))
        self._begin(rows)
        if self.rests_next.any():
            asleep = rows[self.rests_next[rows]]
            self._resting[asleep] = True
            self.episode_index[asleep] -= 1  # restart_slots begins the next episode

    def _forbid(self, rows: IntArray, players: IntArray, actions: IntArray, wrong: BoolArray) -> None:
        """Raises EnvironmentFailure for the first of the moves [n] that is wrong."""
        for number in np.flatnonzero(wrong)[:1].tolist():
            slot = self._seeds.first_slot + int(rows[number])
            name = self._players[players[number]]
            raise EnvironmentFailure(f"environment {self.spec.id} in slot {slot}: {name} took action {actions[number]}, which its mask forbids")

    def _begin(self, rows: IntArray) -> None:
        """These slots stand at the beginning of their next episode."""
        self.episode_index[rows] += 1
        self.episode_step[rows] = 0
        self._returns[rows] = 0.0
        self._begin_games(rows)

    def _show(self, rows: IntArray, frame: Frame) -> None:
        """Write what is seen before the next step into these rows; nobody acts and nothing is seen in slots that rest."""
        seen, acting, allowed = self._seen(rows), self._acting(rows), self._allowed(rows)
        asleep = np.flatnonzero(self._resting[rows])
        if asleep.size:
            seen[asleep], acting[asleep] = 0.0, False
            if allowed is not None:
                allowed[asleep] = True
        whole = len(rows) == self.slots
        for seat, (name, column) in enumerate(self._seats):
            view = frame.policies[name]
            where = slice(None) if whole else rows
            view.obs[where, column] = seen[:, seat]
            view.alive[where, column] = acting[:, seat]
            if view.action_mask is not None and allowed is not None:
                view.action_mask[where, column] = allowed[:, seat]

    def state_dict(self) -> dict[str, Any]:
        """restarts, episode [E] (-1 before the first); with record also where the games stand."""
        state: dict[str, Any] = {"restarts": 0, "episode": self.episode_index.copy()}
        if self._record:
            state |= {"games": self._standing(), "step": self.episode_step.copy(), "returns": self._returns.copy()}
        return state

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        """Stand where a recording environment stood; without a record, or with another number of slots, begin the next episodes."""
        saved = np.asarray(state["episode"], np.int64)
        same = saved.shape == (self.slots,)
        self.episode_index[:] = saved if same else saved.max(initial=-1)
        if not (self._record and same and "games" in state) or (saved < 0).any():
            self.reset(frame)
            return
        self._begin_games(self._everywhere)
        self._stand(state["games"])
        self.episode_step[:], self._returns[...] = state["step"], state["returns"]
        self._show(self._everywhere, frame)
        frame.episode_start[...] = self.episode_step == 0

    def close(self) -> None:
        """Nothing is open."""


def refuse_state(config: EnvConfig, with_state: bool) -> None:
    """Raises ConfigError where a state is wanted: these games have none."""
    if with_state:
        raise ConfigError(f"env.id {config.id} has no state(); choose algo.critic: obs or dec, or an environment that has one")


def random_steps(batch: NativeBatch, seeds: Seeds) -> Callable[[], None]:
    """A function that takes one step of all games with random, allowed actions: what training is measured against."""
    frame, outcome = new_frame(batch.spec, batch.slots), new_outcome(batch.spec, batch.slots)
    generator = np.random.default_rng(seeds.seed)
    sizes = {policy.name: (DRAWN, batch.slots, len(policy.agents), policy.action.mask_size) for policy in batch.spec.policies}
    drawn = {name: generator.random(size) for name, size in sizes.items()}
    batch.reset(frame)
    count = 0

    def take() -> None:
        nonlocal count
        actions = {}
        for name, numbers in drawn.items():
            mask = frame.policies[name].action_mask
            actions[name] = (numbers[count % DRAWN] if mask is None else numbers[count % DRAWN] * mask).argmax(-1)
        batch.step(actions, outcome, frame)
        count += 1

    return take
