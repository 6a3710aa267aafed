"""Episodes played side by side for the simulator, one per slot, each kept as its own rollout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpcmarl.config import EnvConfig, PolicyConfig
from hpcmarl.envs import Seeds, make_environment, new_frame, new_outcome
from hpcmarl.types import (
    Array,
    Decision,
    EnvironmentSpec,
    Episode,
    FinalFrame,
    FloatArray,
    Frame,
    PolicyFrame,
    PolicyOutcome,
    PolicyRollout,
    Rollout,
)

Memory = dict[str, FloatArray]
Act = Callable[[Frame, Memory], dict[str, Decision]]
FRAME = ("obs", "alive", "action_mask")
OUTCOME = ("reward", "terminated", "truncated")


class Playground:
    """Slots of one environment that are stepped together.

    Construction raises the errors of `make_environment`.

    Args:
        environment: Configuration of the environment.
        policies: Configured policies.
        spec: Description of the environment and its policies.
        slots: Number of slots.
        seeds: Seeds of the slots.
    """

    def __init__(
        self,
        environment: EnvConfig,
        policies: dict[str, PolicyConfig],
        spec: EnvironmentSpec,
        slots: int,
        seeds: Seeds,
    ) -> None:
        self.slots = slots
        self.environment = make_environment(environment, policies, slots, seeds, spec=spec)
        self._frames = [new_frame(self.environment.spec, slots) for _ in range(2)]
        self._outcome = new_outcome(self.environment.spec, slots)

    def play(self, count: int, act: Act, memory: Memory) -> list[Rollout]:
        """Play one episode in each of the first `count` slots; a slot that has finished its episode rests.

        Args:
            count: Number of episodes, at most `slots`.
            act: Returns the decisions for a frame and the memories.
            memory: Initial memories by policy; empty for policies without memory.

        Returns:
            One rollout with E = 1 per episode, in the order of the slots; `logp` is 0 if `act` does not
            return it.
        """
        environment, outcome = self.environment, self._outcome
        frame, following = self._frames
        environment.rest_slots(range(count, self.slots))
        for seen in frame.policies.values():
            seen.alive[count:] = False
        environment.restart_slots(range(count), frame)
        begun = dict(memory)
        columns = {name: _Columns() for name in frame.policies}
        begin, finished, finals = [0] * count, dict[int, tuple[int, Episode]](), dict[int, FinalFrame]()
        row = 0
        while len(finished) < count:
            decisions = act(frame, memory)
            memory |= {
                name: decision.memory for name, decision in decisions.items() if decision.memory is not None
            }
            for name, kept in columns.items():
                kept.add_frame(frame.policies[name], decisions[name])
            environment.step(
                {name: decision.action for name, decision in decisions.items()}, outcome, following
            )
            row += 1
            for name, kept in columns.items():
                kept.add_outcome(outcome.policies[name])
            for final in outcome.finals:
                finals[final.slot] = final
            for slot in outcome.episode_end.nonzero()[0].tolist():
                episode = next((episode for episode in outcome.episodes if episode.slot == slot), None)
                # without a record the environment failed: its steps are dropped and the slot starts over
                if episode is None:
                    begin[slot] = row
                else:
                    finished[slot] = row, episode
                    environment.rest_slots([slot])
            frame, following = following, frame
        for name, kept in columns.items():
            kept.add_frame(frame.policies[name], None)
        arrays = {name: kept.arrays() for name, kept in columns.items()}
        return [
            _rollout(arrays, begin[slot], *finished[slot], finals.get(slot), begun) for slot in range(count)
        ]

    def close(self) -> None:
        """Close the environments."""
        self.environment.close()


class _Columns:
    """Observations, actions and outcomes of one policy, collected step by step."""

    def __init__(self) -> None:
        self._obs: list[Array] = []
        self._alive: list[Array] = []
        self._masks: list[Array] = []
        self._actions: list[Array] = []
        self._logp: list[Array | None] = []
        self._outcomes: list[tuple[Array, Array, Array]] = []

    def add_frame(self, frame: PolicyFrame, decision: Decision | None) -> None:
        self._obs.append(frame.obs.copy())
        self._alive.append(frame.alive.copy())
        if frame.action_mask is not None:
            self._masks.append(frame.action_mask.copy())
        if decision is not None:
            self._actions.append(decision.action)
            self._logp.append(decision.logp)

    def add_outcome(self, outcome: PolicyOutcome) -> None:
        self._outcomes.append((outcome.reward.copy(), outcome.terminated.copy(), outcome.truncated.copy()))

    def arrays(self) -> dict[str, Array]:
        """Return the columns, [T, E, ...]; those in FRAME have shape [T + 1, E, ...]."""
        seen = {"obs": np.array(self._obs), "alive": np.array(self._alive)} | (
            {"action_mask": np.array(self._masks)} if self._masks else {}
        )
        outcomes = (np.array(column) for column in zip(*self._outcomes, strict=True))
        columns = seen | {"action": np.array(self._actions)} | dict(zip(OUTCOME, outcomes, strict=True))
        logps = [
            np.zeros_like(reward) if logp is None else logp
            for logp, reward in zip(self._logp, columns["reward"], strict=True)
        ]
        return columns | {"logp": np.array(logps, np.float32)}


def _rollout(
    arrays: dict[str, dict[str, Array]],
    begin: int,
    end: int,
    episode: Episode,
    final: FinalFrame | None,
    begun: Memory,
) -> Rollout:
    slot, steps = slice(episode.slot, episode.slot + 1), end - begin
    cut = final is not None and not episode.terminated
    policies = {}
    for name, columns in arrays.items():
        own = {column: array[begin : end + (column in FRAME), slot] for column, array in columns.items()}
        last = (
            np.array(final.obs[name])[None]
            if final is not None and cut
            else np.zeros((0, *own["obs"].shape[2:]), own["obs"].dtype)
        )
        policies[name] = PolicyRollout(
            **own, final_obs=last, memory=begun[name][slot] if name in begun else None
        )
    start, ends = np.zeros((steps + 1, 1), np.bool_), np.zeros((steps, 1), np.uint8)
    start[0], ends[-1] = True, 1 if episode.terminated else 2
    return Rollout(
        policies=policies,
        episode_start=start,
        episode_end=ends,
        final_index=np.array([[steps - 1, 0]] if cut else np.zeros((0, 2)), np.int32),
        first_step=np.zeros(1, np.int64),
        episode=np.array([episode.index], np.int64),
        slots=np.array([episode.slot], np.int64),
        workers=np.full(1, -1, np.int32),
        version=0,
        actor=0,
        episodes=[episode],
    )
