"""Environment in which frozen policies play all other seats, so that one side can be trained or evaluated.

To the algorithm it looks like any other environment. Opponent-controlled agents are masked as inactive: they
are never alive.

In a game whose two sides have different policies (predators, prey), only the member's policies are visible.
In a game with one policy for all agents (connect four, simple_spread), the member has `own_seats` of the
seats. These change from episode to episode, and the opponent has the other seats. Against SELF, the member
has all seats.

The reward of an opponent's seat is the mean reward over the own seats. Algorithms with one team reward learn
from the mean over all seats. That mean is therefore the mean over the own seats, for any opponent. Rewards of
own seats are unchanged, for algorithms that learn from each agent's reward. Such algorithms read no reward of
a seat that never acts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hpcmarl.envs import BatchedEnvironment, new_frame, new_outcome
from hpcmarl.league.runtime.opponents import SELF, Opponents, Player
from hpcmarl.roles.actor.lane import join_frames, join_memories, part_of
from hpcmarl.types import (
    Array,
    BoolArray,
    Decision,
    DoubleArray,
    EnvironmentSpec,
    FinalFrame,
    FloatArray,
    Frame,
    IntArray,
    Outcome,
    PolicyFrame,
)

Score = Callable[[float, float], float]
ZERO = np.float32(0.0)


@dataclass(frozen=True)
class Sides:
    """The two sides of a game, as one of them sees it.

    Attributes:
        own: Policies of the own side.
        other: Policies of the other side; the same as `own` if one policy plays all agents.
        own_seats: Number of agents that the own side plays if one policy plays all agents.
    """

    own: tuple[str, ...]
    other: tuple[str, ...]
    own_seats: int = 1

    @property
    def symmetric(self) -> bool:
        """Whether both sides have the same policies."""
        return self.own == self.other


def side_of(spec: EnvironmentSpec, policies: Sequence[str]) -> EnvironmentSpec:
    """Return the specification of an environment restricted to some policies, as one team.

    The sum of their rewards alone is not constant.

    Args:
        spec: Specification of the whole environment.
        policies: Names of the policies.
    """
    own = tuple(spec.policy(name) for name in policies)
    return replace(spec, policies=own, teams=(tuple(policies),), constant_sum=False)


class OpponentEnv(BatchedEnvironment):
    """An environment as one side sees it; opponents from the pool play the other side.

    A side's return is the sum, over steps, of the mean reward of its agents.

    Args:
        environment: The whole environment.
        sides: The own side and the other side.
        opponents: Source of opponents and record of results.
        score: Function of the own return and the other side's return that gives the score of an episode, 0 to
            1.
        generator: Random generator for the opponents' actions.
        greedy: Whether the opponents take their most probable actions.

    Attributes:
        whole: Specification of the whole environment.
        spec: Specification of the own side.
        who: Name of the opponent in each slot; SELF: none.
        earned: Return of each side in the present episodes, shape [2, E]; own side first.
        agents: Number of agents of each side, shape [2, E].
        seats: Masks of own and other seats in symmetric games, shape [2, E, N].
    """

    def __init__(
        self,
        environment: BatchedEnvironment,
        sides: Sides,
        opponents: Opponents,
        score: Score,
        generator: np.random.Generator,
        greedy: bool = False,
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
        # Observations of the other side. With a shared policy, only `alive` is used.
        self.frame = new_frame(others, self.slots)
        self.outcome = new_outcome(others, self.slots)
        if not (sides.symmetric or environment.immediate):
            assert environment.hidden is not None
            self.frame.policies, self.outcome.policies = environment.hidden
        # Operation under way: what remains to be done when the environment has completed it.
        self._under_way: list[Callable[[], None]] = []
        # Slots whose opponents have not replied to the newest frame, and that frame.
        self._unanswered = np.zeros(self.slots, np.bool_)
        self._shown: Frame | None = None
        self.replies: dict[str, Array] = {
            policy.name: np.zeros((self.slots, len(policy.agents), *policy.action.shape), policy.action.dtype)
            for policy in others.policies
        }
        self.memory: dict[str, Array] = {}
        self.earned = np.zeros((2, self.slots))
        counts = [[sum(len(policy.agents) for policy in side.policies)] for side in (self.spec, others)]
        self.agents = np.array(counts, np.float32).repeat(self.slots, 1)
        if sides.symmetric:
            self._draw_up_seats()

    def _draw_up_seats(self) -> None:
        """Make the tables of seats of the shared policy, for the own and the other side, shape [2, N + 1, N].

        In row i, the own seats begin at seat i. In the last row, the own side has all seats.
        """
        (policy,) = self.spec.policies
        self._seats_of, seats = policy.name, len(policy.agents)
        own = np.ones((seats + 1, seats), np.bool_)
        for first in range(seats):
            own[first] = (np.arange(seats) - first) % seats < self.sides.own_seats
        self._seat_table = np.stack([own, ~own])
        self._agent_table = np.maximum(self._seat_table.sum(2), 1).astype(np.float32)
        self.seats = self._seat_table[:, [seats] * self.slots]

    # ---- interface of an environment

    @property
    def retired(self) -> Collection[int]:
        return self.environment.retired

    @property
    def immediate(self) -> bool:
        return self.environment.immediate

    def reset(self, frame: Frame) -> None:
        self.environment.reset(self._whole_frame(frame))
        self._then(lambda: self._begin(range(self.slots), frame))

    def restart_slots(self, slots: Sequence[int], frame: Frame) -> None:
        self.environment.restart_slots(slots, self._whole_frame(frame))
        self._then(lambda: self._begin(slots, frame))

    def rest_slots(self, slots: Sequence[int]) -> None:
        self.environment.rest_slots(slots)
        self._unanswered[list(slots)] = False

    def step(self, actions: Mapping[str, Array], outcome: Outcome, frame: Frame) -> None:
        if self._unanswered.any():
            self.prepare([self])
        if self.sides.symmetric:
            name = self._seats_of
            chosen, replies = actions[name], self.replies[name]
            own = self.seats[0].reshape(*self.seats.shape[1:], *[1] * (chosen.ndim - 2))
            self.environment.step({name: np.where(own, chosen, replies)}, outcome, frame)
            self._then(lambda: self._finish_step(outcome, outcome, frame))
        else:
            whole = Outcome(
                {**self.outcome.policies, **outcome.policies},
                outcome.episode_end,
                outcome.finals,
                outcome.episodes,
            )
            self.environment.step({**self.replies, **actions}, whole, self._whole_frame(frame))
            self._then(lambda: self._finish_step(whole, outcome, frame))

    def _finish_step(self, whole: Outcome, outcome: Outcome, frame: Frame) -> None:
        """Settle a step that the environment has completed.

        Args:
            whole: Outcome of the whole environment.
            outcome: Outcome as the own side sees it; the same object in symmetric games.
            frame: Observations after the step.
        """
        if self.sides.symmetric:
            self._share_reward(outcome, self._settle(outcome))
        else:
            outcome.episodes = whole.episodes
            outcome.finals = [
                FinalFrame(last.slot, {name: last.obs[name] for name in self.sides.own}, last.state)
                for last in whole.finals
            ]
            self._settle(whole)
        ended = outcome.episode_end.nonzero()[0]
        if len(ended):
            self._seat(ended.tolist())
        self._show(self._all, frame)

    def _then(self, finish: Callable[[], None]) -> None:
        """Call a function when the environment has completed its operation, at once if it has."""
        if self.environment.immediate:
            finish()
        else:
            self._under_way.append(finish)

    def poll(self) -> bool:
        if not self.environment.poll():
            return False
        if self._under_way:
            under_way, self._under_way = self._under_way, []
            for finish in under_way:
                finish()
        return True

    def state_dict(self) -> dict[str, Any]:
        return self.environment.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], frame: Frame) -> None:
        self.environment.load_state_dict(state, self._whole_frame(frame))
        self._then(lambda: self._begin(range(self.slots), frame))

    def close(self) -> None:
        self.environment.close()

    # ---- opponents and seats

    def _begin(self, slots: Sequence[int], frame: Frame) -> None:
        """Set up new episodes in these slots."""
        self._seat(slots)
        self._show(np.array(slots, np.int64), frame)

    def _seat(self, slots: Sequence[int]) -> None:
        """Draw an opponent and seats for the next episode of each of these slots."""
        for slot in slots:
            if self.drawn[slot]:
                self.opponents.give_back(self.who[slot])
            self.who[slot], self.drawn[slot] = self.opponents.draw(), True
        rows = np.array(slots, np.int64)
        self.earned[:, rows] = 0.0
        for memory in self.memory.values():
            memory[rows] = 0.0
        if self.sides.symmetric:
            seats = self.seats.shape[2]
            firsts = ((rows + self.episode_index[rows]) % seats).tolist()
            kinds = [
                seats if self.who[slot] == SELF else first for slot, first in zip(slots, firsts, strict=True)
            ]
            self.seats[:, rows] = self._seat_table[:, kinds]
            self.agents[:, rows] = self._agent_table[:, kinds]

    def _show(self, rows: IntArray, frame: Frame) -> None:
        """Mask the other side's agents for the own side, and note that the other side has to reply."""
        where = slice(None) if len(rows) == self.slots else rows
        if self.sides.symmetric:
            name = self._seats_of
            alive, theirs = frame.policies[name].alive, self.frame.policies[name].alive
            own, other = self.seats
            theirs[where] = alive[where] & other[where]
            alive[where] &= own[where]
        self._unanswered[where] = True
        self._shown = frame

    def prepare(self, environments: Sequence[OpponentEnv]) -> None:
        """Choose the opponents' actions for the next step of several environments.

        Each opponent with a turn in one of them takes one forward pass.
        """
        turns: dict[str, list[tuple[OpponentEnv, IntArray]]] = {}
        for environment in environments:
            for who, slots in environment._take_turns().items():
                turns.setdefault(who, []).append((environment, slots))
        for who, asked in turns.items():
            policy = self.opponents.policy(who)
            frames = [environment._seen_by_others(slots) for environment, slots in asked]
            memories = [environment._memory_of(policy, slots) for environment, slots in asked]
            several = len(asked) > 1
            turn = join_frames(frames) if several else frames[0]
            memory = join_memories(memories) if several else memories[0]
            decisions = policy.act(turn, memory, self.generator, self.greedy, with_logp=False)
            first = 0
            for environment, slots in asked:
                part = slice(first, first + len(slots))
                environment._take_replies(slots, part_of(decisions, part) if several else decisions)
                first += len(slots)

    def _take_turns(self) -> dict[str, IntArray]:
        """Return the slots in which each opponent has a turn and has not replied yet."""
        acting = functools.reduce(
            np.logical_or, [np.logical_or.reduce(part.alive, 1) for part in self.frame.policies.values()]
        )
        turns: dict[str, list[int]] = {}
        for slot in (acting & self._unanswered).nonzero()[0].tolist():
            turns.setdefault(self.who[slot], []).append(slot)
        self._unanswered[:] = False
        return {who: np.array(slots, np.int64) for who, slots in turns.items()}

    def _seen_by_others(self, slots: IntArray) -> Frame:
        """Return what the other side sees in some slots."""
        assert self._shown is not None
        shown = self._shown if self.sides.symmetric else self.frame
        seen = {
            name: _rows(shown.policies[name], theirs.alive, slots)
            for name, theirs in self.frame.policies.items()
        }
        return Frame(seen, None, self._shown.episode_start.take(slots))

    def _memory_of(self, policy: Player, slots: IntArray) -> dict[str, FloatArray]:
        """Return the recurrent memory of the other side in some slots."""
        if not self.memory:
            self.memory = policy.initial_memory(self.slots)
        return {name: of[slots] for name, of in self.memory.items()}

    def _take_replies(self, slots: IntArray, decisions: Mapping[str, Decision]) -> None:
        """Keep the other side's actions and memory in some slots."""
        for name, decision in decisions.items():
            self.replies[name][slots] = decision.action
            if decision.memory is not None:
                self.memory[name][slots] = decision.memory

    def _settle(self, whole: Outcome) -> FloatArray | DoubleArray:
        """Add the rewards of a step to both returns and record the episodes that have ended.

        Returns:
            Summed reward of each side in this step, shape [2, E].
        """
        totals: FloatArray | DoubleArray
        if self.sides.symmetric:
            totals = np.add.reduce(np.where(self.seats, whole.policies[self._seats_of].reward, ZERO), 2)
        else:
            totals = np.zeros((2, self.slots))
            for total, names in zip(totals, (self.sides.own, self.sides.other), strict=True):
                for name in names:
                    total += np.add.reduce(whole.policies[name].reward, 1)
        self.earned += np.divide(totals, self.agents, dtype=np.float64)
        for episode in whole.episodes:
            own, other = self.earned[:, episode.slot].tolist()
            if (who := self.who[episode.slot]) != SELF:
                score = self.score(own, other)
                self.opponents.record(who, score, own, other)
                episode.outcome = {"win": score, "other_return": other}
            episode.return_mean = own
            episode.returns = dict.fromkeys(self.sides.own, own)
        return totals

    def _share_reward(self, outcome: Outcome, totals: FloatArray | DoubleArray) -> None:
        """Give the opponent's seats the mean reward of the own seats, and clear their end of the episode."""
        part, (own, other) = outcome.policies[self._seats_of], self.seats
        np.copyto(part.reward, (totals[0] / self.agents[0])[:, None], where=other)
        part.terminated &= own
        part.truncated &= own

    # ---- frames

    def _whole_frame(self, frame: Frame) -> Frame:
        """Return a frame for the whole environment.

        It holds the caller's arrays for the own side and this object's arrays for the other side.
        """
        if self.sides.symmetric:
            return frame
        return Frame({**self.frame.policies, **frame.policies}, frame.state, frame.episode_start)


def _rows(shown: PolicyFrame, alive: BoolArray, slots: IntArray) -> PolicyFrame:
    """Return a copy of some slots of a frame, with a different `alive`.

    Args:
        shown: Frame of a policy, all slots.
        alive: Mask of the agents that are alive, all slots.
        slots: Slots to copy.
    """
    mask = None if shown.action_mask is None else shown.action_mask.take(slots, 0)
    return PolicyFrame(shown.obs.take(slots, 0), alive.take(slots, 0), mask)
