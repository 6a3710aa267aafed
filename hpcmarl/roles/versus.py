"""A game of which one side is to be learned: frozen policies play the rest, inside what looks like any other environment.

Made for the actors of a league's teams and for evaluation matches (roles/league_client.py). To the algorithm, agents that others play are
agents that are not there: never alive. Knows no rank and no file.

Two sides of different policies (predators, prey): the member's policies are all that is shown. One policy for everybody (connect four,
simple_spread): in every episode the member has `own_seats` of the seats, others from episode to episode, its opponent has the rest; against SELF it
has all of them.

The reward of a seat that the opponent plays is the mean over the own seats. So the mean over all seats, which algorithms with one reward for the
team learn from, is the mean over the own seats, whoever is met. The own seats' rewards stay as they are for algorithms that learn from each
agent's own, which read none of a seat that never acts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpcmarl.envs import BatchedEnvironment, new_frame, new_outcome
from hpcmarl.roles.opponents import SELF, Opponents
from hpcmarl.types import Array, BoolArray, EnvironmentSpec, FloatArray, Frame, Outcome, PolicyFrame

Score = Callable[[float, float], float]


@dataclass(frozen=True)
class Sides:
    """own, other: the policies of the two sides; equal where one policy plays everybody. own_seats: of the agents, in that case."""

    own: tuple[str, ...]
    other: tuple[str, ...]
    own_seats: int = 1

    @property
    def symmetric(self) -> bool:
        return self.own == self.other


def side_of(spec: EnvironmentSpec, policies: Sequence[str]) -> EnvironmentSpec:
    """The environment as those see it who play these policies, as one team. Their rewards alone have no constant sum."""
    own = tuple(spec.policy(name) for name in policies)
    return replace(spec, policies=own, teams=(tuple(policies),), constant_sum=False)


class Versus(BatchedEnvironment):
    """`environment` shown from one side. score(own return, other's return): what an episode counts, 0 to 1; a side's return is the sum over steps
    of the mean over its agents of the reward. greedy: the others take their most probable actions."""

    def __init__(
        self, environment: BatchedEnvironment, sides: Sides, opponents: Opponents, score: Score, generator: np.random.Generator, greedy: bool = False
    ) -> None:
        self.environment, self.sides, self.opponents, self.score = environment, sides, opponents, score
        self.generator, self.greedy = generator, greedy
        self.whole, self.spec = environment.spec, side_of(environment.spec, sides.own)
        self.slots, self.counts = environment.slots, environment.counts
        self.episode_index, self.episode_step = environment.episode_index, environment.episode_step
        self.rests_next = environment.rests_next
        self._all = np.arange(self.slots)
        self.who = [SELF] * self.slots
        self.drawn = [False] * self.slots
        others = side_of(self.whole, sides.other)
        self.frame = new_frame(others, self.slots)  # what the other side sees; of a shared policy only `alive`
        self.outcome = new_outcome(others, self.slots)
        self.own = {policy.name: np.ones((self.slots, len(policy.agents)), np.bool_) for policy in self.spec.policies}  # seats
        self.replies: dict[str, Array] = {
            policy.name: np.zeros((self.slots, len(policy.agents), *policy.action.shape), policy.action.dtype) for policy in others.policies
        }
        self.memory: dict[str, Array] = {}
        self.earned = np.zeros((self.slots, 2))

    # ---- the interface of an environment

    @property
    def retired(self) -> Collection[int]:
        return self.environment.retired

    def reset(self, frame: Frame) -> None:
        self.environment.reset(self._whole_frame(frame))
        self._begin(range(self.slots), frame)

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        self.environment.restart_slots(slots, self._whole_frame(frame))
        self._begin(slots, frame)

    def rest_slots(self, slots: Sequence[int]) -> None:
        self.environment.rest_slots(slots)

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        merged = {**self.replies, **actions}
        if self.sides.symmetric:
            for name, own in self.own.items():
                chosen = own.reshape(*own.shape, *[1] * (actions[name].ndim - 2))
                merged[name] = np.where(chosen, actions[name], self.replies[name])
        whole = outcome if self.sides.symmetric else replace(outcome, policies={**self.outcome.policies, **outcome.policies})
        self.environment.step(merged, whole, self._whole_frame(frame))
        outcome.episodes = whole.episodes
        outcome.finals = [replace(final, obs={name: final.obs[name] for name in self.sides.own}) for final in whole.finals]
        self._settle(whole)
        if self.sides.symmetric:
            for name, own in self.own.items():
                part = outcome.policies[name]
                part.reward[...] = np.where(own, part.reward, _mean_over(own, part.reward))
                part.terminated &= own
                part.truncated &= own
        ended = np.flatnonzero(outcome.episode_end)
        if len(ended):
            self._seat(ended.tolist())
        self._show(self._all, frame)

    def state_dict(self) -> dict[str, Any]:
        return self.environment.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        self.environment.load_state_dict(state, self._whole_frame(frame))
        self._begin(range(self.slots), frame)

    def close(self) -> None:
        self.environment.close()

    # ---- who plays

    def _begin(self, slots: Sequence[int], frame: Frame) -> None:
        """New episodes have begun in these slots."""
        self._seat(slots)
        self._show(np.array(slots, np.int64), frame)

    def _seat(self, slots: Sequence[int]) -> None:
        """Draw an opponent for the coming episode of each slot, and seats."""
        for slot in slots:
            if self.drawn[slot]:
                self.opponents.give_back(self.who[slot])
            self.who[slot], self.drawn[slot] = self.opponents.draw(), True
        rows = np.array(slots, np.int64)
        self.earned[rows] = 0.0
        for memory in self.memory.values():
            memory[rows] = 0.0
        if self.sides.symmetric:
            (own,) = self.own.values()
            first = rows + self.episode_index[rows]
            own[rows] = np.array([self.who[slot] == SELF for slot in slots], np.bool_)[:, None]
            for seat in range(self.sides.own_seats):
                own[rows, (first + seat) % own.shape[1]] = True

    def _show(self, rows: Array, frame: Frame) -> None:
        """Let the other side reply to what these slots show, and hide it from the own side."""
        if self.sides.symmetric:
            for name, own in self.own.items():
                alive = frame.policies[name].alive
                self.frame.policies[name].alive[rows] = alive[rows] & ~own[rows]
                alive[rows] &= own[rows]
        self._reply(rows, self._other_frame(frame))

    def _reply(self, rows: Array, seen: Frame) -> None:
        """The others' actions for the coming step, one forward pass for each of them that has a turn."""
        acting = np.zeros(self.slots, np.bool_)
        for part in seen.policies.values():
            acting |= part.alive.any(axis=1)
        turns: dict[str, list[int]] = {}
        for slot in rows[acting[rows]].tolist():
            turns.setdefault(self.who[slot], []).append(slot)
        for who, chosen in turns.items():
            policy = self.opponents.policy(who)
            if not self.memory:
                self.memory = policy.initial_memory(self.slots)
            turn = Frame({name: _rows(of, chosen) for name, of in seen.policies.items()}, None, seen.episode_start[chosen])
            memory = {name: of[chosen] for name, of in self.memory.items()}
            for name, decision in policy.act(turn, memory, self.generator, self.greedy).items():
                self.replies[name][chosen] = decision.action
                if decision.memory is not None:
                    self.memory[name][chosen] = decision.memory

    def _settle(self, whole: Outcome) -> None:
        """Add up both sides' rewards; tell of the episodes that are over."""
        for place, names in enumerate((self.sides.own, self.sides.other)):
            total, agents = np.zeros(self.slots), np.zeros(self.slots)
            for name in names:
                reward = whole.policies[name].reward
                seats: BoolArray = np.ones(reward.shape, np.bool_)
                if self.sides.symmetric:
                    seats = self.own[name] if place == 0 else ~self.own[name]
                total += (reward * seats).sum(axis=1)
                agents += seats.sum(axis=1)
            self.earned[:, place] += total / np.maximum(agents, 1)
        for episode in whole.episodes:
            own, other = self.earned[episode.slot].tolist()
            if (who := self.who[episode.slot]) != SELF:
                score = self.score(own, other)
                self.opponents.record(who, score, own, other)
                episode.outcome = {"win": score, "other_return": other}
            episode.return_mean = own
            episode.returns = dict.fromkeys(self.sides.own, own)

    # ---- frames

    def _whole_frame(self, frame: Frame) -> Frame:
        """A frame for the environment: the caller's arrays for the own side, ours for the other."""
        return frame if self.sides.symmetric else replace(frame, policies={**self.frame.policies, **frame.policies})

    def _other_frame(self, frame: Frame) -> Frame:
        if not self.sides.symmetric:
            return replace(frame, policies=self.frame.policies)
        shared = {name: replace(part, alive=self.frame.policies[name].alive) for name, part in frame.policies.items()}
        return replace(frame, policies=shared)


def _mean_over(seats: BoolArray, reward: FloatArray) -> FloatArray:
    """Mean reward over some seats of each slot, at least one: [E, N] and [E, N] -> [E, 1]."""
    total: FloatArray = np.where(seats, reward, np.float32(0.0)).sum(axis=1, keepdims=True)
    mean: FloatArray = total / seats.sum(axis=1, keepdims=True).astype(np.float32)
    return mean


def _rows(frame: PolicyFrame, slots: list[int]) -> PolicyFrame:
    """Some slots of a frame (copied)."""
    mask = None if frame.action_mask is None else frame.action_mask[slots]
    alive: BoolArray = frame.alive[slots]
    return PolicyFrame(frame.obs[slots], alive, mask)
